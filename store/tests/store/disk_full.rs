//! A disk that takes nothing for a while.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use barrage_store::{Done, From, Position, State};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::world::{PATIENCE, Store, TempDir, at, record, room, seqs};

const DIR: &str = "BARRAGE_STORE_FULL_DIR";

/// Every write to a file fails as long as files may have one byte. That needs no rights and no file
/// system of its own, but a process of its own, and a shell that ignores the signal for it.
#[test]
fn an_outage_loses_nothing_that_was_stored_and_ends_by_itself() {
    let dir = TempDir::new("full");
    let command = format!(
        "trap '' XFSZ; exec '{}' disk_full::child --exact --ignored --nocapture",
        std::env::current_exe().unwrap().display()
    );
    let output = Command::new("sh").args(["-c", &command]).env(DIR, &dir.0).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");

    let mut store = Store::open(&dir.0);
    assert!(store.found.clean, "the child has closed it");
    check_after(&mut store);
    store.found.notes.sort();
    let notes: Vec<&[u8]> = store.found.notes.iter().map(|(_, key, _)| &key[..]).collect();
    assert_eq!(notes, [b"before".as_slice(), b"during"]);
    store.close();
}

#[test]
#[ignore = "a part of an_outage_loses_nothing..., which runs it in a process of its own"]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let mut store = Store::open(Path::new(&dir));
    store.store_all((1..=10).flat_map(|seq| (1..=3).map(move |id| record(id, 1, seq))));
    assert!(store.put_note(1, b"before", b""));
    assert!(store.put_note(1, b"deleted", b""));

    let whole = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(1), ..whole }).unwrap();
    // Room 1 loses three records, room 4 its first ones, rooms 2 and 3 nothing.
    assert!(!store.store(record(1, 1, 11)));
    assert!(!store.put_note(1, b"failed", b""));
    assert!(!store.store(record(1, 1, 12)));
    store.client.append(record(1, 1, 13), None).unwrap();
    // Its time is far from now, because a room without records is forgotten some day.
    let mut first = record(4, 1, 1);
    first.time_ms = 1 << 60;
    assert!(!store.store(first));
    store.client.put_note(1, b"during", b"", None).unwrap();
    store.client.delete_note(1, b"deleted").unwrap();
    let State::Failing { why } = store.keeper.stats().state else { panic!("it knows") };
    assert!(why.contains("file size limit"), "{why}");
    let page = store.all(room(1));
    assert_eq!(seqs(&page), (1..=10).collect::<Vec<_>>(), "what is stored is read meanwhile");
    assert_eq!((page.end, page.floor), (at(1, 10), at(1, 13)));
    assert_eq!(store.keeper.stats().dropped, 1);

    // There is room again, but the engine's files are out of reach for another while.
    let (files, away) = (Path::new(&dir).join("fjall"), Path::new(&dir).join("away"));
    std::fs::rename(&files, &away).unwrap();
    setrlimit(Resource::Fsize, whole).unwrap();
    wait_for(&mut store, |state| match state {
        State::Failing { why } => why.contains("is missing or empty"),
        State::Ok => panic!("it works without its files"),
    });
    assert!(!store.store(record(1, 1, 13)));
    std::fs::rename(&away, &files).unwrap();
    wait_for(&mut store, |state| *state == State::Ok);
    assert!(store.store(record(1, 1, 14)));
    assert!(store.store(record(2, 1, 11)));
    check_after(&mut store);
    store.close();
}

/// Waits until the client is told of a state; nothing else may come.
fn wait_for(store: &mut Store, wanted: impl Fn(&State) -> bool) {
    loop {
        let Done::State(state) = store.next() else { panic!("nothing was asked") };
        if wanted(&state) {
            return;
        }
    }
}

fn check_after(store: &mut Store) {
    let page = store.all(room(1));
    assert_eq!(seqs(&page), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14]);
    assert_eq!((page.end, page.floor), (at(1, 14), at(1, 13)));
    let page = store.all(room(2));
    assert_eq!((page.records.len(), page.end, page.floor), (11, at(1, 11), Position::default()));
    let page = store.all(room(3));
    assert_eq!((page.records.len(), page.end, page.floor), (10, at(1, 10), Position::default()));
    let page = store.all(room(4));
    assert_eq!((page.records.len(), page.end, page.floor), (0, at(0, 0), at(1, 1)));
    assert!(store.load(room(4), From::After(at(1, 0))).known);
}

/// A small file system, if it may be mounted.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(dir: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(dir).unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir);
        mount.output().is_ok_and(|output| output.status.success()).then(|| Self(dir.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_disk_that_is_really_full() {
    let dir = TempDir::new("tmpfs");
    let Some(_tmpfs) = Tmpfs::mount(&dir.0, "40m") else {
        // Past the harness, which would keep it to itself.
        let why = "SKIPPED: a tmpfs cannot be mounted here; the file size limit is tested anyway";
        writeln!(std::io::stderr(), "{why}").unwrap();
        return;
    };
    let ballast = dir.0.join("ballast");
    let mut store = Store::open(&dir.0.join("store"));
    std::fs::write(&ballast, vec![1; 24 << 20]).unwrap();
    let large = |seq| {
        let mut large = record(1, 1, seq);
        large.frame = vec![seq as u8; 60_000].into();
        large
    };
    let mut stored = 0;
    while store.store(large(stored + 1)) {
        stored += 1;
        assert!(stored < 1000, "the disk is never full");
    }
    let State::Failing { why } = store.keeper.stats().state else { panic!("it knows") };
    assert!(why.contains("the disk is full"), "{why}");
    assert_eq!(seqs(&store.all(room(1))), (1..=stored).collect::<Vec<_>>());
    std::fs::remove_file(&ballast).unwrap();
    let start = Instant::now();
    let mut seq = stored + 2;
    while !store.store(large(seq)) {
        seq += 1;
        assert!(start.elapsed() < PATIENCE, "it does not recover: {:?}", store.keeper.stats());
    }
    let page = store.all(room(1));
    assert_eq!(page.floor, at(1, seq - 1));
    assert_eq!(seqs(&page), (1..=stored).chain([seq]).collect::<Vec<_>>());
    store.close();
    let mut store = Store::open(&dir.0.join("store"));
    assert_eq!(store.all(room(1)), page);
    store.close();
}
