//! Something is gone that was stored. Whatever it is, and whatever has become of it, the next to open
//! the store is not told that nothing is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use barrage_store::{Error, From, Load, Lost, Options, Position};
use bytes::Bytes;

use crate::world::{PATIENCE, Store, TempDir, at, options, record, room, seqs};

/// So many records of a megabyte are more than the engine keeps in its tables in memory.
const RECORDS: u64 = 80;
const RECORD_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
enum Damage {
    Empty,
    Remove,
    Halve,
    /// A bit, this far into the part that is used, in permille.
    Flip(usize),
}

const DAMAGES: [Damage; 7] = [
    Damage::Empty,
    Damage::Remove,
    Damage::Halve,
    Damage::Flip(0),
    Damage::Flip(300),
    Damage::Flip(700),
    Damage::Flip(999),
];

#[test]
fn nothing_that_is_gone_is_gone_silently() {
    let whole = TempDir::new("whole");
    write(&whole.0);
    for file in files(&whole.0.join("fjall")) {
        if file.ends_with("lock") {
            continue;
        }
        for damage in DAMAGES {
            check(&whole.0, &file, damage);
        }
    }
}

#[test]
fn what_is_gone_after_a_kill_shows_as_well() {
    let dir = TempDir::new("killed");
    let mut store = Store::open(&dir.0);
    (1..=20).for_each(|seq| assert!(store.store(record(1, 1, seq))));
    drop((store.client, store.keeper));
    fs::File::open(dir.0.join("lock")).unwrap().lock().unwrap();
    let log = files(&dir.0.join("fjall")).into_iter().find(|path| path.ends_with("0.jnl"));
    spoil(&log.unwrap(), Damage::Halve);
    let mut store = Store::open(&dir.0);
    let left = store.all(room(1)).records.len() as u64;
    let lost = store.found.lost.expect("it was stored");
    assert_eq!((lost.records, lost.all), (20 - left, false));
    assert!(0 < left && left < 20);
    store.close();
}

/// Stores records, so many that some are in tables and some are in a log, and ends in order.
fn write(dir: &Path) {
    let mut store = Store::open(dir);
    store.store_all((1..=RECORDS).map(|seq| {
        let mut record = record(1, 1, seq);
        record.frame = Bytes::from(vec![seq as u8; RECORD_BYTES]);
        record
    }));
    let start = Instant::now();
    while files(&dir.join("fjall/keyspaces/1/tables")).is_empty() {
        assert!(start.elapsed() < PATIENCE, "it writes no table");
        std::thread::yield_now();
    }
    assert!(store.store(record(2, 1, 1)) && store.store(record(2, 1, 2)));
    store.close();
}

fn check(whole: &Path, file: &Path, damage: Damage) {
    let dir = TempDir::new("damaged");
    link(whole, &dir.0);
    let name = file.strip_prefix(whole).unwrap();
    let log = spoil(&dir.0.join(name), damage);
    let about = format!("{} after {damage:?}", name.display());
    let mut store = match Store::try_open(options(&dir.0)) {
        Ok(store) => store,
        Err(Error::Lost { records, why, .. }) => {
            assert_eq!(records, Some(RECORDS + 2), "{about}: {why}");
            return accept(&dir.0, &about);
        }
        Err(error) => panic!("{about}: {error}"),
    };
    let (mut missing, mut is_unreadable) = (0, false);
    for (room_id, count) in [(1, RECORDS), (2, 2)] {
        let from = From::After(Position::default());
        let load =
            Load { room: room(room_id), from, frames_max: usize::MAX, bytes_max: usize::MAX };
        // What cannot be read is said to be so.
        let Some(page) = store.try_load(load) else {
            is_unreadable = true;
            continue;
        };
        let found = page.records.len() as u64;
        if found < count {
            assert!(
                page.floor.epoch > 1 || !page.known,
                "{about}: room {room_id} {:?}",
                seqs(&page)
            );
            missing += count - found;
        }
    }
    let lost = store.found.lost.map_or(0, |lost| lost.records);
    assert_eq!(lost, missing, "{about}");
    assert!(!log || lost > 0 || matches!(damage, Damage::Halve), "{about}: it is a log");
    assert_eq!(store.found.clean, lost == 0, "{about}");
    let damage = store.keeper.stats().damage;
    assert_eq!(damage.is_some(), lost > 0 || is_unreadable, "{about}");
    assert_eq!(damage.map_or(0, |damage| damage.records), lost, "{about}");
    if lost > 0 {
        assert!(store.found.epoch_max > 1, "{about}");
        let epoch = store.found.epoch_max + 1;
        assert!(store.store(record(1, epoch, 1)), "{about}: it goes on");
        store.close();
        let mut store = Store::open(&dir.0);
        assert!(store.found.clean && store.found.lost.is_none(), "{about}: that was then");
        assert_eq!(store.all(room(1)).end, at(epoch, 1));
    }
}

/// Opens it nevertheless: it is empty, and its epochs are others.
fn accept(dir: &Path, about: &str) {
    let mut store = Store::open_with(Options { accept_lost: true, ..options(dir) });
    let Lost { records, all, .. } = store.found.lost.expect("something is gone");
    assert_eq!((records, all, store.found.rooms.len()), (RECORDS + 2, true, 0), "{about}");
    assert!(store.found.epoch_max >= 1 && !store.found.clean, "{about}");
    assert!(store.store(record(1, 9, 1)), "{about}: it goes on");
    store.close();
    let store = Store::open(dir);
    assert!(store.found.clean && store.found.rooms.len() == 1, "{about}: that was then");
}

/// Whether it is a log.
fn spoil(file: &Path, damage: Damage) -> bool {
    let mut bytes = fs::read(file).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(bytes.len(), |last| last + 1);
    fs::remove_file(file).unwrap();
    match damage {
        Damage::Remove => return false,
        Damage::Empty => bytes.clear(),
        Damage::Halve => bytes.truncate(used / 2),
        Damage::Flip(permille) => bytes[used * permille / 1000] ^= 1,
    }
    fs::write(file, bytes).unwrap();
    file.extension().is_some_and(|end| end == "jnl")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// A copy, of which tables are shared: nobody writes to those.
fn link(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            link(&path, &to);
        } else if path.parent().is_some_and(|dir| dir.ends_with("tables")) {
            fs::hard_link(&path, &to).unwrap();
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}
