//! What a directory says when it is opened again.

use std::os::unix::fs::PermissionsExt;

use barrage_store::{Client, Done, Error, KEYS_MAX, Options, Wake, open};
use smallvec::smallvec;

use crate::world::{Store, TempDir, at, options, record, room};

#[test]
fn everything_comes_back() {
    let dir = TempDir::new("back");
    let nested = dir.0.join("a/b");
    let mut store = Store::open(&nested);
    assert!(store.found.clean, "nothing is missing from nothing");
    assert!(store.found.rooms.is_empty());
    let mut keyed = record(2, 9, 1);
    keyed.keys = smallvec![77, 78];
    keyed.never_drop = true;
    store.store_all([record(1, 5, 1), record(1, 5, 2), keyed]);
    assert!(store.put_note(3, b"key", b"value"));
    assert!(store.put_note(3, b"gone", b"value"));
    store.client.delete_note(3, b"gone").unwrap();
    store.close();

    assert_eq!(std::fs::metadata(&nested).unwrap().permissions().mode() & 0o777, 0o700);
    let mut store = Store::open(&nested);
    let found = &mut store.found;
    found.rooms.sort();
    assert!(found.clean);
    assert_eq!(found.rooms[0], (room(1), at(5, 2), 1_000_002));
    assert_eq!(found.rooms[1], (room(2), at(9, 1), 1_000_001));
    assert_eq!(found.epoch_max, 9);
    assert_eq!(found.keys, [(room(2), 77, 1), (room(2), 78, 1)]);
    assert_eq!(found.notes, [(3, b"key".to_vec(), b"value".to_vec())]);
    let kept = store.all(room(2)).records.remove(0);
    let mut expected = record(2, 9, 1);
    expected.never_drop = true;
    assert_eq!(kept, expected);
    assert!(store.store(record(1, 5, 3)), "it goes on where it was");
    assert_eq!(store.all(room(1)).floor, at(0, 0));
    store.close();
}

#[test]
fn a_store_that_was_not_closed_is_not_clean() {
    let dir = TempDir::new("not-closed");
    let mut store = Store::open(&dir.0);
    store.store_all([record(1, 5, 1)]);
    let Store { client, keeper, .. } = store;
    drop((client, keeper));
    // The writer ends by itself; until then the directory is in use.
    let store = loop {
        match Store::try_open(options(&dir.0)) {
            Ok(store) => break store,
            Err(Error::Locked(_)) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(!store.found.clean);
    assert_eq!(store.found.rooms, [(room(1), at(5, 1), 1_000_001)]);
    store.close();
    let store = Store::open(&dir.0);
    assert!(store.found.clean, "the mark is back");
    store.close();
}

#[test]
fn only_one_store_has_a_directory() {
    let dir = TempDir::new("locked");
    let store = Store::open(&dir.0);
    let Err(error) = Store::try_open(options(&dir.0)) else { panic!("two have it") };
    assert!(error.to_string().contains("in use by another gateway"), "{error}");
    store.close();
    Store::open(&dir.0).close();
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let dir = TempDir::new("format");
    Store::open(&dir.0).close();
    std::fs::write(dir.0.join("format"), "barrage history 99\n").unwrap();
    let Err(error) = Store::try_open(options(&dir.0)) else { panic!("it was opened") };
    assert!(error.to_string().contains("barrage history 99"), "{error}");

    let dir = TempDir::new("foreign");
    std::fs::create_dir(&dir.0).unwrap();
    std::fs::write(dir.0.join("letter"), "dear").unwrap();
    let Err(error) = Store::try_open(options(&dir.0)) else { panic!("it was opened") };
    assert!(error.to_string().contains("holds no history"), "{error}");
}

#[test]
fn the_newest_keys_are_kept() {
    const MORE: u64 = 1000;
    let dir = TempDir::new("keys");
    let mut store = Store::open(&dir.0);
    let all = KEYS_MAX as u64 + MORE;
    store.store_all((1..=all).map(|seq| {
        let mut record = record(1, 1, seq);
        record.keys = smallvec![u128::from(seq)];
        record
    }));
    store.close();
    let store = Store::open(&dir.0);
    let kept: Vec<u128> = store.found.keys.iter().map(|&(_, key, _)| key).collect();
    assert!(kept.into_iter().eq(u128::from(MORE + 1)..=u128::from(all)));
    store.close();
}

#[test]
fn a_full_queue_takes_nothing() {
    let dir = TempDir::new("full-queue");
    let mut options = options(&dir.0);
    options.queue_max = 4;
    let mut store = Store::open_with(options);
    // Answers that nobody fetches keep their places, whatever the writer does meanwhile.
    let taken = (1..=9).map(|seq| store.client.append(record(1, 1, seq), Some(seq)).is_ok());
    assert_eq!(taken.collect::<Vec<_>>(), [[true; 4].as_slice(), &[false; 5]].concat());
    assert_eq!(store.client.room(), 0);
    (0..4).for_each(|_| drop(store.next()));
    assert_eq!(store.client.room(), 4);
    assert_eq!(store.all(room(1)).end, at(1, 4), "what was not taken is not stored");
    store.close();
}

#[test]
fn every_client_is_answered_what_it_asked() {
    const RECORDS: u64 = 2000;
    let dir = TempDir::new("clients");
    let (shards, wake) = (3, || -> Wake { Box::new(std::thread::yield_now) });
    let wakes = (0..shards).map(|_| wake()).collect();
    let (clients, keeper, _) = open(Options { shards, ..options(&dir.0) }, wakes).unwrap();
    let run = |(id, mut client): (u64, Client)| {
        move || {
            let mut stored = 0;
            for seq in 1..=RECORDS {
                let token = id << 32 | seq;
                while client.append(record(id, 1, seq), Some(token)).is_err() {
                    stored = drain(&mut client, id, stored);
                }
            }
            while stored < RECORDS {
                stored = drain(&mut client, id, stored);
            }
        }
    };
    std::thread::scope(|scope| (0..).zip(clients).map(run).for_each(|run| drop(scope.spawn(run))));
    keeper.close().unwrap();
    let mut store = Store::open(&dir.0);
    for id in 0..shards as u64 {
        assert_eq!(store.all(room(id)).records.len() as u64, RECORDS);
    }
    store.close();
}

/// Fetches what is there; each must be the next token of this client.
fn drain(client: &mut Client, id: u64, mut stored: u64) -> u64 {
    while let Some(done) = client.done() {
        stored += 1;
        assert_eq!(done, Done::Stored { token: id << 32 | stored });
    }
    std::thread::yield_now();
    stored
}
