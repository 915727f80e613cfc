//! Many who come back at once read the disk once.

use barrage_store::{From, Retention};

use crate::world::{Store, TempDir, at, options, record, room, seqs};

#[test]
fn the_disk_is_read_once() {
    let dir = TempDir::new("cache");
    let mut store = Store::open(&dir.0);
    store.store_all((1..=300).map(|seq| record(1, 1, seq)));
    store.close();
    let mut store = Store::open(&dir.0);
    for back in 0..1000 {
        let page = store.load(room(1), From::After(at(1, 100 + back % 200)));
        assert_eq!(page.records.len() as u64, 200 - back % 200);
    }
    let stats = store.keeper.stats();
    assert_eq!((stats.loads, stats.cache_hits), (1000, 999));
    let first = store.load(room(1), From::After(at(1, 100)));
    let second = store.load(room(1), From::After(at(1, 100)));
    let address = |page: &barrage_store::Page| page.records[0].frame.as_ptr();
    assert_eq!(address(&first), address(&second), "the bytes are shared");
    store.close();
}

#[test]
fn what_is_written_is_in_it() {
    let dir = TempDir::new("cache-written");
    let mut store = Store::open(&dir.0);
    for seq in 1..=100 {
        assert!(store.store(record(1, 1, seq)));
        assert_eq!(seqs(&store.load(room(1), From::After(at(1, seq - 1)))), [seq]);
    }
    let stats = store.keeper.stats();
    assert_eq!((stats.loads, stats.cache_hits), (100, 100));
    store.close();
}

#[test]
fn it_does_not_bring_back_what_retention_has_taken() {
    let dir = TempDir::new("cache-retention");
    let mut options = options(&dir.0);
    options.retention = vec![(4, Retention { count: 5, ..Retention::default() })];
    let mut store = Store::open_with(options);
    store.store_all((1..=50).map(|seq| record(1, 1, seq)));
    store.wait(|stats| stats.kept_records == 5);
    assert_eq!(seqs(&store.all(room(1))), [46, 47, 48, 49, 50]);
    assert_eq!(seqs(&store.load(room(1), From::After(at(1, 45)))), [46, 47, 48, 49, 50]);
    store.close();
}

#[test]
fn a_small_cache_answers_as_a_large_one() {
    for cache_bytes in [0, 1000, 10_000, 100_000] {
        let dir = TempDir::new("cache-small");
        let mut options = options(&dir.0);
        options.cache_bytes = cache_bytes;
        let mut store = Store::open_with(options);
        for seq in 1..=60 {
            store.store_all((1..=20).map(|id| record(id, 1, seq)));
        }
        for id in 1..=20 {
            for from in [0, 30, 55, 59, 60] {
                let page = store.load(room(id), From::After(at(1, from)));
                assert_eq!(seqs(&page), (from + 1..=60).collect::<Vec<_>>());
            }
        }
        store.close();
    }
}
