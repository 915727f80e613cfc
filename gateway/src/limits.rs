//! Every capacity of the gateway, by name, and the memory that they add up to.

use std::time::Duration;

use barrage_router::{COMBOS_MAX, HistoryLimits, INBOX_WINDOW_BYTES_MAX, STATE_KEYS_MAX};
use barrage_sys::{RECEIVES_MAX, RingConfig};
use barrage_wire::limits::{CLIENT_BODY_BYTES_MAX, SERVER_BODY_BYTES_MAX, UPSTREAM_BODY_BYTES_MAX};
use barrage_wire::server::CLASSES;
use barrage_wire::ws::SERVER_HEADER_BYTES_MAX;
use barrage_wire::{FRAME_HEADER_BYTES, limits::WS_MESSAGE_BYTES_MAX};

/// Shards of one gateway.
pub const SHARDS_MAX: usize = 256;
/// Client connections of all shards together, unless configured.
pub const CONNECTIONS_DEFAULT: u32 = 2_000_000;
/// Connections of services that one shard may hold, beside those of clients.
pub const SERVICES_PER_SHARD_MAX: u32 = 512;
/// Clients that a shard takes over its limit only to tell them that it is full; more are cut off.
pub const CLIENTS_REFUSED_MAX: u32 = 1024;
/// The same of services.
pub const SERVICES_REFUSED_MAX: u32 = 128;
/// Slots of those that are cut off, until they are free again, and of accepts in flight.
pub const SLOTS_CHANGING_MAX: u32 = 512;
/// Slots of a shard beside those for clients that are served.
pub const CONNECTIONS_SPARE: u32 =
    SERVICES_PER_SHARD_MAX + CLIENTS_REFUSED_MAX + SERVICES_REFUSED_MAX + SLOTS_CHANGING_MAX;
/// Connections that one user may have; one more replaces the oldest. What is done for a user, such as
/// each of its messages, is done for all of them at once.
pub const CONNECTIONS_PER_USER_MAX: usize = 1024;
/// Rooms that one connection may be a member of.
pub const ROOMS_PER_CONNECTION_MAX: usize = 64;
/// Bits of a room's alias that number the rooms of one home.
pub const ALIAS_ROOM_BITS: u32 = 22;
/// Rooms that one shard is home to.
pub const ROOMS_PER_HOME_MAX: usize = (1 << ALIAS_ROOM_BITS) - 2;
/// Of those, rooms of one app: it leaves others their share.
pub const ROOMS_PER_APP_SHARE: usize = 2;
/// Rooms looked at for one that nobody is in, when there is no place for another.
pub const ROOMS_SEARCHED_MAX: usize = 256;
/// Aliases that are free before one is given again: what a client still says to a room that it has
/// left is not to reach another one.
pub const ALIASES_FREE_MIN: usize = 65_536;
/// Counts by which one home makes rooms' epochs differ.
pub const EPOCH_COUNTS: usize = 4096;
/// Frames that a client may send in one second, unless configured.
pub const CLIENT_FRAMES_PER_SECOND_DEFAULT: u32 = 1000;
/// Publishes that an upstream may have unanswered.
pub const UPSTREAM_CREDITS: u32 = 16_384;
/// Upstream subscribers of the whole gateway.
pub const SUBSCRIBERS_MAX: usize = 1024;
/// Uplinks that an upstream may have unanswered; more are answered `Overloaded`.
pub const UPLINKS_OPEN_MAX: usize = 16_384;
/// How long an upstream has to answer an uplink before the client is told `NoAnswer`.
pub const UPLINK_ANSWER_MAX: Duration = Duration::from_secs(30);
/// Missed messages that may wait for a client that has resumed.
pub const MISSED_FRAMES_MAX: usize = ROOMS_PER_CONNECTION_MAX * RESUME_FRAMES_MAX;
/// Messages that a resume brings from disk; who has missed more is reset, and pages.
pub const RESUME_FRAMES_MAX: usize = 16_384;
/// Bytes of them.
pub const RESUME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Seconds for which the disk knows that there was a message of a category that is kept in memory.
pub const MARKS_KEPT_S: u64 = 24 * 3600;
/// Seconds for which messages are kept whose category the policy has no longer.
pub const REMOVED_KEPT_S: u64 = 30 * 24 * 3600;
/// How long a device whose record was on disk counts at least after a start: it may have been
/// connected all the time, and its record is as old as what it has ACKed last.
pub const DEVICE_GRACE_MS: u64 = 24 * 3600 * 1000;
/// How long somebody who comes back waits at most for the disk before it is told to try again.
pub const RESUME_WAIT_MAX: Duration = Duration::from_secs(20);
/// Bytes that may wait for one client as they are in the history.
pub const LATER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Users of a list that one home takes at a time.
pub const USERS_PER_PART_MAX: usize = 128;
/// What handing a message to one user costs beside its bytes, as bytes.
pub const USER_WORK_BYTES: usize = 256;
/// Bytes copied for users in one step before more mail of that kind waits for the next.
pub const STEP_WORK_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that the rooms of one home remember. Over it a room forgets what it has said before when
/// it says something: who comes back then is caught up from disk, or reset.
pub const HISTORIES_BYTES_MAX: usize = 1 << 30;
/// Members for whom one shard asks the disk at once what they have missed.
pub const RESUMES_AT_ONCE_MAX: usize = 64;
/// Members who wait for their turn.
pub const RESUMES_WAITING_MAX: usize = 1 << 20;
/// Pages of history that one shard loads at once.
pub const PAGES_AT_ONCE_MAX: usize = 64;
/// Pages whose turn comes; who asks for more is told to ask again.
pub const PAGES_WAITING_MAX: usize = 65_536;
/// Bytes of one page of history.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// What a shard may hand to the disk before it is written: frames, notes and loads.
pub const HISTORY_QUEUE_MAX: usize = 65_536;
/// Of those, what is left for rooms that say at once what they have kept back, when nothing more is
/// admitted.
pub const HISTORY_QUEUE_RESERVE: usize = COMBOS_MAX + STATE_KEYS_MAX + 1;
/// Bytes of messages that were written or read lately and are kept for those who come back.
pub const HISTORY_CACHE_BYTES: usize = 64 * 1024 * 1024;
/// Rooms that are not in memory and go on where they were, per home.
pub const ROOMS_KNOWN_MAX: usize = 1 << ALIAS_ROOM_BITS;
/// Users whose inboxes one home shard keeps.
pub const INBOXES_MAX: usize = 1_000_000;
/// Bytes of all of them; over it, messages for inboxes are refused.
pub const INBOXES_BYTES_MAX: usize = 1 << 30;
/// Bytes that a message in an inbox takes at most beside its payload.
pub const INBOX_MESSAGE_BYTES: usize = 256;
/// Inboxes that repeat in one step what was not ACKed.
pub const INBOXES_DUE_MAX: usize = 1024;
/// Users whose quota one shard counts at any time.
pub const QUOTA_USERS_MAX: usize = 65_536;
/// Idempotency keys that one home shard remembers.
pub const IDEMPOTENCY_KEYS_MAX: usize = 65_536;

/// A client that has said nothing for this long is asked to ping.
pub const HEARTBEAT: Duration = Duration::from_secs(120);
/// A client that has said nothing for this long is closed: two heartbeats, and some slack.
pub const IDLE_MAX: Duration = Duration::from_secs(270);
/// From accept to HELLO, the WebSocket handshake included.
pub const HELLO_MAX: Duration = Duration::from_secs(10);
/// From a frame's first byte to its last.
pub const FRAME_MAX: Duration = Duration::from_secs(10);
/// A send that has moved nothing for this long ends the connection.
pub const SEND_STALL_MAX: Duration = Duration::from_secs(30);
/// How long the peer has to close after our last frame.
pub const LINGER_MAX: Duration = Duration::from_secs(2);
/// How long a drain waits for walks to end before it says goodbye.
pub const DRAIN_WALKS_MAX: Duration = Duration::from_secs(3);
/// How long a drain may take before what is left is cut.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// A shard that has not turned for this long is stuck: its work is done in pieces of a millisecond or
/// two.
pub const TURN_LATE_MIN: Duration = Duration::from_secs(2);
/// How long the gateway, when it is told to end, waits for a shard that is stuck.
pub const STUCK_END_MAX: Duration = DRAIN_MAX.saturating_add(TURN_LATE_MIN);
/// Questions for its numbers that wait for one shard; who asks more gets the others' only.
pub const LOOKS_MAX: usize = 16;

/// From the connect of a request to the control plane to the last byte of its answer.
pub const CONTROL_REQUEST_MAX: Duration = Duration::from_secs(5);
/// Requests to the control plane at once; for one more the oldest gives way.
pub const CONTROL_REQUESTS_MAX: u64 = 64;
/// Of all descriptors, what these may take: the history has to open its files.
pub const CONTROL_DESCRIPTORS_SHARE: u64 = 8;

/// Bytes that may wait for one client outside of room logs.
pub const CLIENT_OUTBOX_BYTES_MAX: usize = 256 * 1024;
/// Bytes that may wait for one upstream.
pub const UPSTREAM_OUTBOX_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of a room log's pieces: the first one of a quiet room, and those of a busy one.
pub const PIECE_BYTES_SMALL: usize = 4 * 1024;
/// See `PIECE_BYTES_SMALL`.
pub const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that a shard keeps for reuse.
pub const PIECES_POOLED_MAX: usize = 256;
/// Bytes of one room's log per transport; who is further behind loses what may be dropped.
pub const LOG_WINDOW_BYTES: usize = 1024 * 1024;
/// Bytes that a room may be given during one walk. Over it, the shard takes nothing in until the
/// walk has been to everybody: a burst must not push those who keep up out of the window.
pub const FLOOD_BYTES: usize = LOG_WINDOW_BYTES / 4;
/// Bytes of all room logs of a shard; over it, a log keeps only its newest piece.
pub const LOGS_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Messages behind the window whose class is still known, so that a shed count is exact.
pub const LOG_CLASSES_MAX: usize = 65_536;
/// Bytes of never-drop frames that a room log keeps for members behind the window.
pub const LOG_KEPT_BYTES_MAX: usize = 256 * 1024;
/// Bytes of one send. More would only wait in the socket, where it cannot be shed any more.
pub const SEND_BYTES_MAX: usize = PIECE_BYTES;
/// What a walk costs, in nanoseconds of a core as they were measured: a send, whatever it carries
/// (ten bytes of it cost one more), and a look at a member.
pub const WORK_PER_SEND: u32 = 3_400;
/// See `WORK_PER_SEND`.
pub const WORK_PER_VISIT: u32 = 50;
/// Walking done in one step: 64 small sends, before the network is heard again.
pub const STEP_WALK_WORK: u32 = 64 * WORK_PER_SEND;
/// Of that, what the walks of each class have for themselves while they wait: half of it for rooms
/// that begin, half for those that go on. The rest is for the most urgent.
pub const GUARANTEED_WORK: [u32; CLASSES] =
    [16 * WORK_PER_SEND, 16 * WORK_PER_SEND, 8 * WORK_PER_SEND, 8 * WORK_PER_SEND];
/// How far a room is walked before it stands in line with those whose walks are long.
pub const FIRST_WALK_WORK: u32 = 16 * WORK_PER_SEND;
/// How far one of those is walked before the next.
pub const LONG_WALK_WORK: u32 = 64 * WORK_PER_SEND;
/// Rooms that say in one step what they have kept back.
pub const ROOMS_DUE_MAX: usize = 1024;
/// What connections are served of their own in one step, counted as walks are.
pub const STEP_READY_WORK: u32 = 64 * WORK_PER_SEND;

/// What a room remembers in memory.
pub const HISTORY: HistoryLimits = HistoryLimits { frames_max: 256, bytes_max: 256 * 1024 };

/// Mail in one queue between two shards.
pub const MAIL_QUEUE_MAX: usize = 16_384;
/// Mail taken from one shard before the next gets its turn.
pub const MAIL_BATCH: usize = 1024;
/// Mail that waits for a full queue before new messages for that shard are refused.
pub const MAIL_SPILL_MAX: usize = 16_384;

/// A shard's clock for time-outs.
pub const TICK: Duration = Duration::from_millis(100);

const _: () = assert!(
    SERVER_BODY_BYTES_MAX + FRAME_HEADER_BYTES + SERVER_HEADER_BYTES_MAX <= PIECE_BYTES,
    "one piece holds the largest frame"
);
const _: () = assert!(
    SEND_BYTES_MAX / FRAME_HEADER_BYTES < u16::MAX as usize,
    "the frames of one send are counted in two bytes"
);
const _: () = assert!(HISTORY_QUEUE_RESERVE < HISTORY_QUEUE_MAX / 2);
const _: () = assert!(
    INBOX_WINDOW_BYTES_MAX <= CLIENT_OUTBOX_BYTES_MAX,
    "what an inbox sends ahead of its ACKs fits the outbox"
);
const _: () = assert!(2 * PIECE_BYTES <= LOG_WINDOW_BYTES, "a window is more than one piece");
const _: () = assert!(
    LOG_KEPT_BYTES_MAX <= CLIENT_OUTBOX_BYTES_MAX,
    "what a log keeps for a slow reader fits its outbox"
);
const _: () = assert!(CLIENT_BODY_BYTES_MAX + FRAME_HEADER_BYTES <= INPUT_BYTES_MAX);
const _: () = assert!(UPSTREAM_BODY_BYTES_MAX + FRAME_HEADER_BYTES <= INPUT_BYTES_MAX);
const _: () = assert!(
    FLOOD_BYTES + 2 * RECEIVES_MAX * RECV_BUFFER_BYTES + 2 * PIECE_BYTES <= LOG_WINDOW_BYTES,
    "what one step takes in after the flood mark fits the window"
);
const _: () = assert!(SHARDS_MAX <= 1 << (32 - ALIAS_ROOM_BITS), "an alias names its home");
const _: () = assert!(
    TURN_LATE_MIN.as_secs() < CONTROL_REQUEST_MAX.as_secs(),
    "a page says which shards do not answer"
);
const _: () = assert!(HEARTBEAT.as_secs() * 2 < IDLE_MAX.as_secs());

/// Bytes of an unfinished frame, WebSocket framing included.
pub const INPUT_BYTES_MAX: usize = WS_MESSAGE_BYTES_MAX + 1024 + RECV_BUFFER_BYTES;
/// Bytes that one receive brings at most.
pub const RECV_BUFFER_BYTES: usize = 2048;

/// Requests to the control plane at once under `open_files`, the limit in force.
pub fn control_requests_max(open_files: u64) -> usize {
    (open_files / CONTROL_DESCRIPTORS_SHARE).clamp(1, CONTROL_REQUESTS_MAX) as usize
}

/// The data rings of one shard that may hold `connections`.
pub fn ring_config(connections: u32, open_files: u64) -> RingConfig {
    RingConfig {
        slots: RingConfig::slots_under(open_files).min(connections + CONNECTIONS_SPARE),
        connections: connections + CONNECTIONS_SPARE,
        requests: 512,
        completions: 4096,
        buffers: 64,
        buffer_bytes: RECV_BUFFER_BYTES,
    }
}
