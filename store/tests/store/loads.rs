//! What a load answers: from where, how much, and whether anything is missing.

use barrage_store::{From, Load};

use crate::world::{Store, TempDir, at, record, room, seqs};

/// Numbers of room 1 that a load brings, with and without the help of the cache.
fn check(from: From, frames_max: usize, bytes_max: usize, expected: &[u64], more: bool) {
    for cache_bytes in [0, 1 << 20] {
        let dir = TempDir::new("loads");
        let mut options = crate::world::options(&dir.0);
        options.cache_bytes = cache_bytes;
        let mut store = Store::open_with(options);
        // Times: 100, 100, 200, 200, 300 …; two epochs; another room on either side.
        let records = (1..=10).map(|seq| {
            let mut record = record(1, if seq <= 6 { 5 } else { 8 }, seq);
            record.time_ms = seq.div_ceil(2) * 100;
            record
        });
        store.store_all(records.chain([record(0, 5, 1), record(2, 5, 1)]));
        let page = store.load_part(Load { room: room(1), from, frames_max, bytes_max });
        assert_eq!((seqs(&page).as_slice(), page.more), (expected, more), "{from:?}");
        assert_eq!((page.floor, page.end), (at(0, 0), at(8, 10)));
        assert!(page.records.iter().all(|r| r.frame == record(1, r.at.epoch, r.at.seq).frame));
        store.close();
    }
}

const ALL: usize = usize::MAX;

#[test]
fn after_a_place() {
    check(From::After(at(0, 0)), ALL, ALL, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], false);
    check(From::After(at(5, 4)), ALL, ALL, &[5, 6, 7, 8, 9, 10], false);
    check(From::After(at(5, 99)), ALL, ALL, &[7, 8, 9, 10], false);
    check(From::After(at(8, 9)), ALL, ALL, &[10], false);
    check(From::After(at(8, 10)), ALL, ALL, &[], false);
    check(From::After(at(u64::MAX, u64::MAX)), ALL, ALL, &[], false);
}

#[test]
fn since_a_time() {
    check(From::Since(0), ALL, ALL, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], false);
    check(From::Since(100), ALL, ALL, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], false);
    check(From::Since(101), ALL, ALL, &[3, 4, 5, 6, 7, 8, 9, 10], false);
    check(From::Since(400), ALL, ALL, &[7, 8, 9, 10], false);
    check(From::Since(500), ALL, ALL, &[9, 10], false);
    check(From::Since(501), ALL, ALL, &[], false);
    check(From::Since(u64::MAX), ALL, ALL, &[], false);
}

#[test]
fn a_page_has_its_limits_and_leads_on() {
    check(From::After(at(0, 0)), 3, ALL, &[1, 2, 3], true);
    check(From::Since(300), 2, ALL, &[5, 6], true);
    // A frame is five bytes long.
    check(From::After(at(0, 0)), ALL, 11, &[1, 2], true);
    check(From::After(at(0, 0)), ALL, 1, &[1], true);
    check(From::After(at(5, 2)), 8, ALL, &[3, 4, 5, 6, 7, 8, 9, 10], false);
    check(From::After(at(5, 2)), 7, ALL, &[3, 4, 5, 6, 7, 8, 9], true);
}

#[test]
fn a_room_that_never_was_is_empty_and_not_known() {
    let dir = TempDir::new("never-was");
    let mut store = Store::open(&dir.0);
    store.store_all([record(1, 5, 1)]);
    let page = store.load(room(3), From::After(at(5, 0)));
    assert_eq!((page.records.len(), page.end, page.known), (0, at(0, 0), false));
    assert!(store.load(room(1), From::After(at(5, 0))).known);
    assert!(!store.load(room(1), From::After(at(4, 0))).known);
    store.close();
}

/// Appends (epoch, seq) pairs to one room and checks which are stored and where its floor is.
fn check_floor(appends: &[(u64, u64)], stored: &[(u64, u64)], floor: (u64, u64)) {
    let dir = TempDir::new("floor");
    let mut store = Store::open(&dir.0);
    let taken = appends.iter().filter(|&&(epoch, seq)| store.store(record(1, epoch, seq))).count();
    assert_eq!(taken, stored.len(), "{appends:?}");
    assert_eq!(store.keeper.stats().refused as usize, appends.len() - taken);
    let page = store.all(room(1));
    let found: Vec<_> = page.records.iter().map(|r| (r.at.epoch, r.at.seq)).collect();
    assert_eq!((found.as_slice(), page.floor), (stored, at(floor.0, floor.1)), "{appends:?}");
    store.close();
}

#[test]
fn a_gap_moves_the_floor_and_a_step_back_is_refused() {
    check_floor(&[(1, 1), (1, 2)], &[(1, 1), (1, 2)], (0, 0));
    check_floor(&[(1, 40), (1, 41)], &[(1, 40), (1, 41)], (1, 39));
    check_floor(&[(1, 1), (1, 3)], &[(1, 1), (1, 3)], (1, 2));
    check_floor(&[(1, 1), (1, 2), (1, 1)], &[(1, 1), (1, 2)], (0, 0));
    check_floor(&[(2, 1), (1, 9)], &[(2, 1)], (0, 0));
    check_floor(&[(1, 1), (1, 2), (2, 1)], &[(1, 1), (1, 2), (2, 1)], (0, 0));
    check_floor(&[(1, 1), (1, 2), (2, 3)], &[(1, 1), (1, 2), (2, 3)], (0, 0));
    check_floor(&[(1, 1), (1, 2), (2, 9)], &[(1, 1), (1, 2), (2, 9)], (2, 8));
    check_floor(&[(1, u64::MAX), (2, 0)], &[(1, u64::MAX), (2, 0)], (1, u64::MAX - 1));
}

#[test]
fn a_clock_that_steps_back_is_held() {
    let dir = TempDir::new("clock");
    let mut store = Store::open(&dir.0);
    let times = [500, 300, 600, 100];
    store.store_all((1..).zip(times).map(|(seq, time_ms)| {
        let mut record = record(1, 1, seq);
        record.time_ms = time_ms;
        record
    }));
    let page = store.all(room(1));
    let found: Vec<u64> = page.records.iter().map(|record| record.time_ms).collect();
    assert_eq!(found, [500, 500, 600, 600]);
    assert_eq!(seqs(&store.load(room(1), From::Since(501))), [3, 4]);
    store.close();
}

#[test]
fn a_load_sees_what_was_appended_before_it() {
    let dir = TempDir::new("sees");
    let mut store = Store::open(&dir.0);
    for seq in 1..=500 {
        store.client.append(record(1, 1, seq), None).unwrap();
        if seq % 7 == 0 {
            assert_eq!(store.all(room(1)).end, at(1, seq));
        }
    }
    store.close();
}
