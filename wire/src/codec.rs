//! How the fields of a message are read and written. Nothing here knows a message.

use thiserror::Error;

use crate::limits;

/// What is wrong with a peer's bytes. Each becomes a close reason.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The header announces a body over the limit.
    #[error("frame of {bytes} bytes, at most {max} are allowed")]
    FrameTooLong {
        /// What the header said.
        bytes: usize,
        /// The limit for this peer.
        max: usize,
    },
    /// The body ends inside a field.
    #[error("body ends inside a field")]
    Truncated,
    /// Bytes are left after the last field.
    #[error("{0} bytes after the last field")]
    Trailing(usize),
    /// No message of this direction has this kind.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// A list or text is longer than its limit.
    #[error("{what} of {count}, at most {max} are allowed")]
    TooMany {
        /// The field's name.
        what: &'static str,
        /// Its length on the wire.
        count: usize,
        /// Its limit.
        max: usize,
    },
    /// A text is not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// A field holds a value that has no meaning.
    #[error("{0} is out of range")]
    BadValue(&'static str),
}

/// A cursor over a body.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Fails when a byte is left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.0.len())) }
    }
}

/// Something that a message can hold.
pub trait Field<'a>: Sized {
    /// Takes the field off the body.
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;
    /// Appends the field.
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! integers {
    ($($int:ty),*) => {$(
        impl<'a> Field<'a> for $int {
            #[inline]
            fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                let (bytes, rest) =
                    reader.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
                reader.0 = rest;
                Ok(<$int>::from_le_bytes(*bytes))
            }
            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, u128);

impl<'a, T: Field<'a> + Copy + Default, const N: usize> Field<'a> for [T; N] {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut array = [T::default(); N];
        for item in &mut array {
            *item = T::read(reader)?;
        }
        Ok(array)
    }
    fn write(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|item| item.write(out));
    }
}

/// The last field of a message: all bytes that are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail<'a>(pub &'a [u8]);

impl<'a> Field<'a> for Tail<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let bytes = reader.rest();
        let max = limits::PAYLOAD_BYTES_MAX;
        if bytes.len() > max {
            return Err(DecodeError::TooMany { what: "payload", count: bytes.len(), max });
        }
        Ok(Self(bytes))
    }
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
    }
}

/// A UTF-8 text of at most `MAX` bytes, behind its length in two bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Text<'a, const MAX: usize = { limits::TEXT_BYTES_MAX }>(pub &'a str);

impl<'a, const MAX: usize> Field<'a> for Text<'a, MAX> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = u16::read(reader)? as usize;
        if count > MAX {
            return Err(DecodeError::TooMany { what: "text", count, max: MAX });
        }
        let bytes = reader.take(count)?;
        simdutf8::basic::from_utf8(bytes).map(Self).map_err(|_| DecodeError::NotUtf8)
    }
    /// A text over the limit is cut at a character: what we say must always be decodable.
    fn write(&self, out: &mut Vec<u8>) {
        let text = &self.0[..self.0.floor_char_boundary(MAX)];
        (text.len() as u16).write(out);
        out.extend_from_slice(text.as_bytes());
    }
}

/// A list of at most `MAX` items behind its count in two bytes. Decoded lists are read item by item
/// from the body that they came in; every item was checked when the list was.
#[derive(Clone, Copy, Debug)]
pub struct List<'a, T, const MAX: usize>(Items<'a, T>);

#[derive(Clone, Copy, Debug)]
enum Items<'a, T> {
    Wire { count: usize, bytes: &'a [u8] },
    Slice(&'a [T]),
}

impl<'a, T: Field<'a> + Copy, const MAX: usize> List<'a, T, MAX> {
    /// A list to be written. At most `MAX` items go out.
    pub fn new(items: &'a [T]) -> Self {
        Self(Items::Slice(&items[..items.len().min(MAX)]))
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        match self.0 {
            Items::Wire { count, .. } => count,
            Items::Slice(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items, in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T, MAX> {
        let (slice, mut reader) = match self.0 {
            Items::Wire { bytes, .. } => (&[][..], Reader::new(bytes)),
            Items::Slice(items) => (items, Reader::new(&[])),
        };
        slice.iter().copied().chain(std::iter::from_fn(move || T::read(&mut reader).ok()))
    }
}

impl<'a, T: Field<'a> + Copy + PartialEq, const MAX: usize> PartialEq for List<'a, T, MAX> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}
impl<'a, T: Field<'a> + Copy + Eq, const MAX: usize> Eq for List<'a, T, MAX> {}

impl<'a, T: Field<'a> + Copy, const MAX: usize> Field<'a> for List<'a, T, MAX> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = u16::read(reader)? as usize;
        if count > MAX {
            return Err(DecodeError::TooMany { what: "list", count, max: MAX });
        }
        let start = reader.0;
        for _ in 0..count {
            T::read(reader)?;
        }
        let bytes = &start[..start.len() - reader.0.len()];
        Ok(Self(Items::Wire { count, bytes }))
    }
    fn write(&self, out: &mut Vec<u8>) {
        (self.len() as u16).write(out);
        self.iter().for_each(|item| item.write(out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_over_its_limit_is_cut_at_a_character() {
        let mut out = Vec::new();
        Text::<3>("aé€").write(&mut out);
        assert_eq!(Text::<3>::read(&mut Reader::new(&out)), Ok(Text("aé")));
    }

    #[test]
    fn a_list_reads_back_as_it_was_written() {
        let mut out = Vec::new();
        List::<u64, 4>::new(&[1, 2, 3]).write(&mut out);
        let mut reader = Reader::new(&out);
        let list = List::<u64, 4>::read(&mut reader).expect("a whole list");
        assert_eq!(list.iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(reader.finish(), Ok(()));
        assert!(List::<u64, 2>::read(&mut Reader::new(&out)).is_err(), "three items, two allowed");
    }
}
