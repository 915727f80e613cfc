//! Where requests to the control plane come from: one each connection, which ends in time, and no more
//! at once than leave descriptors for everything else. When there are too many the oldest gives way, so
//! that whoever asks for health is heard however many others have not finished asking.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use crate::limits::{CONTROL_REQUEST_MAX, TICK};

/// See the module.
pub(super) struct Requests {
    listener: TcpListener,
    /// Those that are there, the oldest first. One that is dropped is closed.
    open: VecDeque<oneshot::Sender<()>>,
    open_max: usize,
}

/// A connection that ends in time.
pub(super) struct Request {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    given_way: oneshot::Receiver<()>,
}

impl Requests {
    pub(super) fn new(listener: TcpListener, open_max: usize) -> Self {
        Self { listener, open: VecDeque::new(), open_max }
    }
}

impl Listener for Requests {
    type Io = Request;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Request, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let (open, given_way) = oneshot::channel();
                    self.open.retain(|open| !open.is_closed());
                    self.open.push_back(open);
                    if self.open.len() > self.open_max {
                        self.open.pop_front();
                        // It closes before the next one is taken.
                        tokio::task::yield_now().await;
                    }
                    let deadline = Box::pin(sleep(CONTROL_REQUEST_MAX));
                    return (Request { stream, deadline, given_way }, address);
                }
                Err(error) => {
                    tracing::warn!("--http: a connection could not be accepted: {error}");
                    sleep(TICK).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Request {
    /// Whether it may go on.
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let late = self.deadline.as_mut().poll(cx).is_ready();
        if late || Pin::new(&mut self.given_way).poll(cx).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl AsyncRead for Request {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Request {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
