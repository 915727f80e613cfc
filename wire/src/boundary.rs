//! Where the frames of an outgoing stream end, for a send that stopped anywhere.

use crate::frame;
use crate::ws;

/// What a number of sent bytes means in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Frames that were sent whole.
    pub frames: usize,
    /// The end of the frame that was sent in part; where sending stopped when there is none.
    pub end: usize,
}

/// Counts the frames within the first `sent` bytes of a raw stream. `bytes` start at a frame and
/// hold whole frames, as the gateway wrote them.
pub fn tcp_boundary(bytes: &[u8], sent: usize) -> Boundary {
    boundary(bytes, sent, |bytes| frame::peek(bytes, u32::MAX as usize).ok().flatten())
}

/// The same for the server's WebSocket stream, in which every WebSocket frame holds one of ours.
pub fn ws_boundary(bytes: &[u8], sent: usize) -> Boundary {
    boundary(bytes, sent, ws::server_frame_bytes)
}

/// Walks from frame to frame. When `bytes` end inside a frame, so does the answer.
fn boundary(bytes: &[u8], sent: usize, frame_bytes: impl Fn(&[u8]) -> Option<usize>) -> Boundary {
    let sent = sent.min(bytes.len());
    let (mut frames, mut at) = (0, 0);
    while at < sent {
        let length = frame_bytes(&bytes[at..]).unwrap_or(usize::MAX);
        let end = at.saturating_add(length).min(bytes.len());
        if end > sent || length > bytes.len() - at {
            return Boundary { frames, end };
        }
        (frames, at) = (frames + 1, end);
    }
    Boundary { frames, end: at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServerFrame;

    /// Checks every cut of a stream of frames that end at `ends`.
    fn check(bytes: &[u8], ends: &[usize], at: impl Fn(&[u8], usize) -> Boundary) {
        for sent in 0..=bytes.len() {
            let frames = ends.iter().filter(|&&end| end <= sent).count();
            let cut = sent > 0 && !ends.contains(&sent);
            let end = if cut { ends[frames] } else { sent };
            assert_eq!(at(bytes, sent), Boundary { frames, end }, "{sent} bytes were sent");
        }
    }

    #[test]
    fn every_cut_of_either_stream_is_found() {
        let payload = [7; 300];
        let (mut tcp, mut tcp_ends) = (Vec::new(), Vec::new());
        let (mut ws, mut ws_ends) = (Vec::new(), Vec::new());
        for length in [0, 1, 100, 101, 102, 103, 300] {
            let payload = crate::Tail(&payload[..length]);
            let message = ServerFrame::Message { alias: 1, seq: 2, category: 3, kind: 4, payload };
            let frame = message.to_vec();
            tcp.extend_from_slice(&frame);
            tcp_ends.push(tcp.len());
            let (header, used) = crate::ws::server_header(frame.len());
            ws.extend_from_slice(&header[..used]);
            ws.extend_from_slice(&frame);
            ws_ends.push(ws.len());
        }
        check(&tcp, &tcp_ends, tcp_boundary);
        check(&ws, &ws_ends, ws_boundary);
    }

    #[test]
    fn bytes_that_end_inside_a_frame_end_the_answer() {
        let frame = ServerFrame::Pong { nonce: 1 }.to_vec();
        assert_eq!(tcp_boundary(&frame[..10], 10), Boundary { frames: 0, end: 10 });
        assert_eq!(tcp_boundary(&frame[..2], 1), Boundary { frames: 0, end: 2 });
    }
}
