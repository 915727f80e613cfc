//! A capture on disk.
//!
//! ```text
//! | magic (8 bytes) | length u32 | checksum u64 | record (length bytes) | length … |
//! ```
//! Little-endian. A checksum is the XXH3 of its record's length and bytes; a record is an archive of
//! [`Record`] as rkyv lays it out. The first one is a [`Record::Start`]. A file whose end is missing
//! is read up to there; one that was changed in the middle is refused from there on.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use barrage_wire::FRAME_HEADER_BYTES;
use barrage_wire::limits::UPSTREAM_BODY_BYTES_MAX;
use rkyv::rancor;
use rkyv::util::AlignedVec;
use xxhash_rust::xxh3::Xxh3;

/// What every capture begins with. The digit is the version of the format.
pub const MAGIC: [u8; 8] = *b"BARRCAP1";
/// Bytes in front of each record.
pub const HEAD_BYTES: usize = 4 + 8;
/// What a record may have beside a frame.
const FIELDS_BYTES_MAX: usize = 1024;
/// Longest record. Nobody waits for more, whatever a file says.
pub const RECORD_BYTES_MAX: usize = UPSTREAM_BODY_BYTES_MAX + FRAME_HEADER_BYTES + FIELDS_BYTES_MAX;
/// Longest text in a record.
pub const TEXT_BYTES_MAX: usize = 512;

const _: () = assert!(TEXT_BYTES_MAX < FIELDS_BYTES_MAX);

pub use model::{Direction, Record, Source};

impl Record {
    /// When it was; a start is at 0.
    pub fn at_ns(&self) -> u64 {
        match self {
            Self::Start { .. } => 0,
            Self::Opened { at_ns, .. }
            | Self::Frame { at_ns, .. }
            | Self::Unframed { at_ns, .. }
            | Self::Closed { at_ns, .. }
            | Self::Missed { at_ns, .. }
            | Self::End { at_ns } => *at_ns,
        }
    }
}

mod model {
    //! In a module of its own because a type that the derive makes beside each has no documentation.
    #![allow(missing_docs, reason = "what is written here is documented")]

    /// Where a capture was made.
    #[derive(
        Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
    )]
    pub enum Source {
        /// Between services and the gateway's upstream listener.
        Upstream,
        /// As a client.
        Client,
    }

    /// Which way a frame went.
    #[derive(
        Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
    )]
    pub enum Direction {
        /// To the gateway.
        Up,
        /// From the gateway.
        Down,
    }

    /// One thing that was written down. Moments are nanoseconds after the start.
    #[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    pub enum Record {
        /// What this capture is; the first record.
        Start {
            /// Where it was made.
            source: Source,
            /// When: milliseconds since 1970.
            unix_ms: u64,
            /// The gateway's listener.
            target: String,
        },
        /// Somebody has connected.
        Opened {
            /// When.
            at_ns: u64,
            /// The connection.
            connection: u32,
        },
        /// A frame, whole, as it was on the wire, but for tokens, which are left out.
        Frame {
            /// When its last byte had come.
            at_ns: u64,
            /// The connection.
            connection: u32,
            /// Where it went.
            direction: Direction,
            /// Its bytes.
            bytes: Vec<u8>,
        },
        /// The connection's bytes are no frames from here on; they were passed on and not written down.
        Unframed {
            /// When.
            at_ns: u64,
            /// The connection.
            connection: u32,
            /// In which direction.
            direction: Direction,
        },
        /// A connection has ended.
        Closed {
            /// When.
            at_ns: u64,
            /// The connection.
            connection: u32,
        },
        /// Records that are missing here, because the disk was slower than the traffic.
        Missed {
            /// When.
            at_ns: u64,
            /// How many.
            records: u64,
        },
        /// The capture has ended in order.
        End {
            /// When.
            at_ns: u64,
        },
    }
}

/// Writes a capture.
pub struct Writer<W: Write> {
    out: BufWriter<W>,
    scratch: AlignedVec,
    /// Bytes so far.
    pub bytes: u64,
}

impl Writer<File> {
    /// Begins a file; one that is there already is not overwritten.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create_new(path).with_context(|| {
            format!("cannot create {}: give --out a path that is not there yet", path.display())
        })?;
        Self::new(file)
    }
}

impl<W: Write> Writer<W> {
    /// Begins a capture.
    pub fn new(out: W) -> Result<Self> {
        let mut out = BufWriter::with_capacity(256 * 1024, out);
        out.write_all(&MAGIC)?;
        Ok(Self { out, scratch: AlignedVec::new(), bytes: MAGIC.len() as u64 })
    }

    /// Adds a record.
    pub fn put(&mut self, record: &Record) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let bytes = rkyv::api::high::to_bytes_in::<_, rancor::Error>(record, scratch)?;
        debug_assert!(bytes.len() <= RECORD_BYTES_MAX, "what is written can be read");
        self.out.write_all(&(bytes.len() as u32).to_le_bytes())?;
        self.out.write_all(&checksum(&bytes).to_le_bytes())?;
        self.out.write_all(&bytes)?;
        self.bytes += (HEAD_BYTES + bytes.len()) as u64;
        self.scratch = bytes;
        Ok(())
    }

    /// Hands everything to the system.
    pub fn flush(&mut self) -> Result<()> {
        Ok(self.out.flush()?)
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&(bytes.len() as u32).to_le_bytes());
    hash.update(bytes);
    hash.digest()
}

/// Reads a capture.
pub struct Reader<R: Read> {
    from: BufReader<R>,
    scratch: AlignedVec,
    at: u64,
    records: u64,
    /// Bytes at the end that are not a whole record: the capture was cut off there.
    pub torn_bytes: u64,
}

impl Reader<File> {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display();
        let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
        Self::new(file).with_context(|| format!("cannot read {name}"))
    }
}

impl<R: Read> Reader<R> {
    /// Begins to read.
    pub fn new(from: R) -> Result<Self> {
        let mut from = BufReader::with_capacity(256 * 1024, from);
        let mut magic = Vec::new();
        (&mut from).take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        if magic != MAGIC {
            bail!("it is not a capture of this version: a capture begins with BARRCAP1");
        }
        let at = MAGIC.len() as u64;
        Ok(Self { from, scratch: AlignedVec::new(), at, records: 0, torn_bytes: 0 })
    }

    /// The next record; none at the end, be it torn or not.
    pub fn read(&mut self) -> Result<Option<Record>> {
        let mut head = [0; HEAD_BYTES];
        let got = fill(&mut self.from, &mut head)?;
        if got < HEAD_BYTES {
            self.torn_bytes = got as u64;
            return Ok(None);
        }
        let (length, sum) = head.split_at(4);
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let sum = u64::from_le_bytes(sum.try_into().expect("eight bytes"));
        if length > RECORD_BYTES_MAX {
            bail!("{}: a record of {length} bytes", self.damaged());
        }
        self.scratch.resize(length, 0);
        let got = fill(&mut self.from, &mut self.scratch)?;
        if got < length {
            self.torn_bytes = (HEAD_BYTES + got) as u64;
            return Ok(None);
        }
        if checksum(&self.scratch) != sum {
            bail!("{}: a record's checksum is wrong", self.damaged());
        }
        let record = rkyv::from_bytes::<Record, rancor::Error>(&self.scratch)
            .with_context(|| format!("{}: a record is malformed", self.damaged()))?;
        if (self.records == 0) != matches!(record, Record::Start { .. }) {
            bail!("{}: a start that is not the first record, or none", self.damaged());
        }
        self.at += (HEAD_BYTES + length) as u64;
        self.records += 1;
        Ok(Some(record))
    }

    fn damaged(&self) -> String {
        format!("it is damaged at byte {}, after {} sound records", self.at, self.records)
    }
}

/// Reads until `into` is full or nothing is left; how much that was.
fn fill(from: &mut impl Read, into: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match from.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::random::Random;

    /// A capture in memory.
    pub fn written(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).expect("memory");
        records.iter().for_each(|record| writer.put(record).expect("memory"));
        writer.flush().expect("memory");
        drop(writer);
        bytes
    }

    fn records() -> Vec<Record> {
        let (connection, direction) = (3, Direction::Up);
        vec![
            Record::Start { source: Source::Upstream, unix_ms: 1, target: "here".to_owned() },
            Record::Opened { at_ns: 5, connection },
            Record::Frame { at_ns: 6, connection, direction, bytes: vec![1; 100] },
            Record::Frame {
                at_ns: 7,
                connection,
                direction: Direction::Down,
                bytes: vec![2; UPSTREAM_BODY_BYTES_MAX + FRAME_HEADER_BYTES],
            },
            Record::Unframed { at_ns: 8, connection, direction },
            Record::Missed { at_ns: 8, records: 12 },
            Record::Closed { at_ns: 9, connection },
            Record::End { at_ns: u64::MAX },
        ]
    }

    /// All records up to the end or a fault, and how it ended.
    fn read(bytes: &[u8]) -> (Vec<Record>, Result<u64>) {
        let mut records = Vec::new();
        let mut reader = match Reader::new(bytes) {
            Ok(reader) => reader,
            Err(error) => return (records, Err(error)),
        };
        loop {
            match reader.read() {
                Ok(Some(record)) => records.push(record),
                Ok(None) => return (records, Ok(reader.torn_bytes)),
                Err(error) => return (records, Err(error)),
            }
        }
    }

    #[test]
    fn a_capture_reads_back() {
        let (read, end) = read(&written(&records()));
        assert_eq!((read, end.expect("sound")), (records(), 0));
    }

    #[test]
    fn a_capture_that_was_cut_off_is_read_up_to_there() {
        let few: Vec<Record> = records().into_iter().filter(|r| r.at_ns() != 7).collect();
        let bytes = written(&few);
        let ends: Vec<usize> = (0..=few.len()).map(|n| written(&few[..n]).len()).collect();
        for cut in MAGIC.len()..bytes.len() {
            let (read, end) = read(&bytes[..cut]);
            let whole = ends.iter().filter(|&&end| end <= cut).count() - 1;
            let torn = end.expect("what is left is sound");
            assert_eq!((&read[..], torn as usize), (&few[..whole], cut - ends[whole]), "at {cut}");
        }
    }

    #[test]
    fn a_capture_that_was_changed_is_refused_from_there_on() {
        let few: Vec<Record> = records().into_iter().filter(|r| r.at_ns() != 7).collect();
        let bytes = written(&few);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let (read, end) = read(&changed);
            assert_eq!(read[..], few[..read.len()], "what was read is what was written");
            let cut_off = end.as_ref().is_ok_and(|torn| *torn > 0);
            assert!(end.is_err() || cut_off, "a change at {at} was not noticed");
        }
    }

    #[test]
    fn foreign_files_are_refused() {
        assert!(read(b"").1.is_err());
        assert!(read(b"BARRCAP2 is not known yet").1.is_err());
        let mut random = Random::new(1);
        for _ in 0..2000 {
            let length = random.below(300) as usize;
            let body: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            // Even when length and checksum are right.
            let mut bytes = MAGIC.to_vec();
            bytes.extend((body.len() as u32).to_le_bytes());
            bytes.extend(checksum(&body).to_le_bytes());
            bytes.extend(&body);
            assert!(read(&bytes).0.is_empty(), "{body:?}");
        }
    }
}
