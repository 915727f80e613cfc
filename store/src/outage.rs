//! What the writer does while the disk does not take anything: it fails what it is asked, remembers
//! what is lost, and tries again.

use std::path::Path;
use std::time::Instant;

use ahash::AHashMap;
use crossbeam_channel::bounded;

use crate::book::Book;
use crate::engine::{Engine, Start, Sync, probe};
use crate::error::Fault;
use crate::limits::{HOLES_BATCH_MAX, NOTES_PENDING_MAX, RETRY};
use crate::reader::Job;
use crate::stats::{Damage, State};
use crate::writer::{Command, Failed, NoteName, Outage, Writer};

impl Outage {
    pub(crate) fn new(fault: &Fault, dir: &Path) -> Self {
        let (why, retry_at) = (fault.explain("written", dir), Instant::now() + RETRY);
        let rewrite = fault.in_sync();
        Self { why, retry_at, rewrite, failed: None, notes: AHashMap::new() }
    }
}

impl Writer {
    pub(crate) fn tell_outage(&mut self) {
        if let Some(outage) = &self.outage {
            tracing::error!("{}", outage.why);
            self.shared.set_state(outage.state());
            self.answers.wake_all();
        }
    }

    /// Answers commands without a disk. Loads see what is stored.
    pub(crate) fn lose(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Append { client, record, token } => {
                    self.book.lose(&record);
                    self.fail_or_count(client, token);
                }
                Command::Note { client, token: Some(token), .. } => self.fail(client, token),
                Command::Note { name, value, token: None, .. } => self.postpone(name, value),
                Command::Load { client, token, load } => self.ask(client, token, load),
                Command::Retention(_) | Command::ClockAhead(_) | Command::Close(_) => {}
            }
        }
    }

    fn fail_or_count(&mut self, client: usize, token: Option<u64>) {
        match token {
            Some(token) => self.fail(client, token),
            None => self.shared.count(|shared| &shared.dropped, 1),
        }
    }

    /// Keeps a change of a note for later: nobody waits for it, so nobody would make it again.
    pub(crate) fn postpone(&mut self, name: NoteName, value: Option<Vec<u8>>) {
        let Some(outage) = &mut self.outage else { return };
        if outage.notes.len() < NOTES_PENDING_MAX || outage.notes.contains_key(&name) {
            outage.notes.insert(name, value);
        } else {
            self.shared.count(|shared| &shared.dropped, 1);
        }
    }

    /// Tries to end an outage when it is time to, or `now`.
    pub(crate) fn retry(&mut self, now: bool) {
        let Some(outage) = &self.outage else { return };
        if !now && Instant::now() < outage.retry_at {
            return;
        }
        match self.reopen() {
            Ok(()) => {
                self.outage = None;
                tracing::info!(dir = %self.dir.path().display(), "history is written again");
                self.shared.set_state(State::Ok);
                self.answers.wake_all();
            }
            Err(fault) => {
                let again = Outage::new(&fault, self.dir.path());
                let changed = self.outage.as_ref().is_some_and(|outage| outage.why != again.why);
                if let Some(outage) = &mut self.outage {
                    outage.rewrite |= again.rewrite;
                    (outage.why, outage.retry_at) = (again.why, again.retry_at);
                }
                if changed {
                    self.tell_outage();
                }
            }
        }
    }

    /// Opens the engine again and writes down what was lost. After an error the outage goes on,
    /// and what is remembered of it is kept.
    fn reopen(&mut self) -> Result<(), Fault> {
        probe(self.dir.path())?;
        if let Some(engine) = self.engine.take() {
            let (done, released) = bounded(1);
            self.send(Job::Release(done));
            // Views keep the old engine open, and two on one directory would spoil it.
            released.recv().expect("the reader ends after the writer");
            drop(engine);
        }
        let rewrite = self.outage.as_ref().is_some_and(|outage| outage.rewrite);
        let start = if rewrite { Start::AfterSyncFault } else { Start::Again };
        let engine = Engine::open(self.dir.path(), start)?;
        let mut batch = engine.batch();
        if let Some(Failed { draft, places }) = self.outage.as_ref().and_then(|o| o.failed.as_ref())
        {
            draft.undo(&self.book, places, &mut batch);
            engine.commit(batch, Sync::Now)?;
        }
        if let Some(outage) = &mut self.outage {
            outage.failed = None;
        }
        let (mut book, _) = Book::read(&engine.view(), self.clock)?;
        if let Some(lost) = book.lost_since(&self.book.ever) {
            self.shared.set_damage(Damage::new(self.dir.path(), lost));
        }
        let holed = book.inherit_holes(&self.book);
        // From here on it can be read, and is as the disk is; the holes are in the book at once.
        self.book = book;
        let engine = self.engine.insert(engine);
        for rooms in holed.chunks(HOLES_BATCH_MAX) {
            let (mut draft, mut batch) = (self.book.draft(), engine.batch());
            rooms.iter().for_each(|&room| draft.rewrite(&self.book, room));
            draft.seal(&mut batch);
            engine.commit(batch, Sync::Now)?;
            self.book.apply(draft);
        }
        let (mut draft, mut batch) = (self.book.draft(), engine.batch());
        for (name, value) in self.outage.iter().flat_map(|outage| &outage.notes) {
            match value {
                Some(value) => batch.put(name, value),
                None => batch.delete(name),
            }
        }
        draft.seal(&mut batch);
        engine.commit(batch, Sync::Now)?;
        self.book.apply(draft);
        if let Some(outage) = &mut self.outage {
            outage.notes.clear();
            outage.rewrite = false;
        }
        self.bear_witness();
        self.show_kept();
        Ok(())
    }
}
