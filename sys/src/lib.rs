//! Everything that touches the kernel by hand: the data rings, the memory that the kernel reads
//! from and writes to, wake-ups, and facts about threads and limits. Every `unsafe` line of the
//! workspace is in this crate, and every block says why it is sound.
//!
//! The safe surface is small: [`Ring`] is what a shard sees of the network, [`KernelRing`] is its
//! implementation over `io_uring`, [`Segment`] is memory that may be sent while it grows.

mod buffers;
mod data_ring;
mod kernel_ring;
mod limits;
mod ring;
mod segment;
mod thread;
mod wake;

pub use data_ring::{FEATURES, RECEIVES_MAX, RingError};
pub use kernel_ring::{KernelRing, Listener, RingConfig};
pub use limits::{kernel_release, open_files_limit, raise_open_files_limit};
pub use ring::{ConnId, Event, Peer, Ring, SLOT_BITS};
pub use segment::{Segment, SendSlice};
pub use thread::{cores_online, pin_to_core, process_cpu_time, run_on_time, thread_cpu_time};
pub use wake::Waker;
