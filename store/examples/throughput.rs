//! What the whole store does on this machine: `cargo run --release -p barrage-store --example
//! throughput -- [DIR] [RECORDS]`.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use barrage_router::{AppId, Class, RoomId, RoomKey};
use barrage_store::{
    Client, Done, From, Load, Options, Position, Record, Retention, UnixClock, open,
};
use bytes::Bytes;
use smallvec::smallvec;

const ROOMS: u64 = 1000;
const FRAME_BYTES: usize = 200;
const QUEUE_MAX: usize = 16_384;
const LOADS: u64 = 100_000;
const BACK: u64 = 100;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().unwrap_or_else(|| "/tmp/barrage-throughput".into()));
    let records = arguments.next().map_or(1 << 20, |count| count.parse().expect("RECORDS"));
    let _ = std::fs::remove_dir_all(&dir);
    // Half of it is taken away again while it is written.
    let retention = vec![(4, Retention { count: records / 2, ..Retention::default() })];
    let options = Options {
        dir,
        shards: 1,
        queue_max: QUEUE_MAX,
        retention,
        cache_bytes: 64 << 20,
        clock: UnixClock::start(),
        redate: |_, _, _, _| None,
        accept_lost: false,
    };
    let (wake, woken) = channel();
    let wake = Box::new(move || wake.send(()).unwrap_or_default());
    let (mut clients, keeper, _) = open(options.clone(), vec![wake]).expect("open");
    let client = &mut clients[0];

    let start = Instant::now();
    for number in 0..records {
        while client.room() == 0 {
            wait(client, &woken);
        }
        client.append(record(number), Some(number)).expect("room");
    }
    while client.room() < QUEUE_MAX {
        wait(client, &woken);
    }
    let took = start.elapsed();
    let stats = keeper.stats();
    let per = |count: u64, took: Duration| (count as f64 / took.as_secs_f64()) as u64;
    println!("{} records/s, all awaited: {stats:?}", per(records, took));

    let mut delays = Vec::new();
    for number in records..records + 2000 {
        let start = Instant::now();
        client.append(record(number), Some(number)).expect("room");
        wait(client, &woken);
        delays.push(start.elapsed());
    }
    delays.sort();
    println!(
        "one at a time: p50 {:?}, p99 {:?}, max {:?}",
        delays[1000], delays[1980], delays[1999]
    );

    let start = Instant::now();
    for number in 0..LOADS {
        while client.room() == 0 {
            wait(client, &woken);
        }
        let back = Position { epoch: 1, seq: (records / ROOMS).saturating_sub(BACK) };
        let (room, from) = (room(number % 10), From::After(back));
        client
            .load(number, Load { room, from, frames_max: 500, bytes_max: 1 << 20 })
            .expect("room");
    }
    while client.room() < QUEUE_MAX {
        wait(client, &woken);
    }
    let hits = keeper.stats().cache_hits;
    println!("{} loads/s of {BACK} records, {hits} from memory", per(LOADS, start.elapsed()));
    keeper.close().expect("close");
    let start = Instant::now();
    let (_clients, keeper, found) = open(options.clone(), vec![Box::new(|| ())]).expect("open");
    println!("opened again in {:?}, {} rooms", start.elapsed(), found.rooms.len());
    keeper.close().expect("close");
    drop(std::fs::remove_dir_all(&options.dir));
}

/// Waits for an answer, and fetches all that are there.
fn wait(client: &mut Client, woken: &Receiver<()>) {
    let mut any = false;
    loop {
        match client.done() {
            Some(Done::Failed { .. } | Done::State(_)) => panic!("the disk fails"),
            Some(_) => any = true,
            None if any => return,
            None => woken.recv().expect("the store lives"),
        }
    }
}

fn room(id: u64) -> RoomKey {
    RoomKey { app: AppId(7), room: RoomId(id) }
}

fn record(number: u64) -> Record {
    Record {
        room: room(number * 7 % ROOMS),
        at: Position { epoch: 1, seq: number / ROOMS + 1 },
        time_ms: 1_700_000_000_000 + number,
        category: 4,
        class: Class::P3,
        never_drop: false,
        frame: Bytes::from(vec![number as u8; FRAME_BYTES]),
        keys: smallvec![u128::from(number)],
    }
}
