//! WebSocket (RFC 6455), server side and client side, without I/O.
//!
//! `parse_request` and `write_response` are the server's handshake, `write_request` and
//! `parse_response` the client's. After it, `Inbound::next` takes one frame at a time off the
//! received bytes, and the `put_` functions write frames. Extensions are never negotiated.

mod handshake;
mod mask;
mod read;
mod write;

pub use handshake::{
    Accept, HandshakeError, Request, SUBPROTOCOL, parse_request, parse_response, write_refusal,
    write_request, write_response,
};
pub use mask::apply_mask;
pub(crate) use read::server_frame_bytes;
pub use read::{Inbound, Incoming, Role, WsError};
pub use write::{
    SERVER_HEADER_BYTES_MAX, put_close, put_frame, put_header_server, put_masked, put_ping,
    put_pong, server_header,
};

/// What a WebSocket frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Goes on with the message that an earlier frame began.
    Continuation = 0,
    /// Begins a text message.
    Text = 1,
    /// Begins a binary message.
    Binary = 2,
    /// Ends the connection.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    /// Control frames may come between the fragments of a message.
    pub fn is_control(self) -> bool {
        match self {
            Self::Continuation | Self::Text | Self::Binary => false,
            Self::Close | Self::Ping | Self::Pong => true,
        }
    }

    fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Continuation),
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            8 => Some(Self::Close),
            9 => Some(Self::Ping),
            10 => Some(Self::Pong),
            _ => None,
        }
    }
}

/// The first byte: this is the last frame of its message.
const FIN: u8 = 0x80;
/// The first byte: bits that only extensions may set.
const RESERVED: u8 = 0x70;
/// The second byte: a masking key follows the length.
const MASKED: u8 = 0x80;
/// The second byte: the length is in the next two bytes.
const LENGTH_IN_2: u8 = 126;
/// The second byte: the length is in the next eight bytes.
const LENGTH_IN_8: u8 = 127;
/// A close frame without a code is reported with this one, which never travels.
const NO_CLOSE_CODE: u16 = 1005;
