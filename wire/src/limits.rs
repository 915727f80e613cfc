//! Every capacity of the protocol, by name. A peer that exceeds one is told which.

use crate::frame::FRAME_HEADER_BYTES;

/// The protocol version spoken by this crate. Peers with another major version are refused.
pub const PROTOCOL_VERSION: u16 = 1;

/// Largest payload of a message for clients.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024;
/// Room for the fixed fields in front of a payload.
pub const MESSAGE_HEAD_BYTES_MAX: usize = 128;
/// Largest body of a frame that a client may send.
pub const CLIENT_BODY_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + MESSAGE_HEAD_BYTES_MAX;
/// Largest body of a frame that the gateway sends to a client.
pub const SERVER_BODY_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + MESSAGE_HEAD_BYTES_MAX;
/// Largest body of a frame on the upstream socket, either way.
pub const UPSTREAM_BODY_BYTES_MAX: usize = 64 * 1024;
/// Users named by one multicast publish.
pub const MULTICAST_USERS_MAX: usize = 4096;
/// Longest token.
pub const TOKEN_BYTES_MAX: usize = 2048;
/// Longest of the other texts (names, groups, close texts, addresses).
pub const TEXT_BYTES_MAX: usize = 256;
/// Resume cursors in one HELLO.
pub const RESUME_CURSORS_MAX: usize = 64;
/// Addresses in one REDIRECT.
pub const REDIRECT_ADDRESSES_MAX: usize = 4;
/// Channels in one SUBSCRIBE.
pub const SUBSCRIBE_CHANNELS_MAX: usize = 256;
/// Replies in one REPLIES frame.
pub const REPLIES_MAX: usize = 4096;
/// Messages in one page of the history.
pub const HISTORY_PAGE_MAX: usize = 1000;
/// Largest HTTP request head of a WebSocket handshake.
pub const WS_HANDSHAKE_BYTES_MAX: usize = 8 * 1024;
/// Headers in a WebSocket handshake.
pub const WS_HANDSHAKE_HEADERS_MAX: usize = 64;
/// Largest payload of a WebSocket control frame (RFC 6455 section 5.5).
pub const WS_CONTROL_BYTES_MAX: usize = 125;
/// Largest WebSocket message from a client: several frames of ours fit.
pub const WS_MESSAGE_BYTES_MAX: usize = 64 * 1024;

const _: () = assert!(
    crate::server::PAST_OVERHEAD_BYTES - FRAME_HEADER_BYTES <= MESSAGE_HEAD_BYTES_MAX,
    "a message of the history, which has the most fixed fields, fits one frame"
);
const _: () = assert!(HISTORY_PAGE_MAX <= u16::MAX as usize, "a request can ask for a whole page");
const _: () = assert!(TOKEN_BYTES_MAX + MESSAGE_HEAD_BYTES_MAX < CLIENT_BODY_BYTES_MAX);
const _: () = assert!(
    PAYLOAD_BYTES_MAX + MESSAGE_HEAD_BYTES_MAX + MULTICAST_USERS_MAX * 8 <= UPSTREAM_BODY_BYTES_MAX,
    "the largest multicast with the largest payload is one upstream frame"
);
const _: () = assert!(
    REPLIES_MAX * crate::upstream::PUBLISH_REPLY_BYTES + 2 <= UPSTREAM_BODY_BYTES_MAX,
    "the largest batch of replies is one frame"
);
const _: () = assert!(
    CLIENT_BODY_BYTES_MAX + FRAME_HEADER_BYTES <= WS_MESSAGE_BYTES_MAX,
    "the largest client frame fits one WebSocket message"
);
