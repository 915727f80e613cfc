//! What goes, when, and what a room says about it.

use std::time::{SystemTime, UNIX_EPOCH};

use barrage_store::{From, Retention};

use crate::world::{Store, TempDir, at, options, record, room, seqs};

/// Stores 3,000 records of two categories in turn in one room, and checks what is left of each
/// under a bound on the first.
fn check(bound: Retention, left: u64) {
    const RECORDS: u64 = 3000;
    let dir = TempDir::new("retention");
    let mut options = options(&dir.0);
    options.retention = vec![(4, bound)];
    let mut store = Store::open_with(options);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    store.store_all((1..=RECORDS).map(|seq| {
        let mut record = record(1, 1, seq);
        // The last thousand are from now; those before are two hours old.
        record.time_ms = if seq > 2000 { now_ms } else { now_ms - 7_200_000 };
        record.category = if seq % 2 == 0 { 4 } else { 1 };
        record.frame = vec![7; 59].into();
        record
    }));
    store.wait(|stats| stats.kept_records <= RECORDS / 2 + left);
    let expect = |store: &mut Store| {
        let page = store.all(room(1));
        let (kept, other): (Vec<_>, Vec<_>) =
            page.records.iter().partition(|record| record.category == 4);
        let oldest = RECORDS + 2 - 2 * left;
        assert_eq!(kept.len() as u64, left, "{bound:?}");
        assert!(kept.iter().all(|record| record.at.seq >= oldest), "{bound:?}");
        assert_eq!(other.len() as u64, RECORDS / 2, "{bound:?}");
        assert_eq!(page.floor, at(1, oldest - 2), "{bound:?}");
        assert_eq!(page.end, at(1, RECORDS));
        let after = store.load(room(1), From::After(page.floor));
        assert_eq!(after.records.len() as u64, RECORDS - page.floor.seq, "nothing is missing");
    };
    expect(&mut store);
    let kept = store.keeper.stats();
    store.close();
    let mut store = Store::open(&dir.0);
    expect(&mut store);
    let again = store.keeper.stats();
    assert_eq!((again.kept_records, again.kept_bytes), (kept.kept_records, kept.kept_bytes));
    store.close();
}

#[test]
fn by_count() {
    check(Retention { count: 100, ..Retention::default() }, 100);
    check(Retention { count: 1, ..Retention::default() }, 1);
    check(Retention { count: 1499, ..Retention::default() }, 1499);
}

#[test]
fn by_bytes() {
    // Name 29, header 12, frame 59.
    check(Retention { bytes: 50_000, ..Retention::default() }, 500);
    check(Retention { bytes: 50_099, ..Retention::default() }, 500);
}

#[test]
fn by_age() {
    check(Retention { age_s: 3600, ..Retention::default() }, 500);
}

#[test]
fn the_tightest_bound_counts() {
    check(Retention { age_s: 3600, count: 700, bytes: 30_000 }, 300);
}

#[test]
fn bounds_change_while_it_runs() {
    let dir = TempDir::new("bounds");
    let mut store = Store::open(&dir.0);
    store.store_all((1..=1000).map(|seq| record(1, 1, seq)));
    assert_eq!(store.keeper.stats().kept_records, 1000);
    store.keeper.set_retention(vec![(4, Retention { count: 10, ..Retention::default() })]);
    store.wait(|stats| stats.kept_records == 10);
    assert_eq!(seqs(&store.all(room(1))), (991..=1000).collect::<Vec<_>>());
    store.keeper.set_retention(Vec::new());
    store.store_all((1001..=1100).map(|seq| record(1, 1, seq)));
    assert_eq!(store.keeper.stats().kept_records, 110);
    store.close();
}

#[test]
fn a_room_that_is_long_silent_is_forgotten() {
    let dir = TempDir::new("forgotten");
    let mut store = Store::open(&dir.0);
    store.store_all((1..=200).map(|id| record(id, 6, 1)));
    // The records are from 1970. When the last one is gone, so are the rooms.
    store.keeper.set_retention(vec![(4, Retention { age_s: 1, ..Retention::default() })]);
    store.wait(|stats| stats.kept_records == 0 && stats.rooms == 0);
    store.close();
    let store = Store::open(&dir.0);
    assert_eq!(store.found.rooms, []);
    assert_eq!(store.found.epoch_max, 6, "it outlives the rooms");
    store.close();
}
