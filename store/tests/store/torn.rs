//! The end of the newest log is cut or garbled, and nobody has written down that it was stored: a
//! store opens with what came before.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::{Random, Store, TempDir, at, record, room, seqs};

const RECORDS: u64 = 12;
/// Damage is done to this much of the end: some batches.
const TAIL_BYTES: usize = 900;

#[derive(Clone, Copy, Debug)]
enum Damage {
    Cut,
    /// The file system has lost what was behind, but not the file's length.
    Zero,
    /// One byte is another one.
    Garble,
    /// A hole of 16 bytes, with the bytes behind it as they were.
    Hole,
}

#[test]
fn any_damage_leaves_what_came_before() {
    let whole = TempDir::new("torn");
    let ends = write(&whole.0);
    let log = fs::read(newest_log(&whole.0)).unwrap();
    let used = *ends.last().unwrap();
    check(&whole.0, &log, &ends, used);
    let mut random = Random(1);
    // Not every place, because each is two stores; over the fields of a row it is every one.
    for damaged in (used - TAIL_BYTES..used).step_by(7) {
        let damage = [Damage::Cut, Damage::Zero, Damage::Garble, Damage::Hole];
        let mut log = log[..used].to_vec();
        match damage[(damaged + random.below(4) as usize) % 4] {
            Damage::Cut => log.truncate(damaged),
            Damage::Zero => log[damaged..].fill(0),
            Damage::Garble => log[damaged] ^= 1 << random.below(8),
            Damage::Hole => log[damaged..used.min(damaged + 16)].fill(0),
        }
        check(&whole.0, &log, &ends, damaged);
    }
}

/// Writes records in batches of one, without an end; where each batch ends in the log.
fn write(dir: &Path) -> Vec<usize> {
    let mut store = Store::open(dir);
    let ends = (1..=RECORDS).map(|seq| {
        assert!(store.store(record(1, 1, seq)));
        let log = fs::read(newest_log(dir)).unwrap();
        log.iter().rposition(|&byte| byte != 0).unwrap() + 1
    });
    let ends = ends.collect();
    drop((store.client, store.keeper));
    fs::File::open(dir.join("lock")).unwrap().lock().unwrap();
    ends
}

fn check(whole: &Path, log: &[u8], ends: &[usize], damaged: usize) {
    let dir = TempDir::new("torn-copy");
    copy(whole, &dir.0);
    fs::write(newest_log(&dir.0), log).unwrap();
    let mut store = Store::open(&dir.0);
    assert!(!store.found.clean);
    let before = ends.iter().filter(|&&end| end <= damaged).count() as u64;
    let page = store.all(room(1));
    let found = seqs(&page);
    assert!(found.iter().copied().eq(1..=found.len() as u64), "{found:?}, damage at {damaged}");
    assert!(found.len() as u64 >= before, "{found:?} of {before}, damage at {damaged}");
    assert_eq!((page.end, page.floor), (at(1, found.len() as u64), at(0, 0)));
    assert!(store.store(record(1, 2, 1)), "it goes on");
    store.close();
    let mut store = Store::open(&dir.0);
    assert_eq!(store.all(room(1)).records.len(), found.len() + 1);
    store.close();
}

fn newest_log(dir: &Path) -> PathBuf {
    let entries = fs::read_dir(dir.join("fjall")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "jnl")).max().unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else if path.ends_with("witness") {
            // As after a power cut that came before it.
            fs::write(&to, "").unwrap();
        } else if path.extension().is_none_or(|end| end != "jnl") {
            fs::copy(&path, &to).unwrap();
        } else {
            fs::write(&to, "").unwrap();
        }
    }
}
