//! Takes away what is too old or too much, a little with each batch.

use ahash::AHashMap;

use crate::book::{Book, Draft, Line, Shelf, encode_lines};
use crate::clock::Dating;
use crate::engine::{Batch, Engine, View};
use crate::error::Fault;
use crate::keys::{self, Row};
use crate::limits::{FORGET_ROOMS_MAX, RETIRE_RECORDS_MAX, ROOM_FORGET_MS};
use crate::record::Retention;

/// What old is.
#[derive(Clone, Copy)]
pub(crate) struct Age<'a> {
    pub(crate) now_ms: u64,
    pub(crate) dating: &'a Dating,
}

/// The bounds in force, and where the last steps ended.
#[derive(Default)]
pub(crate) struct Retire {
    bounds: AHashMap<u16, Retention>,
    /// The room that was looked at last when rooms to forget were sought.
    forget_after: Vec<u8>,
}

impl Retire {
    pub(crate) fn new(bounds: Vec<(u16, Retention)>) -> Self {
        Self { bounds: bounds.into_iter().collect(), forget_after: Vec::new() }
    }

    pub(crate) fn set(&mut self, bounds: Vec<(u16, Retention)>) {
        self.bounds = bounds.into_iter().collect();
    }

    /// Adds to a batch the removal of some records that are over their bounds, and of rooms that
    /// have had none for long; whether that was all. What cannot be read cannot be removed: then
    /// retention rests until it is set again, and writing goes on.
    pub(crate) fn step(
        &mut self,
        engine: &Engine,
        book: &Book,
        draft: &mut Draft,
        batch: &mut Batch,
        now: Option<Age<'_>>,
    ) -> bool {
        let done = self.retire(engine, book, draft, batch, now).and_then(|all| {
            if let (Some(now), true) = (now, all) {
                self.forget(&engine.view(), draft, batch, now)?;
            }
            Ok(all)
        });
        done.unwrap_or_else(|fault| {
            tracing::error!(%fault, "retention rests: history cannot be read");
            self.bounds.clear();
            true
        })
    }

    /// At most `RETIRE_RECORDS_MAX` records; whether that was all of them. Looking for old ones
    /// takes a read for each category, so that is done only when it is said what is old.
    fn retire(
        &self,
        engine: &Engine,
        book: &Book,
        draft: &mut Draft,
        batch: &mut Batch,
        now: Option<Age<'_>>,
    ) -> Result<bool, Fault> {
        let mut step = Step { engine, book, draft, batch, now, left: RETIRE_RECORDS_MAX };
        for (&category, bound) in &self.bounds {
            // Chunks of this very draft cannot be read yet: their turn is the next batch.
            let Some(readable) = book.shelves.get(&category) else { continue };
            let bound = Bound::new(bound, now);
            while step.draft.shelf(book, category).first < readable.next {
                let whole = step.trim(category, bound)?;
                if step.left == 0 {
                    return Ok(false);
                }
                if !whole {
                    break;
                }
            }
        }
        Ok(true)
    }

    /// Adds to a batch the removal of a few rooms that have had no records for long.
    fn forget(
        &mut self,
        view: &View,
        draft: &mut Draft,
        batch: &mut Batch,
        now: Age<'_>,
    ) -> Result<(), Fault> {
        let after = [&self.forget_after[..], &[0]].concat();
        let first = after.as_slice().max(&[keys::ROOM]);
        let mut seen = 0;
        for row in view.range(first..=&[keys::ROOM + 1]).take(FORGET_ROOMS_MAX) {
            let (name, row) = row?;
            if name.first() != Some(&keys::ROOM) {
                break;
            }
            seen += 1;
            let key = Row::new("rooms", &name[1..]).room()?;
            let room = crate::book::Room::decode(&row)?;
            let said_ms = now.dating.correct(room.time_ms);
            let silent = said_ms.saturating_add(ROOM_FORGET_MS) < now.now_ms;
            if room.records == 0 && silent && !draft.touches(key) {
                draft.forget(batch, key);
            }
            self.forget_after = name.to_vec();
        }
        if seen < FORGET_ROOMS_MAX {
            self.forget_after.clear();
        }
        Ok(())
    }
}

/// What goes: whatever is over a count or a sum, and whatever is from before a moment.
#[derive(Clone, Copy)]
struct Bound {
    records_max: u64,
    bytes_max: u64,
    before_ms: u64,
}

impl Bound {
    fn new(retention: &Retention, now: Option<Age<'_>>) -> Self {
        let or_none = |max: u64| if max == 0 { u64::MAX } else { max };
        let age_ms = or_none(retention.age_s).saturating_mul(1000);
        Self {
            records_max: or_none(retention.count),
            bytes_max: or_none(retention.bytes),
            before_ms: now.map_or(0, |now| now.now_ms.saturating_sub(age_ms)),
        }
    }

    fn over(&self, shelf: &Shelf) -> bool {
        shelf.records > self.records_max || shelf.bytes > self.bytes_max
    }
}

struct Step<'a> {
    engine: &'a Engine,
    book: &'a Book,
    draft: &'a mut Draft,
    batch: &'a mut Batch,
    now: Option<Age<'a>>,
    /// Records that may still go.
    left: usize,
}

impl Step<'_> {
    /// Removes from the oldest chunk of a category what goes; whether the whole chunk went, so
    /// that the next one may have to follow.
    fn trim(&mut self, category: u16, bound: Bound) -> Result<bool, Fault> {
        let mut shelf = *self.draft.shelf(self.book, category);
        if !bound.over(&shelf) && bound.before_ms == 0 {
            return Ok(false);
        }
        let name = keys::chunk_name(category, shelf.first);
        let lines = match self.engine.read(&name)? {
            Some(row) => Line::decode_all(&row)?,
            None => Vec::new(),
        };
        let mut gone = 0;
        while let Some(line) = lines.get(gone).filter(|_| self.left > 0) {
            let said_ms = self.now.map_or(0, |now| now.dating.correct(line.time_ms));
            if !bound.over(&shelf) && said_ms >= bound.before_ms {
                break;
            }
            self.batch.delete(&keys::record_name(line.room, line.at));
            let room = self.draft.room(self.book, line.room);
            room.floor = room.floor.max(line.at);
            room.records = room.records.saturating_sub(1);
            shelf.records = shelf.records.saturating_sub(1);
            shelf.bytes = shelf.bytes.saturating_sub(u64::from(line.bytes));
            gone += 1;
            self.left -= 1;
        }
        let whole = gone == lines.len();
        if whole {
            self.batch.delete(&name);
            shelf.first += 1;
        } else if gone > 0 {
            let mut row = Vec::new();
            encode_lines(&lines[gone..], &mut row);
            self.batch.put(&name, &row);
        }
        *self.draft.shelf(self.book, category) = shelf;
        Ok(whole)
    }
}
