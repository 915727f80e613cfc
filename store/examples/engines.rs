//! Which engine keeps history best on this machine: `cargo run --release -p barrage-store --example
//! engines -- [DIR] [RECORDS]` prints a table. The plain file has no index and no retention: it is
//! what the disk can do, not a choice.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{ReadableDatabase, TableDefinition};

const ROOMS: u64 = 1000;
const RECORD_BYTES: usize = 200;
const READ_RECORDS: usize = 500;
const COLD_READS: u64 = 40;
const WARM_READS: u64 = 400;
const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");

type Batch = Vec<([u8; 28], [u8; RECORD_BYTES])>;

/// What every engine has to do.
trait Engine: Sized {
    const NAME: &'static str;
    fn open(dir: &Path) -> Self;
    fn commit(&mut self, batch: &Batch);
    /// Reads from the room's beginning; how many records came.
    fn read(&mut self, room: u64) -> usize;
}

struct Fjall {
    database: Database,
    records: Keyspace,
}

impl Engine for Fjall {
    const NAME: &'static str = "fjall";

    fn open(dir: &Path) -> Self {
        let database = Database::builder(dir).worker_threads(1).open().expect("open");
        let records =
            database.keyspace("records", KeyspaceCreateOptions::default).expect("records");
        Self { database, records }
    }

    fn commit(&mut self, batch: &Batch) {
        let mut write = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in batch {
            write.insert(&self.records, &key[..], &value[..]);
        }
        write.commit().expect("commit");
    }

    fn read(&mut self, room: u64) -> usize {
        let range = key(room, 0, 0)..=key(room, u64::MAX, u64::MAX);
        let records = self.records.range(range).take(READ_RECORDS);
        records.map(|entry| entry.into_inner().expect("read").1.len() / RECORD_BYTES).sum()
    }
}

struct Redb(redb::Database);

impl Engine for Redb {
    const NAME: &'static str = "redb";

    fn open(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("directory");
        let cache = 64 << 20;
        let path = dir.join("redb");
        Self(redb::Database::builder().set_cache_size(cache).create(path).expect("open"))
    }

    fn commit(&mut self, batch: &Batch) {
        let write = self.0.begin_write().expect("begin");
        {
            let mut table = write.open_table(TABLE).expect("table");
            for (key, value) in batch {
                table.insert(&key[..], &value[..]).expect("insert");
            }
        }
        write.commit().expect("commit");
    }

    fn read(&mut self, room: u64) -> usize {
        let read = self.0.begin_read().expect("begin");
        let table = read.open_table(TABLE).expect("table");
        let (first, last) = (key(room, 0, 0), key(room, u64::MAX, u64::MAX));
        let records = table.range(&first[..]..=&last[..]).expect("range").take(READ_RECORDS);
        records.map(|entry| entry.expect("read").1.value().to_vec().len() / RECORD_BYTES).sum()
    }
}

struct Plain {
    file: File,
    buffer: Vec<u8>,
}

impl Engine for Plain {
    const NAME: &'static str = "plain file";

    fn open(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("directory");
        let path = dir.join("log");
        let file = File::options().create(true).append(true).open(path).expect("open");
        Self { file, buffer: Vec::new() }
    }

    fn commit(&mut self, batch: &Batch) {
        self.buffer.clear();
        for (key, value) in batch {
            self.buffer.extend_from_slice(key);
            self.buffer.extend_from_slice(value);
        }
        self.file.write_all(&self.buffer).expect("write");
        self.file.sync_data().expect("sync");
    }

    fn read(&mut self, _room: u64) -> usize {
        0
    }
}

fn key(room: u64, epoch: u64, seq: u64) -> [u8; 28] {
    let mut key = [0; 28];
    key[..4].copy_from_slice(&7u32.to_be_bytes());
    key[4..12].copy_from_slice(&room.to_be_bytes());
    key[12..20].copy_from_slice(&epoch.to_be_bytes());
    key[20..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// A record: half of it text that repeats, half of it noise.
fn value(noise: &mut u64) -> [u8; RECORD_BYTES] {
    let text = b"{\"from\":\"somebody\",\"text\":\"good evening everybody, what a match it was!\"}";
    let mut value = [b' '; RECORD_BYTES];
    value[..text.len()].copy_from_slice(text);
    for byte in &mut value[RECORD_BYTES / 2..] {
        *noise ^= *noise << 13;
        *noise ^= *noise >> 7;
        *noise ^= *noise << 17;
        *byte = *noise as u8;
    }
    value
}

fn measure<E: Engine>(dir: &Path, batch_records: u64, records: u64) {
    let _ = fs::remove_dir_all(dir);
    let mut engine = E::open(dir);
    let mut noise = 0x9e37_79b9_7f4a_7c15;
    let mut took = Vec::new();
    for first in (0..records).step_by(batch_records as usize) {
        let rows = first..first + batch_records;
        // A stride that shares no factor with the rooms, so that a batch is spread over them.
        let row = |row: u64| (key(row * 7 % ROOMS, 1, row / ROOMS), value(&mut noise));
        let batch: Batch = rows.map(row).collect();
        let start = Instant::now();
        engine.commit(&batch);
        took.push(start.elapsed());
    }
    let total: Duration = took.iter().sum();
    took.sort();
    drop(engine);
    let bytes = allocated(dir);
    drop_page_cache();
    let start = Instant::now();
    let mut engine = E::open(dir);
    let reopen = start.elapsed();
    drop_page_cache();
    let (cold, found) = reads(&mut engine, COLD_READS, ROOMS / COLD_READS);
    let (warm, _) = reads(&mut engine, WARM_READS, ROOMS / COLD_READS);
    let per_s = (records as f64 / total.as_secs_f64()) as u64;
    let at = |share: usize| took[(took.len() - 1) * share / 1000].as_micros();
    println!(
        "| {} | {batch_records} | {per_s} | {} | {} | {} | {:.0} | {:.0} | {found} | {:.1} | {} |",
        E::NAME,
        at(500),
        at(990),
        at(1000),
        cold.as_micros(),
        warm.as_micros(),
        reopen.as_secs_f64() * 1e3,
        bytes * 100 / (records * (RECORD_BYTES as u64 + 28)),
    );
    drop(engine);
    let _ = fs::remove_dir_all(dir);
}

/// The mean time of a read, and how many records one gave.
fn reads<E: Engine>(engine: &mut E, reads: u64, stride: u64) -> (Duration, usize) {
    let start = Instant::now();
    let found: usize = (0..reads).map(|read| engine.read(read * stride % ROOMS)).sum();
    (start.elapsed() / reads as u32, found / reads as usize)
}

fn allocated(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir).expect("directory").map(|entry| entry.expect("entry").path());
    let size = |path: PathBuf| {
        if path.is_dir() { allocated(&path) } else { path.metadata().expect("file").blocks() * 512 }
    };
    entries.map(size).sum()
}

/// Without root this does nothing, and cold reads are warm.
fn drop_page_cache() {
    rustix::fs::sync();
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().unwrap_or_else(|| "/tmp/barrage-engines".into()));
    let records = arguments.next().map_or(1 << 20, |count| count.parse().expect("RECORDS"));
    println!(
        "| engine | batch | records/s | commit p50 µs | p99 | max | cold read µs | warm | read \
         | reopen ms | disk % |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for batch_records in [64, 1024] {
        let records = if batch_records == 64 { records / 2 } else { records };
        measure::<Plain>(&dir, batch_records, records);
        measure::<Fjall>(&dir, batch_records, records);
        measure::<Redb>(&dir, batch_records, records);
    }
}
