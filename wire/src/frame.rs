//! The one frame format, the same on TCP, in WebSocket messages and on the upstream socket.
//!
//! ```text
//! 0        4      5       6          8
//! | length | kind | flags | reserved | body (length bytes) ...
//! ```
//! Little-endian. `flags` and `reserved` are zero in version 1 and ignored by receivers.

use crate::codec::DecodeError;

/// Bytes in front of every body.
pub const FRAME_HEADER_BYTES: usize = 8;

/// A frame whose length was checked and whose body was not looked at yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawFrame<'a> {
    /// Which message the body holds.
    pub kind: u8,
    /// The message's fields.
    pub body: &'a [u8],
}

impl RawFrame<'_> {
    /// The version that a `Hello` of this kind names. Its body begins with it in every version,
    /// whatever follows, so that a peer of another one can be told so.
    pub fn hello_version(&self, kind: u8) -> Option<u16> {
        let version = self.body.first_chunk().filter(|_| self.kind == kind)?;
        Some(u16::from_le_bytes(*version))
    }
}

/// The kind of a client's `Hello`, in every version.
pub const CLIENT_HELLO: u8 = 1;
/// The kind of an upstream's.
pub const UPSTREAM_HELLO: u8 = 128;

/// The length of the whole frame that starts `bytes`, as soon as its header is there.
///
/// A body over `body_bytes_max` is refused before anybody waits for it.
pub fn peek(bytes: &[u8], body_bytes_max: usize) -> Result<Option<usize>, DecodeError> {
    let Some(head) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let body = u32::from_le_bytes(*head) as usize;
    if body > body_bytes_max {
        return Err(DecodeError::FrameTooLong { bytes: body, max: body_bytes_max });
    }
    Ok(Some(FRAME_HEADER_BYTES + body))
}

/// Takes the first whole frame off `bytes`, or leaves them as they are when it is not all there.
pub fn split<'a>(
    bytes: &mut &'a [u8],
    body_bytes_max: usize,
) -> Result<Option<RawFrame<'a>>, DecodeError> {
    let Some(total) = peek(bytes, body_bytes_max)? else {
        return Ok(None);
    };
    let Some((frame, rest)) = bytes.split_at_checked(total) else {
        return Ok(None);
    };
    *bytes = rest;
    Ok(Some(RawFrame { kind: frame[4], body: &frame[FRAME_HEADER_BYTES..] }))
}

/// Appends a frame of `kind` whose body `write` appends.
pub fn put(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind, 0, 0, 0]);
    write(out);
    let body = (out.len() - start - FRAME_HEADER_BYTES) as u32;
    out[start..start + 4].copy_from_slice(&body.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_waits_for_its_last_byte() {
        let mut frame = Vec::new();
        put(&mut frame, 7, |out| out.extend_from_slice(b"abc"));
        for cut in 0..frame.len() {
            let mut bytes = &frame[..cut];
            assert_eq!(split(&mut bytes, 16), Ok(None), "cut at {cut}");
            assert_eq!(bytes.len(), cut, "nothing was taken");
        }
        let mut bytes = &frame[..];
        assert_eq!(split(&mut bytes, 16), Ok(Some(RawFrame { kind: 7, body: b"abc" })));
        assert!(bytes.is_empty());
    }

    #[test]
    fn a_hello_names_its_version_whatever_follows() {
        let version = |kind, body| RawFrame { kind, body }.hello_version(CLIENT_HELLO);
        assert_eq!(version(CLIENT_HELLO, &[2, 1]), Some(0x0102));
        assert_eq!(version(CLIENT_HELLO, &[2, 1, 9, 9]), Some(0x0102));
        assert_eq!(version(CLIENT_HELLO, &[2]), None);
        assert_eq!(version(UPSTREAM_HELLO, &[2, 1]), None);
    }

    #[test]
    fn a_length_over_the_limit_is_refused_at_its_fourth_byte() {
        let too_long = DecodeError::FrameTooLong { bytes: u32::MAX as usize, max: 16 };
        assert_eq!(peek(&[0xff; 4], 16), Err(too_long));
    }
}
