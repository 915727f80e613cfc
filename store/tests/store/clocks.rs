//! The system's clock is behind at the start, is set while the store runs, or has gone back: nothing
//! that was just stored is taken away for it.

use barrage_store::{Options, Retention, UnixClock};

use crate::world::{Store, TempDir, options, record, room, seqs};

const HOUR_MS: u64 = 3_600_000;
/// Long after 1970 and long before now.
const BEHIND_MS: u64 = 1_000 * HOUR_MS;
const NOTES: u8 = 3;

/// A store that begins at this moment, keeps records for an hour, and has notes of moments.
fn open(dir: &TempDir, now_ms: u64) -> Store {
    let retention = vec![(4, Retention { age_s: 3600, ..Retention::default() })];
    let clock = UnixClock::start_at(now_ms);
    Store::open_with(Options { retention, clock, redate: later, ..options(&dir.0) })
}

fn later(space: u8, _: &[u8], value: &[u8], by_ms: u64) -> Option<Vec<u8>> {
    let moment = u64::from_be_bytes(value.try_into().ok()?);
    (space == NOTES).then(|| (moment + by_ms).to_be_bytes().to_vec())
}

/// Stores a record of this moment as the room's next.
fn say(store: &mut Store, seq: u64, time_ms: u64) {
    let mut record = record(1, 1, seq);
    record.time_ms = time_ms;
    assert!(store.store(record));
}

#[test]
fn records_age_by_the_clock_that_has_dated_them() {
    let dir = TempDir::new("behind");
    let mut store = open(&dir, BEHIND_MS);
    say(&mut store, 1, BEHIND_MS - 2 * HOUR_MS);
    say(&mut store, 2, BEHIND_MS);
    store.wait(|stats| stats.kept_records < 2);
    assert_eq!(seqs(&store.all(room(1))), [2], "it was stored a moment ago");
    store.close();
}

#[test]
fn what_was_dated_before_the_clock_was_set_is_as_young_as_it_is() {
    let dir = TempDir::new("set");
    let ahead_ms = 5 * HOUR_MS;
    let mut store = open(&dir, BEHIND_MS);
    assert_eq!(store.found.clock.start_ms(), BEHIND_MS);
    assert!(store.put_note(NOTES, b"ban", &(BEHIND_MS + HOUR_MS).to_be_bytes()));
    assert!(store.put_note(NOTES + 1, b"other", &7u64.to_be_bytes()));
    say(&mut store, 1, BEHIND_MS);
    store.keeper.set_clock_ahead(ahead_ms);
    say(&mut store, 2, BEHIND_MS + 1);
    store.close();

    // Twice: what was dated anew is so once.
    for (seq, restart_ms) in [(3, BEHIND_MS + ahead_ms), (4, BEHIND_MS + ahead_ms + 10)] {
        let mut store = open(&dir, restart_ms);
        assert_eq!(store.found.clock.start_ms(), restart_ms);
        let moments = store.found.notes.iter().map(|(_, _, value)| value.clone());
        let moments: Vec<u64> =
            moments.map(|value| u64::from_be_bytes(value.try_into().unwrap())).collect();
        assert_eq!(moments, [BEHIND_MS + HOUR_MS + ahead_ms, 7], "it ends an hour after it began");
        let mut old = record(2, 1, seq);
        old.time_ms = 0;
        old.category = 5;
        assert!(store.store(old));
        let bound = Retention { age_s: 3600, ..Retention::default() };
        store.keeper.set_retention(vec![(4, bound), (5, bound)]);
        say(&mut store, seq, restart_ms);
        store.wait(|stats| stats.kept_records < seq + 1);
        assert_eq!(seqs(&store.all(room(1))), (1..=seq).collect::<Vec<_>>(), "all are young");
        store.close();
    }

    // An hour later they are not.
    let mut store = open(&dir, BEHIND_MS + ahead_ms + 2 * HOUR_MS);
    store.wait(|stats| stats.kept_records == 0);
    assert!(store.all(room(1)).records.is_empty());
    store.close();
}

#[test]
fn a_clock_that_went_back_goes_on_from_the_newest_record() {
    let dir = TempDir::new("back");
    let mut store = open(&dir, BEHIND_MS);
    say(&mut store, 1, BEHIND_MS);
    store.close();
    let mut store = open(&dir, HOUR_MS);
    assert_eq!(store.found.clock.start_ms(), BEHIND_MS);
    assert!(store.found.clock.now_ms() >= BEHIND_MS);
    assert_eq!(seqs(&store.all(room(1))), [1]);
    store.close();
}
