//! What is counted, and the one state that everybody may ask for.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::record::Lost;

/// Whether records reach the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// They do.
    #[default]
    Ok,
    /// They do not: what is appended now is lost. The store tries again about once a second.
    Failing {
        /// What an operator can do about it.
        why: String,
    },
}

/// What was stored and is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Messages that were stored and are gone.
    pub records: u64,
    /// What there is to say to an operator.
    pub what: String,
}

impl Damage {
    pub(crate) fn new(dir: &Path, lost: Lost) -> Self {
        let Lost { records, commits, all } = lost;
        let dir = dir.display();
        let of_which = if all { "all of the history" } else { "the newest part of the history" };
        let what = format!(
            "the history in {dir} was damaged: {of_which} is gone, {records} messages that had been \
             stored and what was noted of inboxes, bans and mutes in the same {commits} writes"
        );
        Self { records, what }
    }
}

/// Counts since the store was opened, unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commands that wait now.
    pub queued: usize,
    /// Commits that were synced.
    pub batches: u64,
    /// Records that were stored.
    pub records: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Microseconds that syncs took.
    pub sync_us: u64,
    /// Microseconds that the longest sync took.
    pub sync_us_max: u64,
    /// Loads that were answered.
    pub loads: u64,
    /// Loads among them that needed no disk.
    pub cache_hits: u64,
    /// Commands without a token that were lost because the disk failed.
    pub dropped: u64,
    /// Records that were refused because their place was not behind the room's last one.
    pub refused: u64,
    /// Rooms that it knows now, each about 150 bytes of memory.
    pub rooms: u64,
    /// Records that are in the store now.
    pub kept_records: u64,
    /// Their bytes as retention counts them.
    pub kept_bytes: u64,
    /// Whether records reach the disk now.
    pub state: State,
    /// What has gone, found at the start or since.
    pub damage: Option<Damage>,
}

/// What the store's threads tell everybody. None of it is on anybody's way: counters are written
/// once per batch, and the state is read only when its version has changed.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) batches: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) sync_us: AtomicU64,
    pub(crate) sync_us_max: AtomicU64,
    pub(crate) loads: AtomicU64,
    pub(crate) cache_hits: AtomicU64,
    pub(crate) dropped: AtomicU64,
    /// A record did not even get into the queue.
    pub(crate) lost: AtomicBool,
    pub(crate) refused: AtomicU64,
    pub(crate) rooms: AtomicU64,
    pub(crate) kept_records: AtomicU64,
    pub(crate) kept_bytes: AtomicU64,
    pub(crate) state_version: AtomicU64,
    /// Stored batches on their way to the cache.
    pub(crate) written_open: AtomicUsize,
    state: Mutex<State>,
    damage: Mutex<Option<Damage>>,
}

impl Shared {
    pub(crate) fn count(&self, counter: impl Fn(&Self) -> &AtomicU64, more: u64) {
        counter(self).fetch_add(more, Relaxed);
    }

    pub(crate) fn synced(&self, took: Duration) {
        let us = took.as_micros() as u64;
        self.batches.fetch_add(1, Relaxed);
        self.sync_us.fetch_add(us, Relaxed);
        self.sync_us_max.fetch_max(us, Relaxed);
    }

    pub(crate) fn state(&self) -> State {
        self.lock().clone()
    }

    pub(crate) fn set_state(&self, state: State) {
        let mut now = self.lock();
        if *now != state {
            *now = state;
            // Within the lock, so that who sees the version finds this state or a newer one.
            self.state_version.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn stats(&self, queued: usize) -> Stats {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        Stats {
            queued,
            batches: of(&self.batches),
            records: of(&self.records),
            bytes: of(&self.bytes),
            sync_us: of(&self.sync_us),
            sync_us_max: of(&self.sync_us_max),
            loads: of(&self.loads),
            cache_hits: of(&self.cache_hits),
            dropped: of(&self.dropped),
            refused: of(&self.refused),
            rooms: of(&self.rooms),
            kept_records: of(&self.kept_records),
            kept_bytes: of(&self.kept_bytes),
            state: self.state(),
            damage: self.damage().clone(),
        }
    }

    /// Says loudly that something is gone.
    pub(crate) fn set_damage(&self, damage: Damage) {
        tracing::error!("{}", damage.what);
        *self.damage() = Some(damage);
    }

    /// The same of something that is there and cannot be read, unless worse is known.
    pub(crate) fn set_unreadable(&self, why: &str) {
        let what = format!("a part of the history cannot be read: {why}");
        self.damage().get_or_insert(Damage { records: 0, what });
    }

    fn damage(&self) -> MutexGuard<'_, Option<Damage>> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
