//! Why a connection is closed, for the peer and for the log.

use std::borrow::Cow;

use barrage_wire::limits::PROTOCOL_VERSION;
use barrage_wire::server::CloseReason;
use barrage_wire::ws::{HandshakeError, WsError};
use barrage_wire::{DecodeError, RawFrame};

/// A peer's fault, or a limit that it has met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the peer's program.
    pub reason: CloseReason,
    /// For a person.
    pub text: Cow<'static, str>,
    /// How long a client should stay away.
    pub retry_after_ms: u32,
    /// What a WebSocket close frame says.
    pub ws_code: u16,
    /// The handshake failed, so the answer is HTTP.
    pub handshake: Option<HandshakeError>,
}

impl Refusal {
    /// Refused for `reason`.
    pub fn new(reason: CloseReason, text: impl Into<Cow<'static, str>>) -> Self {
        let ws_code = match reason {
            CloseReason::PeerClosed => 1000,
            CloseReason::Draining => 1001,
            CloseReason::Protocol | CloseReason::Version | CloseReason::FrameTimeout => 1002,
            CloseReason::Full | CloseReason::Socket => 1013,
            CloseReason::Token
            | CloseReason::HelloTimeout
            | CloseReason::Idle
            | CloseReason::SlowReader
            | CloseReason::Credits
            | CloseReason::Replaced
            | CloseReason::Kicked
            | CloseReason::Banned
            | CloseReason::RateLimited => 1008,
        };
        let retry_after_ms = retry_after_ms(reason);
        Self { reason, text: text.into(), retry_after_ms, ws_code, handshake: None }
    }

    /// Refused if the frame is a `Hello`, of this kind, in another version than the gateway's: what
    /// follows the version there may be anything.
    pub fn of_version(frame: RawFrame<'_>, hello_kind: u8) -> Result<(), Self> {
        match frame.hello_version(hello_kind) {
            None | Some(PROTOCOL_VERSION) => Ok(()),
            Some(other) => {
                let text = format!("this gateway speaks version {PROTOCOL_VERSION}, not {other}");
                Err(Self::new(CloseReason::Version, text))
            }
        }
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self::new(CloseReason::Protocol, error.to_string())
    }
}

impl From<WsError> for Refusal {
    fn from(error: WsError) -> Self {
        let refusal = Self::new(CloseReason::Protocol, error.to_string());
        Self { ws_code: error.close_code(), ..refusal }
    }
}

impl From<HandshakeError> for Refusal {
    fn from(error: HandshakeError) -> Self {
        let refusal = Self::new(CloseReason::Protocol, error.to_string());
        Self { handshake: Some(error), ..refusal }
    }
}

/// How long a client that was closed for this reason should stay away, unless more is known.
fn retry_after_ms(reason: CloseReason) -> u32 {
    match reason {
        CloseReason::Full => 5_000,
        CloseReason::RateLimited => 10_000,
        CloseReason::Token | CloseReason::Version | CloseReason::Protocol | CloseReason::Banned => {
            60_000
        }
        CloseReason::PeerClosed
        | CloseReason::HelloTimeout
        | CloseReason::FrameTimeout
        | CloseReason::Idle
        | CloseReason::SlowReader
        | CloseReason::Draining
        | CloseReason::Credits
        | CloseReason::Replaced
        | CloseReason::Kicked
        | CloseReason::Socket => 0,
    }
}
