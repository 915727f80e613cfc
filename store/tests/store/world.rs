//! A store in a directory of its own, and questions to it that wait for their answers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use barrage_router::{AppId, Class, RoomId, RoomKey};
use barrage_store::{
    Client, Done, Error, Found, From, Keeper, Load, Options, Page, Position, Record, Stats,
    UnixClock, open,
};
use bytes::Bytes;
use smallvec::SmallVec;

/// Longer than any answer takes on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that goes when the test ends.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new(name: &str) -> Self {
        static DIRS: AtomicU64 = AtomicU64::new(0);
        let number = DIRS.fetch_add(1, Relaxed);
        let name = format!("barrage-store-{}-{number}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Store {
    pub client: Client,
    pub keeper: Keeper,
    pub found: Found,
    woken: Receiver<()>,
    tokens: u64,
}

pub fn options(dir: &Path) -> Options {
    let (retention, cache_bytes) = (Vec::new(), 1 << 20);
    let dir = dir.to_owned();
    Options {
        dir,
        shards: 1,
        queue_max: 4096,
        retention,
        cache_bytes,
        clock: UnixClock::start(),
        redate: |_, _, _, _| None,
        accept_lost: false,
    }
}

impl Store {
    pub fn open(dir: &Path) -> Self {
        Self::open_with(options(dir))
    }

    pub fn open_with(options: Options) -> Self {
        Self::try_open(options).expect("the store opens")
    }

    pub fn try_open(options: Options) -> Result<Self, Error> {
        let (wake, woken) = channel();
        let wake = Box::new(move || wake.send(()).unwrap_or_default());
        let (mut clients, keeper, found) = open(options, vec![wake])?;
        let client = clients.remove(0);
        Ok(Self { client, keeper, found, woken, tokens: 0 })
    }

    pub fn close(self) {
        self.keeper.close().expect("the store closes");
    }

    /// The next answer.
    pub fn next(&mut self) -> Done {
        loop {
            if let Some(done) = self.client.done() {
                return done;
            }
            self.woken.recv_timeout(PATIENCE).expect("an answer comes");
        }
    }

    pub fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// Appends and waits; whether it is stored.
    pub fn store(&mut self, record: Record) -> bool {
        let token = self.token();
        self.client.append(record, Some(token)).expect("there is room");
        self.settle(token)
    }

    /// Appends many and waits for the last.
    pub fn store_all(&mut self, records: impl IntoIterator<Item = Record>) {
        let mut last = None;
        for record in records {
            while self.client.room() == 0 {
                std::thread::yield_now();
            }
            if let Some(record) = last.replace(record) {
                self.client.append(record, None).expect("there is room");
            }
        }
        assert!(last.is_none_or(|record| self.store(record)), "the last one is stored");
    }

    pub fn put_note(&mut self, space: u8, key: &[u8], value: &[u8]) -> bool {
        let token = self.token();
        self.client.put_note(space, key, value, Some(token)).expect("there is room");
        self.settle(token)
    }

    /// Waits for a token of an append or a note; what else comes is not looked at.
    pub fn settle(&mut self, token: u64) -> bool {
        loop {
            match self.next() {
                Done::Stored { token: stored } if stored == token => return true,
                Done::Failed { token: failed } if failed == token => return false,
                _ => {}
            }
        }
    }

    pub fn load(&mut self, room: RoomKey, from: From) -> Page {
        self.load_part(Load { room, from, frames_max: usize::MAX, bytes_max: usize::MAX })
    }

    pub fn load_part(&mut self, load: Load) -> Page {
        self.try_load(load).expect("it can be read")
    }

    /// None: it cannot be read.
    pub fn try_load(&mut self, load: Load) -> Option<Page> {
        let wanted = self.token();
        self.client.load(wanted, load).expect("there is room");
        loop {
            match self.next() {
                Done::Loaded { token, page } if token == wanted => return Some(page),
                Done::Failed { token } if token == wanted => return None,
                _ => {}
            }
        }
    }

    /// Everything that is stored of a room.
    pub fn all(&mut self, room: RoomKey) -> Page {
        self.load(room, From::After(Position::default()))
    }

    /// Waits until the counts are as wished.
    pub fn wait(&self, wished: impl Fn(&Stats) -> bool) {
        let start = std::time::Instant::now();
        while !wished(&self.keeper.stats()) {
            assert!(start.elapsed() < PATIENCE, "not reached: {:?}", self.keeper.stats());
            std::thread::yield_now();
        }
    }
}

pub fn room(id: u64) -> RoomKey {
    RoomKey { app: AppId(7), room: RoomId(id) }
}

pub fn at(epoch: u64, seq: u64) -> Position {
    Position { epoch, seq }
}

/// A chat record whose frame says which one it is.
pub fn record(id: u64, epoch: u64, seq: u64) -> Record {
    let frame = Bytes::from(format!("{id}/{epoch}/{seq}"));
    Record {
        room: room(id),
        at: at(epoch, seq),
        time_ms: seq.saturating_add(1_000_000),
        category: 4,
        class: Class::P3,
        never_drop: false,
        frame,
        keys: SmallVec::new(),
    }
}

pub fn seqs(page: &Page) -> Vec<u64> {
    page.records.iter().map(|record| record.at.seq).collect()
}

/// A small generator, so that a failing round is repeated by its seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
