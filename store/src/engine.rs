//! The embedded engine: the only file that knows which one it is.

use std::fs::{self, File};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable};

use crate::error::Fault;
use crate::limits::{BLOCK_CACHE_BYTES, PROBE_BYTES};
use crate::{journal, manifest};

/// Where in the directory the engine has its files.
pub(crate) const ENGINE_DIR: &str = "fjall";
const PROBE_FILE: &str = "probe";

/// An ordered map on disk, with one writer.
pub(crate) struct Engine {
    database: Database,
    rows: Keyspace,
}

/// What is there when an engine is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Perhaps nothing: it is made.
    New,
    /// What an engine has left.
    Again,
    /// What an engine has left that may have failed in a sync.
    AfterSyncFault,
}

/// Changes that become visible and durable together.
pub(crate) struct Batch {
    changes: OwnedWriteBatch,
    rows: Keyspace,
}

/// The map as it was at one moment. While one lives, the engine that it came from stays open.
#[derive(Clone)]
pub(crate) struct View {
    snapshot: fjall::Snapshot,
    rows: Keyspace,
}

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    Now,
    /// With the next commit that syncs; until then a power cut undoes it as a whole.
    Later,
}

impl Engine {
    /// Opens the map below `dir`.
    pub(crate) fn open(dir: &Path, start: Start) -> Result<Self, Fault> {
        let path = dir.join(ENGINE_DIR);
        if start != Start::New {
            // The engine would make a new one, and remove what it does not know.
            manifest::check(&path)?;
        }
        // A process that was killed while it tried the disk has left it behind.
        let _ = fs::remove_file(dir.join(PROBE_FILE));
        let cut = journal::mend(&path, start == Start::AfterSyncFault)?;
        if cut > 0 {
            tracing::warn!(
                bytes = cut,
                dir = %dir.display(),
                "the log of the history ended in a write that was not finished, and was cut there"
            );
        }
        // With one worker, flushes never pile up behind each other, so a commit never waits for
        // a worker that has died of a full disk.
        let database = Database::builder(&path)
            .worker_threads(1)
            .cache_size(BLOCK_CACHE_BYTES)
            .journal_compression(fjall::CompressionType::None)
            .open()?;
        let rows = database.keyspace("history", KeyspaceCreateOptions::default)?;
        // What the journal held is on disk before anybody hears that it was found.
        database.persist(PersistMode::SyncAll).map_err(Fault::Sync)?;
        Ok(Self { database, rows })
    }

    pub(crate) fn batch(&self) -> Batch {
        Batch { changes: self.database.batch().durability(None), rows: self.rows.clone() }
    }

    /// Commits; how long the sync took. After an error the engine takes no more commits and has
    /// to be opened again, and whether the batch is there shows only then.
    pub(crate) fn commit(&self, batch: Batch, sync: Sync) -> Result<Duration, Fault> {
        batch.changes.commit()?;
        self.database.persist(PersistMode::Buffer)?;
        if sync == Sync::Later {
            return Ok(Duration::ZERO);
        }
        let start = Instant::now();
        self.database.persist(PersistMode::SyncData).map_err(Fault::Sync)?;
        Ok(start.elapsed())
    }

    pub(crate) fn read(&self, name: &[u8]) -> Result<Option<fjall::Slice>, Fault> {
        Ok(self.rows.get(name)?)
    }

    pub(crate) fn view(&self) -> View {
        View { snapshot: self.database.snapshot(), rows: self.rows.clone() }
    }

    /// Ends it with everything on disk.
    pub(crate) fn close(self) -> Result<(), Fault> {
        self.database.persist(PersistMode::SyncAll).map_err(Fault::Sync)
    }
}

impl Batch {
    pub(crate) fn put(&mut self, name: &[u8], row: &[u8]) {
        self.changes.insert(&self.rows, name, row);
    }

    pub(crate) fn delete(&mut self, name: &[u8]) {
        self.changes.remove(&self.rows, name);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl View {
    /// The rows of a range, in order.
    pub(crate) fn range(
        &self,
        range: RangeInclusive<&[u8]>,
    ) -> impl Iterator<Item = Result<(fjall::Slice, fjall::Slice), Fault>> + use<> {
        let rows = self.snapshot.range(&self.rows, range);
        rows.map(|row| row.into_inner().map_err(Fault::from))
    }

    /// The rows whose names begin with `prefix`, in order.
    pub(crate) fn prefix(
        &self,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(fjall::Slice, fjall::Slice), Fault>> + use<> {
        let rows = self.snapshot.prefix(&self.rows, prefix);
        rows.map(|row| row.into_inner().map_err(Fault::from))
    }

    pub(crate) fn read(&self, name: &[u8]) -> Result<Option<fjall::Slice>, Fault> {
        Ok(self.snapshot.get(&self.rows, name)?)
    }
}

/// Whether the disk takes as much as the next batches may need. Opening an engine on a disk that
/// is still full would end the one that can at least read.
pub(crate) fn probe(dir: &Path) -> Result<(), Fault> {
    let path = dir.join(PROBE_FILE);
    let tried = fs::write(&path, vec![1; PROBE_BYTES]).and_then(|()| File::open(&path)?.sync_all());
    let removed = fs::remove_file(&path);
    tried?;
    Ok(removed?)
}
