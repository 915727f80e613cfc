//! What a peer makes of the bytes that reach it, and how it says things.

use barrage_wire::limits::UPSTREAM_BODY_BYTES_MAX;
use barrage_wire::ws::{self, HandshakeError, Inbound, Incoming, Opcode};
use barrage_wire::{RawFrame, split};

use crate::fake_ring::Random;
use crate::room_log::Transport;

const KEY: [u8; 16] = *b"simulated client";

/// One connection's bytes, either way.
pub struct Stream {
    transport: Transport,
    handshaken: bool,
    bytes: Vec<u8>,
    inbound: Inbound,
    /// The WebSocket close frame has come.
    pub ws_closed: bool,
    /// The handshake was answered, and with a refusal.
    pub refused: bool,
}

impl Stream {
    /// A new connection.
    pub fn new(transport: Transport) -> Self {
        let handshaken = transport == Transport::Tcp;
        let inbound = Inbound::default();
        let bytes = Vec::new();
        Self { transport, handshaken, bytes, inbound, ws_closed: false, refused: false }
    }

    /// What the peer sends before its first frame.
    pub fn opening(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.transport == Transport::WebSocket {
            ws::write_request("here", "/", KEY, &mut out);
        }
        out
    }

    /// Frames as they travel. A WebSocket client puts several into a message, or one into several
    /// fragments, with a ping between them.
    pub fn wrap(&self, random: &mut Random, frames: &[Vec<u8>]) -> Vec<u8> {
        if self.transport == Transport::Tcp {
            return frames.concat();
        }
        let mask = [random.next() as u8, 2, 3, 4];
        let mut out = Vec::new();
        for (index, chunk) in frames.chunks(1 + random.below(3)).enumerate() {
            let message = chunk.concat();
            if random.percent(70) {
                ws::put_masked(&mut out, mask, &message);
                continue;
            }
            let (first, rest) = message.split_at(random.below(message.len()));
            ws::put_frame(&mut out, Opcode::Binary, false, Some(mask), first);
            if index == 0 {
                ws::put_ping(&mut out, Some(mask), b"between fragments");
            }
            ws::put_frame(&mut out, Opcode::Continuation, true, Some(mask), rest);
        }
        out
    }

    /// Takes what has come, and calls `each` for every frame. A frame that is cut waits.
    pub fn take(&mut self, come: &[u8], mut each: impl FnMut(RawFrame<'_>)) {
        self.bytes.extend_from_slice(come);
        if !self.handshaken {
            let response = ws::parse_response(&self.bytes, KEY);
            if response == Err(HandshakeError::Status(503)) {
                self.refused = true;
                return;
            }
            let Some(used) = response.expect("a good answer") else { return };
            self.bytes.drain(..used);
            self.handshaken = true;
        }
        let used = match self.transport {
            Transport::Tcp => {
                let mut rest = &self.bytes[..];
                while let Some(frame) = split(&mut rest, UPSTREAM_BODY_BYTES_MAX).expect("frames") {
                    each(frame);
                }
                self.bytes.len() - rest.len()
            }
            Transport::WebSocket => self.take_messages(each),
        };
        self.bytes.drain(..used);
    }

    fn take_messages(&mut self, mut each: impl FnMut(RawFrame<'_>)) -> usize {
        let mut used = 0;
        loop {
            let bytes = &mut self.bytes[used..];
            let (taken, incoming) =
                self.inbound.next(ws::Role::Client, bytes).expect("a readable stream");
            if taken == 0 {
                return used;
            }
            assert!(!self.ws_closed, "nothing follows a close frame");
            used += taken;
            match incoming {
                Some(Incoming::Message(mut message)) => {
                    let frame = split(&mut message, UPSTREAM_BODY_BYTES_MAX).expect("a frame");
                    each(frame.expect("a whole frame"));
                    assert!(message.is_empty(), "one frame in each message");
                }
                Some(Incoming::Close(_)) => self.ws_closed = true,
                Some(Incoming::Ping(_)) | None => panic!("a gateway sends no pings or fragments"),
                Some(Incoming::Pong) => {}
            }
        }
    }

    /// Whether a frame was begun and not finished.
    pub fn is_cut(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Whether frames can come: the handshake is over.
    pub fn is_open(&self) -> bool {
        self.handshaken
    }
}
