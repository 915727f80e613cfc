//! What was on disk when the gateway starts, sorted by the shard that is home to it.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use anyhow::{Context, Result};
use barrage_router::{CATEGORIES_MAX, Keep, Order, home_of_room, home_of_user};
use barrage_store::{Found, Keeper, Options, Retention, UnixClock, Wake};
use barrage_sys::Waker;

use crate::config::Config;
use crate::limits::{HISTORY_CACHE_BYTES, HISTORY_QUEUE_MAX, MARKS_KEPT_S, REMOVED_KEPT_S};
use crate::note::{self, DeviceNote, MessageNote, NOTE_DEVICE, NOTE_MESSAGE, NOTE_ORDER};
use crate::policy_file::Rules;
use crate::shard::{History, Restored};

/// What each shard begins with.
pub struct Stored {
    /// By shard; empty without a directory.
    pub shards: VecDeque<(History, Restored)>,
    /// The highest epoch that any room has had.
    pub epoch_max: u64,
    /// The gateway's time.
    pub clock: UnixClock,
}

/// Opens the directory that the operator has named, if any.
pub fn open(config: &Config, rules: &Rules, wakers: &[Waker]) -> Result<(Stored, Option<Keeper>)> {
    let clock = UnixClock::start();
    let Some(dir) = &config.data else {
        return Ok((Stored { shards: VecDeque::new(), epoch_max: 0, clock }, None));
    };
    let shards = wakers.len();
    let options = Options {
        dir: dir.clone(),
        shards,
        queue_max: HISTORY_QUEUE_MAX,
        retention: retention(rules),
        cache_bytes: HISTORY_CACHE_BYTES,
        clock,
        redate: note::redate,
        accept_lost: config.accept_lost_history,
    };
    let wake = |waker: &Waker| -> Wake {
        let waker = waker.clone();
        Box::new(move || waker.signal())
    };
    let wakes = wakers.iter().map(wake).collect();
    let (clients, keeper, mut found) =
        barrage_store::open(options, wakes).map_err(|error| explain(error, dir))?;
    report(dir, &found);
    let behind_ms = found.clock.start_ms() - clock.start_ms();
    if behind_ms > 0 {
        tracing::warn!(
            "the system's clock is {} s behind the newest message of the history: the gateway's own time \
             goes on from there",
            behind_ms as f64 / 1000.0
        );
    }
    let (rooms, in_order) = (std::mem::take(&mut found.rooms), found.clean);
    let mut known = vec![Vec::new(); shards];
    let of_shards = NonZeroU16::new(shards as u16).context("no core to run on")?;
    for (room, at, _) in rooms {
        known[usize::from(home_of_room(room, of_shards).0)].push((room, at));
    }
    let restored = sort(&found, of_shards);
    let histories = clients.into_iter().zip(known);
    // Out of order, numbers may have been given that are not on disk: rooms begin another epoch.
    let histories = histories.map(|(client, known)| History::new(client, known, in_order));
    let shards = histories.zip(restored).collect();
    Ok((Stored { shards, epoch_max: found.epoch_max, clock: found.clock }, Some(keeper)))
}

/// How long each category is kept. One that is kept in memory leaves marks on disk, and one that the
/// policy has no longer leaves messages: these go as well.
pub fn retention(rules: &Rules) -> Vec<(u16, Retention)> {
    let of = |id: u16| match rules.policy.category(id) {
        Some(category) if category.keep == Keep::Disk => {
            let barrage_router::Retention { age_s, count, bytes } = category.retention;
            (id, Retention { age_s, count, bytes })
        }
        Some(_) => (id, Retention { age_s: MARKS_KEPT_S, ..Retention::default() }),
        None => (id, Retention { age_s: REMOVED_KEPT_S, ..Retention::default() }),
    };
    (0..CATEGORIES_MAX as u16).map(of).collect()
}

/// What the operator can do about it is said where the options are known.
fn explain(error: barrage_store::Error, dir: &std::path::Path) -> anyhow::Error {
    let hint = match &error {
        barrage_store::Error::Lost { .. } => {
            ". Put its files back from a copy; or begin an empty one with --accept-lost-history, which \
             moves what is left aside"
        }
        _ => "",
    };
    anyhow::anyhow!("--data {}: {error}{hint}", dir.display())
}

fn report(dir: &std::path::Path, found: &Found) {
    let (rooms, dir) = (found.rooms.len(), dir.display());
    if found.clean {
        tracing::info!("history in {dir}: {rooms} rooms go on where they were");
    } else if found.lost.is_some() {
        tracing::warn!("history in {dir}: {rooms} rooms are left, and go on in another epoch");
    } else {
        tracing::warn!(
            "history in {dir}: the gateway was not ended in order; what was stored is there, and \
             {rooms} rooms go on in another epoch"
        );
    }
}

fn sort(found: &Found, shards: NonZeroU16) -> Vec<Restored> {
    let mut restored: Vec<Restored> = (0..shards.get()).map(|_| Restored::default()).collect();
    for &(room, key, seq) in &found.keys {
        restored[usize::from(home_of_room(room, shards).0)].keys.push((room, key, seq));
    }
    let mut unread = 0;
    for (space, key, value) in &found.notes {
        let read = match *space {
            NOTE_MESSAGE => note::read_key(key).zip(MessageNote::read(value)).map(|(at, note)| {
                let mine = &mut restored[usize::from(home_of_user(at.0, shards).0)];
                mine.messages.push((at.0, at.1, note));
            }),
            NOTE_DEVICE => note::read_key(key).zip(DeviceNote::read(value)).map(|(at, note)| {
                let mine = &mut restored[usize::from(home_of_user(at.0, shards).0)];
                mine.devices.push((at.0, at.1, note));
            }),
            NOTE_ORDER => Order::read(key, value).map(|order| {
                restored.iter_mut().for_each(|shard| shard.orders.push(order.clone()));
            }),
            _ => None,
        };
        unread += usize::from(read.is_none());
    }
    if unread > 0 {
        tracing::warn!("{unread} notes in the history are of another version and are left alone");
    }
    restored
}
