//! A shard's end of the store: it puts commands into a bounded queue, fetches answers, and never
//! waits.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::keys;
use crate::limits::{NOTE_KEY_BYTES_MAX, NOTE_VALUE_BYTES_MAX};
use crate::record::{Load, Page, Record};
use crate::stats::{Shared, State};
use crate::writer::Command;

/// One shard's access to the store. It is not shared, and whoever polls `done` is told everything.
pub struct Client {
    pub(crate) index: usize,
    pub(crate) commands: Sender<Command>,
    /// How many of this client's commands the writer has not taken yet.
    pub(crate) queued: Arc<AtomicUsize>,
    pub(crate) done: Receiver<Done>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue_max: usize,
    /// Tokens that are not answered yet. Each has a place in `done`.
    pub(crate) open: usize,
    pub(crate) state_version: u64,
}

/// The queue has no room, or the store is closed: nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the history's queue is full")]
pub struct Full;

/// What the store has to say to a client. Every token comes back once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The command's effect is on disk, and all that this client appended before it and that was
    /// not lost.
    Stored {
        /// The command's.
        token: u64,
    },
    /// It is not stored, and is undone if it has reached the disk half-way. (A note may be there
    /// nevertheless, and so may a record if the process is killed before the disk has recovered.)
    /// Or the load could not be read.
    Failed {
        /// The command's.
        token: u64,
    },
    /// A load's answer.
    Loaded {
        /// The load's.
        token: u64,
        /// What was found.
        page: Page,
    },
    /// The state has changed to this since it was told last.
    State(State),
}

impl Client {
    /// Hands in a record. With a token, the answer is `Stored` or `Failed`. One for which there was no
    /// place keeps the store from ending clean: rooms then begin another epoch.
    pub fn append(&mut self, record: Record, token: Option<u64>) -> Result<(), Full> {
        let client = self.index;
        let taken = self.send(token.is_some(), || Command::Append { client, record, token });
        if taken.is_err() {
            // Its number was given, and nobody here will know of it.
            self.shared.lost.store(true, Relaxed);
        }
        taken
    }

    /// Writes a note: a value under a key, in one of 256 spaces.
    ///
    /// # Panics
    /// When the key or the value is longer than `NOTE_KEY_BYTES_MAX` or `NOTE_VALUE_BYTES_MAX`.
    pub fn put_note(
        &mut self,
        space: u8,
        key: &[u8],
        value: &[u8],
        token: Option<u64>,
    ) -> Result<(), Full> {
        assert!(value.len() <= NOTE_VALUE_BYTES_MAX, "a note's value has a bound");
        self.note(space, key, Some(value), token)
    }

    /// Removes a note, if it is there.
    ///
    /// # Panics
    /// When the key is longer than `NOTE_KEY_BYTES_MAX`.
    pub fn delete_note(&mut self, space: u8, key: &[u8]) -> Result<(), Full> {
        self.note(space, key, None, None)
    }

    /// Asks for a part of a room's history. It sees everything that was appended before it.
    pub fn load(&mut self, token: u64, load: Load) -> Result<(), Full> {
        let client = self.index;
        self.send(true, || Command::Load { client, token, load })
    }

    /// How many more commands fit, whether they have tokens or not.
    pub fn room(&self) -> usize {
        self.queue_max.saturating_sub(self.queued.load(Relaxed).max(self.open))
    }

    /// The next answer, if there is one.
    pub fn done(&mut self) -> Option<Done> {
        let version = self.shared.state_version.load(Relaxed);
        if version != self.state_version {
            self.state_version = version;
            return Some(Done::State(self.shared.state()));
        }
        let done = self.done.try_recv().ok()?;
        self.open -= 1;
        Some(done)
    }

    fn note(
        &mut self,
        space: u8,
        key: &[u8],
        value: Option<&[u8]>,
        token: Option<u64>,
    ) -> Result<(), Full> {
        assert!(key.len() <= NOTE_KEY_BYTES_MAX, "a note's key has a bound");
        let client = self.index;
        self.send(token.is_some(), || {
            let name = keys::note_name(space, key);
            Command::Note { client, name, value: value.map(<[u8]>::to_vec), token }
        })
    }

    fn send(&mut self, answered: bool, command: impl FnOnce() -> Command) -> Result<(), Full> {
        let queued = self.queued.load(Relaxed);
        if queued >= self.queue_max || (answered && self.open >= self.queue_max) {
            return Err(Full);
        }
        // Counted first, so that the writer never takes what was not counted.
        self.queued.fetch_add(1, Relaxed);
        match self.commands.try_send(command()) {
            Ok(()) => {
                self.open += usize::from(answered);
                Ok(())
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.queued.fetch_sub(1, Relaxed);
                Err(Full)
            }
        }
    }
}
