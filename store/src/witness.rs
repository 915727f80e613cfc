//! What was stored, written down beside the engine: if the engine is found with less, something is
//! gone, whatever the reason, and whether or not what is left is sound.
//!
//! It is written over after each commit that was synced, and not synced itself. So after a power cut
//! it may say too little, and it never says too much.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use crate::book::Ever;
use crate::error::Error;

pub(crate) const WITNESS_FILE: &str = "witness";
const WORDS: usize = 4;
const BYTES: usize = 8 * (WORDS + 1);

/// The open file.
pub(crate) struct Witness {
    file: File,
}

impl Witness {
    /// Opens it, and makes it where there is none. Also what it says; None: nothing that can be
    /// believed.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Option<Ever>), Error> {
        let path = dir.join(WITNESS_FILE);
        let options = File::options().read(true).write(true).create(true).truncate(false).clone();
        let file = options.open(&path).map_err(Error::io("opening", &path))?;
        let mut bytes = [0; BYTES];
        let said = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(Error::io("reading", &path)(error)),
        };
        Ok((Self { file }, said))
    }

    /// Says what is stored now.
    pub(crate) fn say(&self, ever: &Ever) -> io::Result<()> {
        self.file.write_all_at(&encode(ever), 0)
    }

    /// Puts it on disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn encode(ever: &Ever) -> [u8; BYTES] {
    let words: [u64; WORDS] = [ever.epoch_max, ever.keys, ever.commits, ever.records];
    let mut bytes = [0; BYTES];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    let checksum = xxh3_64(&bytes[..8 * WORDS]);
    bytes[8 * WORDS..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8; BYTES]) -> Option<Ever> {
    let word = |at: usize| {
        let word = bytes[8 * at..].first_chunk().copied();
        word.map_or(0, u64::from_be_bytes)
    };
    let ever = Ever { epoch_max: word(0), keys: word(1), commits: word(2), records: word(3) };
    (word(WORDS) == xxh3_64(&bytes[..8 * WORDS])).then_some(ever)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_a_wrong_bit_is_not_believed() {
        let ever = Ever { epoch_max: 9, keys: 2, commits: u64::MAX, records: 1 };
        let bytes = encode(&ever);
        assert_eq!(decode(&bytes), Some(ever));
        for bit in 0..8 * BYTES {
            let mut wrong = bytes;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&wrong), None, "bit {bit}");
        }
    }
}
