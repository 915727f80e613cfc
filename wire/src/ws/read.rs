//! WebSocket frames as they arrive.

use thiserror::Error;

use super::mask::apply_mask;
use super::{FIN, LENGTH_IN_2, LENGTH_IN_8, MASKED, NO_CLOSE_CODE, Opcode, RESERVED};
use crate::limits::{WS_CONTROL_BYTES_MAX, WS_MESSAGE_BYTES_MAX};

/// The side that reads. Only what a client sends is masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A server, which reads from a client.
    Server,
    /// A client, which reads from a server.
    Client,
}

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'b> {
    /// A whole binary message.
    Message(&'b [u8]),
    /// To be answered by a pong with the same payload.
    Ping(&'b [u8]),
    /// The answer to a ping.
    Pong,
    /// The peer closes, with this code; 1005 when it gave none.
    Close(u16),
}

/// What is wrong with a peer's WebSocket frames.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WsError {
    /// Bits are set that belong to extensions, and none was negotiated.
    #[error("reserved bits are set")]
    ReservedBits,
    /// The opcode has no meaning.
    #[error("unknown opcode {0}")]
    UnknownOpcode(u8),
    /// A client must mask its frames.
    #[error("the client's frame has no mask")]
    MaskMissing,
    /// A server must not mask its frames.
    #[error("the server's frame has a mask")]
    MaskForbidden,
    /// A control frame must be whole.
    #[error("a control frame is fragmented")]
    ControlFragmented,
    /// A control frame announces more than it may.
    #[error("a control frame of more than {WS_CONTROL_BYTES_MAX} bytes")]
    ControlTooLong,
    /// A shorter form of the length exists.
    #[error("the length is not in its shortest form")]
    LengthNotMinimal,
    /// The message, or its fragments so far, are over the limit.
    #[error("message of {bytes} bytes, at most {WS_MESSAGE_BYTES_MAX} are allowed")]
    MessageTooLong {
        /// The fragments so far and what the header announces.
        bytes: u64,
    },
    /// A continuation of nothing.
    #[error("a continuation without a message before it")]
    NothingToContinue,
    /// A message begins before the one before it has ended.
    #[error("a message begins inside another")]
    Interleaved,
    /// A close frame holds half a code.
    #[error("a close frame of one byte")]
    CloseTruncated,
    /// A close code that may not travel.
    #[error("close code {0} may not be sent")]
    CloseCode(u16),
    /// A close reason is not UTF-8.
    #[error("the close reason is not UTF-8")]
    CloseNotUtf8,
    /// A text message is not UTF-8.
    #[error("the text message is not UTF-8")]
    TextNotUtf8,
    /// Barrage carries binary messages only.
    #[error("text messages are not accepted; send binary ones")]
    TextRefused,
}

impl WsError {
    /// The close code that tells the peer.
    pub fn close_code(self) -> u16 {
        match self {
            Self::ReservedBits
            | Self::UnknownOpcode(_)
            | Self::MaskMissing
            | Self::MaskForbidden
            | Self::ControlFragmented
            | Self::ControlTooLong
            | Self::LengthNotMinimal
            | Self::NothingToContinue
            | Self::Interleaved
            | Self::CloseTruncated
            | Self::CloseCode(_) => 1002,
            Self::TextRefused => 1003,
            Self::CloseNotUtf8 | Self::TextNotUtf8 => 1007,
            Self::MessageTooLong { .. } => 1009,
        }
    }
}

/// What must be remembered between two frames of one connection: nothing, as long as no message
/// arrives in fragments, so an idle connection pays for one pointer.
#[derive(Debug, Default)]
pub struct Inbound(Option<Box<Assembly>>);

const _: () = assert!(size_of::<Inbound>() == 8, "a million idle connections hold one each");

/// A message of which some fragments have arrived.
#[derive(Debug)]
struct Assembly {
    text: bool,
    /// The last fragment is here and the message was handed out.
    delivered: bool,
    /// How much of a text is known to be UTF-8.
    valid_bytes: usize,
    bytes: Vec<u8>,
}

impl Inbound {
    /// Whether fragments of an unfinished message are held.
    pub fn is_assembling(&self) -> bool {
        self.0.as_ref().is_some_and(|assembly| !assembly.delivered)
    }

    /// Takes at most one frame off the front of `bytes` and says how many bytes it was: 0 when it
    /// is not all there yet, and then `bytes` are as they were. A fragment that was stored, and is
    /// not the last of its message, gives `None`.
    ///
    /// A message that came in fragments is held until the next call: call until nothing is taken.
    /// After an error the connection must be closed.
    pub fn next<'b>(
        &'b mut self,
        role: Role,
        bytes: &'b mut [u8],
    ) -> Result<(usize, Option<Incoming<'b>>), WsError> {
        if self.0.as_ref().is_some_and(|assembly| assembly.delivered) {
            self.0 = None;
        }
        let Some(header) = Header::read(role, bytes)? else {
            return Ok((0, None));
        };
        self.admit(&header)?;
        let total = header.bytes + header.payload_bytes as usize;
        let Some(frame) = bytes.get_mut(..total) else {
            return Ok((0, None));
        };
        let payload = &mut frame[header.bytes..];
        if let Some(mask) = header.mask {
            apply_mask(payload, mask);
        }
        let incoming = match (header.opcode, header.last) {
            (Opcode::Ping, _) => Some(Incoming::Ping(payload)),
            (Opcode::Pong, _) => Some(Incoming::Pong),
            (Opcode::Close, _) => Some(Incoming::Close(close_code(payload)?)),
            (Opcode::Binary, true) => Some(Incoming::Message(payload)),
            (Opcode::Text, true) => {
                let text = simdutf8::basic::from_utf8(payload);
                return Err(text.map_or(WsError::TextNotUtf8, |_| WsError::TextRefused));
            }
            (Opcode::Text | Opcode::Binary, false) | (Opcode::Continuation, _) => {
                self.assemble(&header, payload)?.map(Incoming::Message)
            }
        };
        Ok((total, incoming))
    }

    /// Checks a header before anybody waits for its payload.
    fn admit(&self, header: &Header) -> Result<(), WsError> {
        let stored = match (header.opcode, &self.0) {
            (Opcode::Ping | Opcode::Pong | Opcode::Close, _) => return Ok(()),
            (Opcode::Continuation, None) => return Err(WsError::NothingToContinue),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(WsError::Interleaved),
            (Opcode::Text | Opcode::Binary, None) => 0,
            (Opcode::Continuation, Some(assembly)) => assembly.bytes.len() as u64,
        };
        let bytes = header.payload_bytes.saturating_add(stored);
        if bytes > WS_MESSAGE_BYTES_MAX as u64 {
            return Err(WsError::MessageTooLong { bytes });
        }
        Ok(())
    }

    /// Stores a fragment, and gives the message when it was the last.
    fn assemble(&mut self, header: &Header, payload: &[u8]) -> Result<Option<&[u8]>, WsError> {
        let assembly = self.0.get_or_insert_with(|| {
            let text = header.opcode == Opcode::Text;
            Box::new(Assembly { text, delivered: false, valid_bytes: 0, bytes: Vec::new() })
        });
        assembly.bytes.extend_from_slice(payload);
        if assembly.text {
            assembly.check_text(header.last)?;
        }
        assembly.delivered = header.last;
        Ok(header.last.then_some(&assembly.bytes))
    }
}

impl Assembly {
    /// Checks what was not checked before, so that a text in many fragments costs no more. A
    /// character may be cut by the end of a fragment, and not by the end of the message.
    fn check_text(&mut self, last: bool) -> Result<(), WsError> {
        match std::str::from_utf8(&self.bytes[self.valid_bytes..]) {
            Ok(_) => self.valid_bytes = self.bytes.len(),
            Err(error) if error.error_len().is_some() || last => return Err(WsError::TextNotUtf8),
            Err(error) => self.valid_bytes += error.valid_up_to(),
        }
        if last { Err(WsError::TextRefused) } else { Ok(()) }
    }
}

/// A frame's header.
struct Header {
    /// Its own length.
    bytes: usize,
    opcode: Opcode,
    last: bool,
    mask: Option<[u8; 4]>,
    payload_bytes: u64,
}

impl Header {
    /// Reads the header that starts `bytes`, `None` while it is not all there.
    fn read(role: Role, bytes: &[u8]) -> Result<Option<Self>, WsError> {
        let Some((&[first, second], rest)) = bytes.split_first_chunk::<2>() else {
            return Ok(None);
        };
        if first & RESERVED != 0 {
            return Err(WsError::ReservedBits);
        }
        let bits = first & 0x0f;
        let opcode = Opcode::from_bits(bits).ok_or(WsError::UnknownOpcode(bits))?;
        let last = first & FIN != 0;
        let masked = second & MASKED != 0;
        match role {
            Role::Server if !masked => return Err(WsError::MaskMissing),
            Role::Client if masked => return Err(WsError::MaskForbidden),
            Role::Server | Role::Client => {}
        }
        let short = second & !MASKED;
        if opcode.is_control() {
            if !last {
                return Err(WsError::ControlFragmented);
            }
            if short as usize > WS_CONTROL_BYTES_MAX {
                return Err(WsError::ControlTooLong);
            }
        }
        let Some((length_bytes, payload_bytes)) = length(short, rest)? else {
            return Ok(None);
        };
        let rest = &rest[length_bytes..];
        let mask = match (masked, rest.first_chunk::<4>()) {
            (false, _) => None,
            // The length is known already, so the caller can refuse it before the mask is here.
            (true, mask) => Some(mask.copied().unwrap_or_default()),
        };
        let bytes = 2 + length_bytes + if masked { 4 } else { 0 };
        Ok(Some(Self { bytes, opcode, last, mask, payload_bytes }))
    }
}

/// How many bytes the extended length takes, and the length; `None` while it is not all there.
fn length(short: u8, rest: &[u8]) -> Result<Option<(usize, u64)>, WsError> {
    let (used, length, least) = match short {
        LENGTH_IN_2 => match rest.first_chunk() {
            Some(bytes) => (2, u16::from_be_bytes(*bytes) as u64, LENGTH_IN_2 as u64),
            None => return Ok(None),
        },
        LENGTH_IN_8 => match rest.first_chunk() {
            Some(bytes) => (8, u64::from_be_bytes(*bytes), 1 << 16),
            None => return Ok(None),
        },
        length => (0, length as u64, 0),
    };
    if length < least { Err(WsError::LengthNotMinimal) } else { Ok(Some((used, length))) }
}

/// The length of the whole unmasked frame that starts `bytes`, as soon as its header is there.
pub(crate) fn server_frame_bytes(bytes: &[u8]) -> Option<usize> {
    let (&[_, second], rest) = bytes.split_first_chunk::<2>()?;
    let (length_bytes, payload_bytes) = length(second & !MASKED, rest).ok().flatten()?;
    usize::try_from(payload_bytes).ok()?.checked_add(2 + length_bytes)
}

/// The code of a close frame, which may be followed by a reason.
fn close_code(payload: &[u8]) -> Result<u16, WsError> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        let empty = payload.is_empty();
        return if empty { Ok(NO_CLOSE_CODE) } else { Err(WsError::CloseTruncated) };
    };
    let code = u16::from_be_bytes(*code);
    // 1004 to 1006 and 1015 never travel, 1016 to 2999 mean nothing yet, 3000 up are anybody's.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(WsError::CloseCode(code));
    }
    if simdutf8::basic::from_utf8(reason).is_err() {
        return Err(WsError::CloseNotUtf8);
    }
    Ok(code)
}
