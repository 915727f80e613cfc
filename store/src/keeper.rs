//! Opens a store, and closes it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Sender, bounded};

use crate::answers::{Answers, Wake};
use crate::cache::Cache;
use crate::client::Client;
use crate::dir::Dir;
use crate::error::Error;
use crate::limits::{CONTROL_MAX, WRITTEN_MAX};
use crate::reader::Reader;
use crate::record::{Found, Options, Retention};
use crate::recovery::{self, Opened};
use crate::retention::Retire;
use crate::stats::{Shared, Stats};
use crate::writer::{Command, Writer};

/// The owner's end of the store. Without `close`, the store ends when this and every client are
/// gone, and the next to open it finds it not clean.
pub struct Keeper {
    commands: Sender<Command>,
    queued: Vec<Arc<AtomicUsize>>,
    shared: Arc<Shared>,
    writer: JoinHandle<()>,
}

/// Opens the store of a directory, for as many clients as there are shards, each with what wakes
/// it. Everything that was `Stored` is there.
///
/// # Panics
/// When there are not as many wakes as shards, or `queue_max` is 0.
///
/// # Errors
/// `Error::Lost` when there was a history and nothing can be read of it, unless the options accept that.
pub fn open(options: Options, wakes: Vec<Wake>) -> Result<(Vec<Client>, Keeper, Found), Error> {
    assert_eq!(wakes.len(), options.shards, "every shard has a wake");
    assert!(options.queue_max > 0, "a queue holds something");
    let (dir, was) = Dir::take(&options.dir)?;
    let shared = Arc::new(Shared::default());
    let Opened { engine, book, dating, witness, found } =
        recovery::open(&dir, was, &options, &shared)?;
    // Every client counts its own commands, so the queue that they share is never full for them.
    let (commands, taken) = bounded(options.shards * options.queue_max + CONTROL_MAX);
    let (jobs, worked) = bounded(options.shards * options.queue_max + WRITTEN_MAX + 1);
    let mut done = Vec::new();
    let client = |index| {
        let (tell, told) = bounded(options.queue_max);
        done.push(tell);
        Client {
            index,
            commands: Sender::clone(&commands),
            queued: Arc::default(),
            done: told,
            shared: Arc::clone(&shared),
            queue_max: options.queue_max,
            open: 0,
            state_version: 0,
        }
    };
    let clients: Vec<Client> = (0..options.shards).map(client).collect();
    let queued: Vec<_> = clients.iter().map(|client| Arc::clone(&client.queued)).collect();

    let answers = Answers::new(done, wakes.into());
    let reader = Reader {
        jobs: worked,
        answers: answers.clone_for_other_thread(),
        cache: Cache::new(options.cache_bytes),
        shared: Arc::clone(&shared),
    };
    let reader = spawn("history-read", move || reader.run()).map_err(failed_spawn(&dir))?;
    let why = failed_spawn(&dir);
    let writer = Writer {
        dir,
        witness: Some(witness),
        engine: Some(engine),
        book,
        retire: Retire::new(options.retention),
        commands: taken,
        queued: queued.clone(),
        jobs,
        reader,
        answers,
        shared: Arc::clone(&shared),
        clock: found.clock,
        dating,
        dating_stored: None,
        outage: None,
        aged: Instant::now(),
    };
    writer.show_kept();
    let writer = spawn("history-write", move || writer.run()).map_err(why)?;
    Ok((clients, Keeper { commands, queued, shared, writer }, found))
}

impl Keeper {
    /// Puts other bounds in force. What is over them goes in the next batches.
    pub fn set_retention(&self, retention: Vec<(u16, Retention)>) {
        // The writer is gone only if it has panicked, which `close` tells.
        let _ = self.commands.send(Command::Retention(retention));
    }

    /// Says by how much the system's clock is ahead of the store's, so that the next one to open it
    /// knows what was dated too early.
    pub fn set_clock_ahead(&self, ms: u64) {
        // As above.
        let _ = self.commands.send(Command::ClockAhead(ms));
    }

    /// The counts as they are now.
    pub fn stats(&self) -> Stats {
        self.shared.stats(self.queued.iter().map(|queued| queued.load(Relaxed)).sum())
    }

    /// Ends the store when everything that is queued is on disk. Blocks until then. Clients are
    /// answered `Full` from then on; what they were told before can still be fetched.
    ///
    /// # Errors
    /// When the disk does not take it: then the next to open the store finds it not clean.
    pub fn close(self) -> Result<(), Error> {
        let (tell, told) = bounded(1);
        let sent = self.commands.send(Command::Close(tell)).is_ok();
        let closed = sent.then(|| told.recv().ok()).flatten();
        assert!(self.writer.join().is_ok(), "the writer has panicked");
        closed.expect("a writer that is there answers")
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(run)
}

fn failed_spawn(dir: &Dir) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = dir.path().to_owned();
    move |error| Error::io("starting a thread for", &path)(error)
}
