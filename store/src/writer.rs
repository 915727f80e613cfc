//! The thread that writes. It takes all that waits up to a limit, commits it, syncs once, and tells
//! everybody: the longer a sync takes, the more share the next one.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use barrage_router::RoomKey;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use smallvec::SmallVec;

use crate::answers::Answers;
use crate::book::{Book, Draft};
use crate::client::Done;
use crate::clock::{Dating, UnixClock};
use crate::dir::Dir;
use crate::engine::{Engine, Sync};
use crate::error::{Error, Fault};
use crate::keys;
use crate::limits::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, TICK, WRITTEN_MAX};
use crate::reader::{Job, Question, Written};
use crate::record::{From, Load, Position, Record, Retention};
use crate::retention::{Age, Retire};
use crate::stats::{Shared, State};
use crate::witness::{WITNESS_FILE, Witness};

pub(crate) type NoteName = SmallVec<[u8; 64]>;

/// What the writer is asked to do.
pub(crate) enum Command {
    Append {
        client: usize,
        record: Record,
        token: Option<u64>,
    },
    /// Without a value it is removed.
    Note {
        client: usize,
        name: NoteName,
        value: Option<Vec<u8>>,
        token: Option<u64>,
    },
    Load {
        client: usize,
        token: u64,
        load: Load,
    },
    Retention(Vec<(u16, Retention)>),
    /// By how much the system's clock is ahead.
    ClockAhead(u64),
    /// Ends the writer; the answer says whether everything is on disk.
    Close(Sender<Result<(), Error>>),
}

pub(crate) struct Writer {
    pub(crate) dir: Dir,
    /// `None` when it could not be written: then it says too little until the next start.
    pub(crate) witness: Option<Witness>,
    /// `None` only between giving one up and opening the next.
    pub(crate) engine: Option<Engine>,
    pub(crate) book: Book,
    pub(crate) retire: Retire,
    pub(crate) commands: Receiver<Command>,
    /// By client, how many of its commands wait.
    pub(crate) queued: Vec<Arc<AtomicUsize>>,
    pub(crate) jobs: Sender<Job>,
    pub(crate) reader: JoinHandle<()>,
    pub(crate) answers: Answers,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: UnixClock,
    pub(crate) dating: Dating,
    /// What the disk has of it.
    pub(crate) dating_stored: Option<Dating>,
    /// While it fails: when to try again, and what must not be forgotten until then.
    pub(crate) outage: Option<Outage>,
    /// When old records were looked for last.
    pub(crate) aged: Instant,
}

/// A time in which nothing can be written.
pub(crate) struct Outage {
    pub(crate) why: String,
    pub(crate) retry_at: Instant,
    /// A sync has failed, so the journal has to be written anew.
    pub(crate) rewrite: bool,
    /// What has to be undone, lest it comes back after it was called lost.
    pub(crate) failed: Option<Failed>,
    /// Changes of notes that nobody waits for; they are made when it is over.
    pub(crate) notes: AHashMap<NoteName, Option<Vec<u8>>>,
}

/// The batch whose commit has failed. It may have reached the disk all the same.
pub(crate) struct Failed {
    pub(crate) draft: Draft,
    /// Its records.
    pub(crate) places: Vec<(RoomKey, Position)>,
}

/// One batch while it is put together.
#[derive(Default)]
struct Work {
    written: Vec<Written>,
    notes: Vec<(NoteName, Option<Vec<u8>>, bool)>,
    tokens: Vec<(usize, u64)>,
    refused: Vec<(usize, u64)>,
    loads: Vec<(usize, u64, Load)>,
    /// Records that nobody waits for.
    untold: u64,
}

impl Writer {
    /// Works until it is closed, or until every client and the keeper are gone.
    pub(crate) fn run(mut self) {
        loop {
            let (commands, close) = match self.commands.recv_timeout(TICK) {
                Ok(first) => self.take(first),
                Err(RecvTimeoutError::Timeout) => (Vec::new(), None),
                Err(RecvTimeoutError::Disconnected) => return self.abandon(),
            };
            if self.outage.is_none() {
                self.store(commands);
            } else {
                self.lose(commands);
                self.retry(false);
            }
            self.answers.wake();
            if self.outage.is_none() {
                self.date();
                self.sweep();
            }
            if let Some(close) = close {
                // The keeper waits for it; if it is gone, nobody wants to know.
                return drop(close.send(self.close()));
            }
        }
    }

    /// All that waits, up to a limit; and who wants the end, behind which nothing is taken.
    fn take(&mut self, first: Command) -> (Vec<Command>, Option<Sender<Result<(), Error>>>) {
        let mut commands = Vec::with_capacity(self.commands.len().min(BATCH_COMMANDS_MAX) + 1);
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Retention(bounds) => self.retire.set(bounds),
                Command::ClockAhead(ms) => self.dating.ahead_ms = ms,
                Command::Close(close) => return (commands, Some(close)),
                Command::Append { client, ref record, .. } => {
                    self.queued[client].fetch_sub(1, Relaxed);
                    bytes += record.frame.len();
                    commands.push(command);
                }
                Command::Note { client, ref value, .. } => {
                    self.queued[client].fetch_sub(1, Relaxed);
                    bytes += value.as_ref().map_or(0, Vec::len);
                    commands.push(command);
                }
                Command::Load { client, .. } => {
                    self.queued[client].fetch_sub(1, Relaxed);
                    commands.push(command);
                }
            }
            let full = commands.len() == BATCH_COMMANDS_MAX || bytes >= BATCH_BYTES_MAX;
            next = if full { None } else { self.commands.try_recv().ok() };
        }
        (commands, None)
    }

    /// Writes a batch, and passes its loads on when that is done, whether or not it has worked.
    fn store(&mut self, commands: Vec<Command>) {
        let Some(engine) = &self.engine else { return };
        let mut work = Work::default();
        let mut draft = self.book.draft();
        let mut batch = engine.batch();
        for command in commands {
            match command {
                Command::Append { client, mut record, token } => {
                    let Ok(before) = draft.append(&self.book, &mut batch, &mut record) else {
                        self.shared.count(|shared| &shared.refused, 1);
                        work.refused.extend(token.map(|token| (client, token)));
                        continue;
                    };
                    work.ask(client, token);
                    work.written.push(Written { before, record });
                }
                Command::Note { client, name, value, token } => {
                    match &value {
                        Some(value) => batch.put(&name, value),
                        None => batch.delete(&name),
                    }
                    work.tokens.extend(token.map(|token| (client, token)));
                    work.notes.push((name, value, token.is_some()));
                }
                Command::Load { client, token, load } => work.loads.push((client, token, load)),
                Command::Retention(_) | Command::ClockAhead(_) | Command::Close(_) => {}
            }
        }
        if !batch.is_empty() {
            draft.seal(&mut batch);
            match engine.commit(batch, Sync::Now) {
                Ok(took) => {
                    self.book.apply(draft);
                    self.bear_witness();
                    self.stored(&mut work, took);
                }
                Err(fault) => self.begin_outage(&fault, Some(draft), &mut work),
            }
        }
        work.refused.drain(..).for_each(|(client, token)| self.fail(client, token));
        work.loads.drain(..).for_each(|(client, token, load)| self.ask(client, token, load));
    }

    /// Writes down what is to be remembered of the clock, when it is another than what is there.
    fn date(&mut self) {
        let Some(engine) = &self.engine else { return };
        if self.dating_stored.as_ref() == Some(&self.dating) {
            return;
        }
        let (mut draft, mut batch) = (self.book.draft(), engine.batch());
        batch.put(&keys::CLOCKS, &self.dating.encode());
        draft.seal(&mut batch);
        match engine.commit(batch, Sync::Now) {
            Ok(_) => {
                self.book.apply(draft);
                self.dating_stored = Some(self.dating.clone());
                self.bear_witness();
            }
            Err(fault) => self.begin_outage(&fault, Some(draft), &mut Work::default()),
        }
    }

    /// Takes away what is over its bounds. It is a commit of its own: those who wait for the last
    /// one have been told, and it need not be synced.
    fn sweep(&mut self) {
        let Some(engine) = &self.engine else { return };
        let (mut draft, mut batch) = (self.book.draft(), engine.batch());
        let now_ms = (self.aged.elapsed() >= TICK).then(|| self.clock.now_ms());
        let now = now_ms.map(|now_ms| Age { now_ms, dating: &self.dating });
        let all = self.retire.step(engine, &self.book, &mut draft, &mut batch, now);
        if all && now_ms.is_some() {
            self.aged = Instant::now();
        }
        if batch.is_empty() {
            return;
        }
        draft.seal(&mut batch);
        match engine.commit(batch, Sync::Later) {
            Ok(_) => {
                self.book.apply(draft);
                self.show_kept();
            }
            // Done or not, the disk is of one piece, and its book is read when it is opened again.
            Err(fault) => self.begin_outage(&fault, None, &mut Work::default()),
        }
    }

    fn stored(&mut self, work: &mut Work, took: Duration) {
        self.shared.synced(took);
        let bytes: usize = work.written.iter().map(|written| written.record.frame.len()).sum();
        self.shared.count(|shared| &shared.records, work.written.len() as u64);
        self.shared.count(|shared| &shared.bytes, bytes as u64);
        self.show_kept();
        for (client, token) in work.tokens.drain(..) {
            self.answers.tell(client, Done::Stored { token });
        }
        // A cache that cannot keep up misses a batch, notices, and reads from disk.
        if !work.written.is_empty() && self.shared.written_open.load(Relaxed) < WRITTEN_MAX {
            self.shared.written_open.fetch_add(1, Relaxed);
            self.send(Job::Written(std::mem::take(&mut work.written)));
        }
    }

    /// Writes down how much is stored. Only behind a commit that was synced.
    pub(crate) fn bear_witness(&mut self) {
        let said = self.witness.as_ref().map(|witness| witness.say(&self.book.ever));
        if let Some(Err(error)) = said {
            tracing::warn!(%error, "how much is stored cannot be written down: damage may not show");
            self.witness = None;
        }
    }

    pub(crate) fn show_kept(&self) {
        let (records, bytes) = self.book.kept();
        self.shared.rooms.store(self.book.rooms.len() as u64, Relaxed);
        self.shared.kept_records.store(records, Relaxed);
        self.shared.kept_bytes.store(bytes, Relaxed);
    }

    /// Passes a load on, with what is known of its room now.
    pub(crate) fn ask(&mut self, client: usize, token: u64, load: Load) {
        let room = self.book.rooms.get(&load.room);
        let known = match load.from {
            From::After(at) => room.is_some_and(|room| room.epochs.contains(&at.epoch)),
            From::Since(_) => true,
        };
        let (floor, end, time_ms) =
            room.map(|room| (room.floor, room.end, room.time_ms)).unwrap_or_default();
        let view = self.engine.as_ref().map(Engine::view);
        self.send(Job::Load(Question { client, token, load, floor, end, time_ms, known, view }));
    }

    pub(crate) fn fail(&mut self, client: usize, token: u64) {
        self.answers.tell(client, Done::Failed { token });
    }

    /// The queue has a place for every token and for `WRITTEN_MAX` batches, so this does not wait.
    pub(crate) fn send(&self, job: Job) {
        self.jobs.send(job).expect("the reader ends after the writer");
    }

    fn begin_outage(&mut self, fault: &Fault, draft: Option<Draft>, work: &mut Work) {
        let mut outage = Outage::new(fault, self.dir.path());
        let place = |written: &Written| (written.record.room, written.record.at);
        let places = work.written.iter().map(place).collect();
        outage.failed = draft.map(|draft| Failed { draft, places });
        self.outage = Some(outage);
        self.tell_outage();
        for Written { record, .. } in work.written.drain(..) {
            self.book.lose(&record);
        }
        for (name, value, awaited) in work.notes.drain(..) {
            if !awaited {
                self.postpone(name, value);
            }
        }
        self.shared.count(|shared| &shared.dropped, work.untold);
        for (client, token) in work.tokens.drain(..) {
            self.fail(client, token);
        }
    }

    /// Ends without a clean mark. The directory is free last, when nothing uses it any more.
    fn abandon(self) {
        let Self { dir, engine, jobs, reader, .. } = self;
        drop(jobs);
        assert!(reader.join().is_ok(), "the reader has panicked");
        drop(engine);
        drop(dir);
    }

    fn close(mut self) -> Result<(), Error> {
        self.retry(true);
        let Self { dir, witness, engine, book, outage, jobs, reader, shared, .. } = self;
        drop(jobs);
        // It ends when its queue has, and it cannot have panicked where that aborts.
        let ended = reader.join();
        if let Some(outage) = outage {
            return Err(Error::Failing(outage.why));
        }
        let engine = engine.expect("there is an engine when there is no outage");
        engine.close().map_err(|fault| Error::Engine(fault.explain("written", dir.path())))?;
        let Some(witness) = witness else { return Ok(()) };
        witness
            .say(&book.ever)
            .and_then(|()| witness.sync())
            .map_err(Error::io("writing", &dir.path().join(WITNESS_FILE)))?;
        assert!(ended.is_ok(), "the reader has panicked");
        if shared.lost.load(Relaxed) {
            return Ok(());
        }
        dir.mark_clean()
    }
}

impl Work {
    fn ask(&mut self, client: usize, token: Option<u64>) {
        match token {
            Some(token) => self.tokens.push((client, token)),
            None => self.untold += 1,
        }
    }
}

impl Outage {
    pub(crate) fn state(&self) -> State {
        State::Failing { why: self.why.clone() }
    }
}
