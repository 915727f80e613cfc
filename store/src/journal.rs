//! Cuts what a crash left behind the last whole batch of the engine's journal.
//!
//! The engine cuts a journal that ends too early by itself, but refuses to open one whose last
//! batch is of the right length and has wrong bytes in it, which is what a power cut leaves when
//! the file system wrote a later page before an earlier one. So the journal is walked here first.
//! The format is that of the engine's version, which the workspace pins; `tests/torn.rs` fails if
//! another version writes another one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";
/// Tag, count, sequence number.
const START_BYTES: usize = 1 + 4 + 8;
/// By how much a batch's number may be above the one before it; the highest that is believed.
const NUMBER_STEP_MAX: u64 = 1 << 24;
const NUMBER_MAX: u64 = 1 << 56;
/// Tag, kind, compression, keyspace, and the lengths of key, value and compressed value.
const ITEM_BYTES: usize = 1 + 1 + 1 + 8 + 2 + 4 + 4;
const CLEAR_BYTES: usize = 1 + 8;
/// Tag, checksum, trailer.
const END_BYTES: usize = 1 + 8 + TRAILER.len();

/// Cuts the newest journal of `engine_dir` behind its last whole batch; how many bytes went.
/// With `rewrite` it is written anew, for when a sync has failed: the kernel then holds pages that
/// it takes for written and that are on no disk, and no later sync would write them.
pub(crate) fn mend(engine_dir: &Path, rewrite: bool) -> io::Result<u64> {
    let Some(path) = newest(engine_dir)? else { return Ok(0) };
    let bytes = fs::read(&path)?;
    let whole = whole_batches(&bytes);
    let cut = used(&bytes[whole..]);
    let copy = path.with_extension("mending");
    // A process that was killed while it wrote one has left it behind.
    let _ = fs::remove_file(&copy);
    if rewrite {
        let written = fs::write(&copy, &bytes[..whole])
            .and_then(|()| File::open(&copy)?.sync_all())
            .and_then(|()| fs::rename(&copy, &path));
        if written.is_err() {
            // What is left of the copy would only take space that is missing.
            let _ = fs::remove_file(&copy);
        }
        written?;
        File::open(engine_dir)?.sync_all()?;
    } else if cut > 0 {
        keep(engine_dir, &path, &bytes[whole..whole + cut]);
        let file = File::options().write(true).open(&path)?;
        file.set_len(whole as u64)?;
        file.sync_all()?;
    }
    Ok(cut as u64)
}

/// Keeps a copy of what is cut, and none of earlier cuts, in case that it was more than a write that
/// was not finished. A disk that has no space for it must still open.
fn keep(engine_dir: &Path, log: &Path, cut: &[u8]) {
    for entry in fs::read_dir(engine_dir).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|end| end == "cut") {
            let _ = fs::remove_file(entry.path());
        }
    }
    let copy = log.with_extension("cut");
    if fs::write(&copy, cut).is_err() {
        let _ = fs::remove_file(copy);
    }
}

fn newest(engine_dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    let entries = match fs::read_dir(engine_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".jnl")?.parse::<u64>().ok());
        newest = newest.max(number.map(|number| (number, path)));
    }
    Ok(newest.map(|(_, path)| path))
}

/// How many bytes there are without the zeros at the end. Files are made longer than what is in
/// them: zeros are no batch, and nothing is lost with them.
fn used(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    // By blocks, because there may be many millions.
    let zeros = |block: &&[u8]| **block == ZEROS[..block.len()];
    let blocks = bytes.rchunks(ZEROS.len()).take_while(zeros).map(<[u8]>::len).sum::<usize>();
    let bytes = &bytes[..bytes.len() - blocks];
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
}

/// How many bytes from the front are whole batches.
fn whole_batches(bytes: &[u8]) -> usize {
    let (mut whole, mut before) = (0, None);
    while let Some((batch, number)) = batch_bytes(&bytes[whole..]) {
        // The number is in no checksum. It rises, and never by much.
        let steps = before.map_or(Some(0), |before| number.checked_sub(before));
        if steps.is_none_or(|steps| steps > NUMBER_STEP_MAX) || number > NUMBER_MAX {
            break;
        }
        (whole, before) = (whole + batch, Some(number));
    }
    whole
}

/// The length of the batch at the front and its number, if it is whole and sound.
fn batch_bytes(bytes: &[u8]) -> Option<(usize, u64)> {
    if *bytes.first()? != START {
        return None;
    }
    let number = u64::from_le_bytes(bytes.get(5..START_BYTES)?.try_into().ok()?);
    let count = u32::from_le_bytes(bytes.get(1..5)?.try_into().ok()?);
    let mut at = START_BYTES;
    for _ in 0..count {
        at = at.checked_add(item_bytes(bytes.get(at..)?)?)?;
    }
    let end = bytes.get(at..)?.get(..END_BYTES)?;
    let checksum = u64::from_le_bytes(end[1..9].try_into().ok()?);
    let sound = end[0] == END && end.ends_with(TRAILER);
    (sound && checksum == xxh3_64(&bytes[START_BYTES..at])).then_some((at + END_BYTES, number))
}

fn item_bytes(bytes: &[u8]) -> Option<usize> {
    match *bytes.first()? {
        CLEAR => Some(CLEAR_BYTES),
        ITEM => {
            let head = bytes.get(..ITEM_BYTES)?;
            let key = u16::from_le_bytes(head[11..13].try_into().ok()?);
            let stored = u32::from_le_bytes(head[17..21].try_into().ok()?);
            (ITEM_BYTES + usize::from(key)).checked_add(stored as usize)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(items: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        for value in items {
            body.extend_from_slice(&[ITEM, 0, 0]);
            body.extend_from_slice(&7u64.to_le_bytes());
            body.extend_from_slice(&1u16.to_le_bytes());
            body.extend_from_slice(&(value.len() as u32).to_le_bytes());
            body.extend_from_slice(&(value.len() as u32).to_le_bytes());
            body.push(b'k');
            body.extend_from_slice(value);
        }
        let mut bytes = vec![START];
        bytes.extend_from_slice(&(items.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&1u64.to_le_bytes());
        let checksum = xxh3_64(&body);
        bytes.extend(body);
        bytes.push(END);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(TRAILER);
        bytes
    }

    /// Mends a directory with an older journal and one of `bytes`; what the newest is then.
    fn check_mend(bytes: &[u8], rewrite: bool, cut: u64, left: &[u8]) {
        let name = format!("barrage-journal-{}-{rewrite}-{cut}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("9.jnl"), "older").unwrap();
        fs::write(dir.join("10.jnl"), bytes).unwrap();
        fs::write(dir.join("lock"), "").unwrap();
        let cut_now = mend(&dir, rewrite).unwrap();
        let newest = fs::read(dir.join("10.jnl")).unwrap();
        let files = fs::read_dir(&dir).unwrap().count();
        fs::remove_dir_all(&dir).unwrap();
        let files_expected = if cut > 0 && !rewrite { 4 } else { 3 };
        let found = (cut_now, newest.as_slice(), files);
        assert_eq!(found, (cut, left, files_expected), "rewrite {rewrite}");
    }

    #[test]
    fn only_the_newest_is_mended_and_only_where_it_is_broken() {
        let whole = batch(&[b"one"]);
        let zeros = [whole.clone(), vec![0; 10_000]].concat();
        let broken = [whole.clone(), b"\x01rest".to_vec(), vec![0; 10_000]].concat();
        check_mend(&whole, false, 0, &whole);
        check_mend(&zeros, false, 0, &zeros);
        check_mend(&broken, false, 5, &whole);
        check_mend(&whole, true, 0, &whole);
        check_mend(&zeros, true, 0, &whole);
        check_mend(&broken, true, 5, &whole);
        assert_eq!(mend(Path::new("/nowhere/at/all"), true).unwrap(), 0);
    }

    #[test]
    fn any_cut_and_any_wrong_byte_ends_the_whole_batches_before_it() {
        let (first, second) = (batch(&[b"one", b"two"]), batch(&[b"three"]));
        let both = [first.clone(), second].concat();
        assert_eq!(whole_batches(&both), both.len());
        assert_eq!(whole_batches(&[both.clone(), vec![0; 50]].concat()), both.len());
        for end in 0..both.len() {
            let whole = if end < first.len() { 0 } else { first.len() };
            assert_eq!(whole_batches(&both[..end]), whole, "cut at {end}");
        }
        // Of the number, which is in no checksum, only a large step shows.
        for at in (first.len()..both.len()).filter(|at| !(5..8).contains(&(at - first.len()))) {
            let mut wrong = both.clone();
            wrong[at] ^= 0x5a;
            assert_eq!(whole_batches(&wrong), first.len(), "wrong byte at {at}");
        }
    }
}
