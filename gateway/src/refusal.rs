//! Why a connection is closed, for the peer and for the log.

use std::borrow::Cow;

use barrage_wire::DecodeError;
use barrage_wire::server::CloseReason;
use barrage_wire::ws::{HandshakeError, WsError};

/// A peer's fault, or a limit that it has met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the peer's program.
    pub reason: CloseReason,
    /// For a person.
    pub text: Cow<'static, str>,
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
        Self { reason, text: text.into(), ws_code, handshake: None }
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
