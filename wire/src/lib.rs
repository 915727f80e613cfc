//! The Barrage protocol without I/O: frames, the client and upstream messages, and WebSocket
//! framing. `PROTOCOL.md` beside this crate is the same thing for readers of other languages.
//!
//! Decoding borrows from the caller's buffer and allocates nothing. Every length is checked against
//! a named limit before it is believed; no input makes a function of this crate panic.
#![forbid(unsafe_code)]

pub mod boundary;
pub mod client;
pub mod codec;
pub mod frame;
#[doc(hidden)]
pub mod fuzz;
pub mod limits;
mod messages;
pub mod server;
pub mod upstream;
pub mod ws;

pub use boundary::{Boundary, tcp_boundary, ws_boundary};
pub use client::ClientFrame;
pub use codec::{DecodeError, List, Tail, Text};
pub use frame::{CLIENT_HELLO, FRAME_HEADER_BYTES, RawFrame, UPSTREAM_HELLO, peek, split};
pub use server::ServerFrame;
pub use upstream::{GatewayFrame, UpstreamFrame};
