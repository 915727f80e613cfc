//! Who writes a capture down, on a thread of its own, so that traffic never waits for a disk.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};

use crate::capture::file::{Record, Source, TEXT_BYTES_MAX, Writer};
use crate::clock::now_ns;

/// Batches that wait to be written. One has what was read at once, so this is what memory is
/// bounded by; when it is full, records are left out, and the capture says how many.
const BATCHES_MAX: usize = 512;
/// How long records may wait in memory.
const FLUSH: Duration = Duration::from_millis(500);

/// Takes records from any thread.
#[derive(Clone)]
pub struct Pen {
    batches: SyncSender<Vec<Record>>,
    state: Arc<State>,
}

/// What pens and scribe tell each other.
#[derive(Debug)]
struct State {
    began_ns: u64,
    missed: AtomicU64,
    full: AtomicBool,
    records: AtomicU64,
    bytes: AtomicU64,
}

/// The thread that writes.
pub struct Scribe {
    state: Arc<State>,
    thread: JoinHandle<Result<()>>,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Records.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Records that were left out because the disk was too slow.
    pub missed: u64,
}

/// Begins a capture. It takes at most so many bytes, and then nothing more.
pub fn begin(
    path: &Path,
    source: Source,
    target: &str,
    bytes_max: Option<u64>,
) -> Result<(Pen, Scribe)> {
    let mut writer = Writer::create(path)?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let target = target[..target.floor_char_boundary(TEXT_BYTES_MAX)].to_owned();
    writer.put(&Record::Start { source, unix_ms: since_1970.as_millis() as u64, target })?;
    let state = Arc::new(State {
        began_ns: now_ns(),
        missed: AtomicU64::new(0),
        full: AtomicBool::new(false),
        records: AtomicU64::new(1),
        bytes: AtomicU64::new(writer.bytes),
    });
    let (batches, receiver) = sync_channel(BATCHES_MAX);
    let desk = Desk { writer, state: Arc::clone(&state), missed_told: 0, bytes_max };
    let thread = std::thread::Builder::new()
        .name("scribe".to_owned())
        .spawn(move || desk.write(&receiver))
        .context("cannot start the writing thread")?;
    Ok((Pen { batches, state: Arc::clone(&state) }, Scribe { state, thread }))
}

impl Pen {
    /// Nanoseconds since the start.
    pub fn now_ns(&self) -> u64 {
        now_ns() - self.state.began_ns
    }

    /// Hands records over, and never waits for that.
    pub fn put(&self, records: Vec<Record>) {
        if records.is_empty() || self.is_full() {
            return;
        }
        if let Err(TrySendError::Full(records) | TrySendError::Disconnected(records)) =
            self.batches.try_send(records)
        {
            self.state.missed.fetch_add(records.len() as u64, Ordering::Relaxed);
        }
    }

    /// Whether nothing more is taken: the file has its size, or cannot be written.
    pub fn is_full(&self) -> bool {
        self.state.full.load(Ordering::Relaxed)
    }

    /// Takes nothing more.
    pub fn close(&self) {
        self.state.full.store(true, Ordering::Relaxed);
    }
}

impl Scribe {
    /// Waits until everything is on disk; all pens have to be gone.
    pub fn finish(self) -> Result<Written> {
        self.thread.join().map_err(|_| anyhow!("the writing thread panicked"))??;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let State { missed, records, bytes, .. } = &*self.state;
        Ok(Written { records: read(records), bytes: read(bytes), missed: read(missed) })
    }
}

struct Desk {
    writer: Writer<File>,
    state: Arc<State>,
    missed_told: u64,
    bytes_max: Option<u64>,
}

impl Desk {
    fn write(mut self, batches: &Receiver<Vec<Record>>) -> Result<()> {
        let result = self.write_all(batches).context("cannot write the capture");
        self.state.full.store(true, Ordering::Relaxed);
        if let Err(error) = &result {
            eprintln!("capture: {error:#}; what follows is not written down");
        }
        // Nobody may find the queue full because nobody empties it.
        while batches.recv().is_ok() {}
        result
    }

    fn write_all(&mut self, batches: &Receiver<Vec<Record>>) -> Result<()> {
        loop {
            match batches.recv_timeout(FLUSH) {
                Ok(batch) => {
                    for record in batch {
                        self.put(&record)?;
                    }
                    self.tell_missed()?;
                }
                Err(RecvTimeoutError::Timeout) => self.writer.flush()?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.bytes_max.is_some_and(|max| self.writer.bytes >= max) {
                break;
            }
        }
        self.tell_missed()?;
        self.put(&Record::End { at_ns: now_ns() - self.state.began_ns })?;
        self.writer.flush()
    }

    fn put(&mut self, record: &Record) -> Result<()> {
        self.writer.put(record)?;
        self.state.records.fetch_add(1, Ordering::Relaxed);
        self.state.bytes.store(self.writer.bytes, Ordering::Relaxed);
        Ok(())
    }

    fn tell_missed(&mut self) -> Result<()> {
        let missed = self.state.missed.load(Ordering::Relaxed);
        let records = missed - std::mem::replace(&mut self.missed_told, missed);
        if records > 0 {
            self.put(&Record::Missed { at_ns: now_ns() - self.state.began_ns, records })?;
        }
        Ok(())
    }
}
