//! The thread that answers loads: from the cache, or from a view of the disk that the writer took
//! right behind everything that was appended before the load.

use bytes::{Bytes, BytesMut};
use crossbeam_channel::{Receiver, Sender};

use crate::answers::Answers;
use crate::cache::Cache;
use crate::client::Done;
use crate::engine::View;
use crate::error::Fault;
use crate::keys;
use crate::record::{From, Load, Page, Position, Record};
use crate::stats::Shared;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// What the writer wants of the reader.
pub(crate) enum Job {
    /// These were stored.
    Written(Vec<Written>),
    Load(Question),
    /// Says when every view that came before is gone.
    Release(Sender<()>),
}

/// A record that was stored, and the room's last stored place before it.
pub(crate) struct Written {
    pub(crate) before: Position,
    pub(crate) record: Record,
}

/// A load, and what the writer knew of the room when it came.
pub(crate) struct Question {
    pub(crate) client: usize,
    pub(crate) token: u64,
    pub(crate) load: Load,
    pub(crate) floor: Position,
    pub(crate) end: Position,
    pub(crate) time_ms: u64,
    pub(crate) known: bool,
    /// `None` while the engine is being opened again.
    pub(crate) view: Option<View>,
}

pub(crate) struct Reader {
    pub(crate) jobs: Receiver<Job>,
    pub(crate) answers: Answers,
    pub(crate) cache: Cache,
    pub(crate) shared: Arc<Shared>,
}

impl Reader {
    /// Works until the writer ends.
    pub(crate) fn run(mut self) {
        while let Ok(job) = self.jobs.recv() {
            self.work(job);
            // Whoever waits is woken once for all that is there.
            for job in self.jobs.try_iter().take(64).collect::<Vec<_>>() {
                self.work(job);
            }
            self.answers.wake();
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Written(written) => {
                for Written { before, record } in written {
                    self.cache.write(before, record);
                }
                self.shared.written_open.fetch_sub(1, Relaxed);
            }
            Job::Load(question) => {
                let (client, token) = (question.client, question.token);
                let done = match self.answer(question) {
                    Ok(page) => Done::Loaded { token, page },
                    Err(fault) => {
                        tracing::error!(%fault, "a part of history cannot be read");
                        if fault.is_damage() {
                            self.shared.set_unreadable(&fault.why());
                        }
                        Done::Failed { token }
                    }
                };
                self.shared.count(|shared| &shared.loads, 1);
                self.answers.tell(client, done);
            }
            // The writer waits for it, so it is there.
            Job::Release(done) => drop(done.send(())),
        }
    }

    fn answer(&mut self, question: Question) -> Result<Page, Fault> {
        let Question { load, floor, end, time_ms, known, view, .. } = question;
        let mut page = Page { records: Vec::new(), more: false, floor, end, known };
        let nothing = match load.from {
            From::After(at) => at >= end,
            From::Since(ms) => ms > time_ms || end == Position::default(),
        };
        if nothing {
            self.shared.count(|shared| &shared.cache_hits, 1);
            return Ok(page);
        }
        if let Some(records) = self.cache.find(load.room, load.from, floor, end) {
            self.shared.count(|shared| &shared.cache_hits, 1);
            let mut room_left = Limits::new(&load);
            for record in records {
                if !room_left.take(record.frame.len()) {
                    page.more = true;
                    break;
                }
                page.records.push(record.clone());
            }
            return Ok(page);
        }
        let Some(view) = view else { return Err(Fault::Reopening) };
        let behind = match load.from {
            From::After(at) => at,
            From::Since(ms) => seek(&view, &load, ms, end)?,
        };
        read(&view, &load, behind, &mut page)?;
        if !page.more {
            self.cache.keep(load.room, behind, end, &page.records);
        }
        Ok(page)
    }
}

/// What still fits into a page.
struct Limits {
    frames: usize,
    bytes: usize,
    empty: bool,
}

impl Limits {
    fn new(load: &Load) -> Self {
        Self { frames: load.frames_max, bytes: load.bytes_max, empty: true }
    }

    /// Whether a frame of `bytes` still fits; the first one always does, so that pages lead on.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.frames > 0 && (self.empty || bytes <= self.bytes);
        if fits {
            self.frames -= 1;
            self.bytes = self.bytes.saturating_sub(bytes);
            self.empty = false;
        }
        fits
    }
}

/// Fills a page from the disk. All its frames share one piece of memory.
fn read(view: &View, load: &Load, behind: Position, page: &mut Page) -> Result<(), Fault> {
    let first = keys::record_name(load.room, next(behind));
    let last = keys::record_name(load.room, page.end);
    let mut room_left = Limits::new(load);
    let mut frames = BytesMut::new();
    let mut ends = Vec::new();
    for row in view.range(&first[..]..=&last[..]) {
        let (name, row) = row?;
        let (record, frame) = keys::decode_record(&name, &row)?;
        if !room_left.take(frame.len()) {
            page.more = true;
            break;
        }
        frames.extend_from_slice(frame);
        ends.push(frames.len());
        page.records.push(record);
    }
    let frames = Bytes::from(Vec::from(frames));
    let mut start = 0;
    for (record, end) in page.records.iter_mut().zip(ends) {
        record.frame = frames.slice(start..end);
        start = end;
    }
    Ok(())
}

/// The place behind which the records of `ms` and later begin. Times rise with places, so halving
/// what is left between two places finds it, whatever gaps are in between.
fn seek(view: &View, load: &Load, ms: u64, end: Position) -> Result<Position, Fault> {
    let last = keys::record_name(load.room, end);
    let first_from = |at: u128| -> Result<Option<Record>, Fault> {
        let first = keys::record_name(load.room, position(at));
        let Some(row) = view.range(&first[..]..=&last[..]).next() else { return Ok(None) };
        let (name, row) = row?;
        Ok(Some(keys::decode_record(&name, &row)?.0))
    };
    let Some(oldest) = first_from(0)? else { return Ok(end) };
    let (mut low, mut high) = (place(oldest.at), place(end).saturating_add(1));
    while low < high {
        let middle = low + (high - low) / 2;
        match first_from(middle)? {
            Some(record) if record.time_ms < ms => low = place(record.at).saturating_add(1),
            Some(_) | None => high = middle,
        }
    }
    Ok(position(low.saturating_sub(1)))
}

fn place(at: Position) -> u128 {
    (u128::from(at.epoch) << 64) | u128::from(at.seq)
}

fn position(place: u128) -> Position {
    Position { epoch: (place >> 64) as u64, seq: place as u64 }
}

fn next(at: Position) -> Position {
    position(place(at).saturating_add(1))
}
