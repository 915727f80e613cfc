//! Sleeping on a ring from inside a glommio executor.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};

use glommio::io::BufferedFile;

use crate::wake::Waker;

/// Waits for a waker's eventfd in glommio's own ring, so that the executor can park meanwhile.
pub struct HostedSleep(BufferedFile);

impl HostedSleep {
    /// For the executor of the calling thread.
    pub fn new(waker: &Waker) -> io::Result<Self> {
        let fd = waker.duplicate()?.into_raw_fd();
        // SAFETY: `fd` was made for this file just now, and nobody else owns it.
        Ok(Self(unsafe { BufferedFile::from_raw_fd(fd) }))
    }

    /// Returns when the eventfd was signalled, now or since the last time: its counter means that no
    /// wake-up is lost.
    pub async fn until_woken(&self) -> io::Result<()> {
        self.0.read_at(0, 8).await?;
        Ok(())
    }
}
