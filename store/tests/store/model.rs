//! Random appends, loads, bounds and reopenings against plain vectors.

use std::collections::BTreeMap;

use barrage_store::{From, Load, Options, Position, Record, Retention};

use crate::world::{Random, Store, TempDir, at, options, record, room};

const ROOMS: u64 = 4;
const CATEGORIES: u64 = 3;

/// What a store should hold.
#[derive(Default)]
struct Model {
    /// In the order they came.
    records: Vec<Record>,
    rooms: BTreeMap<u64, Room>,
    bounds: Vec<(u16, Retention)>,
}

#[derive(Default)]
struct Room {
    floor: Position,
    end: Position,
    time_ms: u64,
    epochs: Vec<u64>,
}

impl Model {
    fn append(&mut self, mut record: Record) {
        let room = self.rooms.entry(record.room.room.0).or_default();
        let last = room.end.max(room.floor);
        let (epoch, seq) = (record.at.epoch, record.at.seq);
        if seq != last.seq + 1 && !(epoch > last.epoch && seq == 1) {
            room.floor = at(epoch, seq - 1);
        }
        room.end = record.at;
        record.time_ms = record.time_ms.max(room.time_ms);
        room.time_ms = record.time_ms;
        room.epochs.push(epoch);
        self.records.push(record);
    }

    fn retire(&mut self) {
        for (category, bound) in self.bounds.clone() {
            let of_it = |record: &&Record| record.category == category;
            let count = self.records.iter().filter(of_it).count();
            for _ in bound.count as usize..count {
                let oldest = self.records.iter().position(|record| of_it(&record)).unwrap();
                let gone = self.records.remove(oldest);
                let room = self.rooms.get_mut(&gone.room.room.0).unwrap();
                room.floor = room.floor.max(gone.at);
            }
        }
    }

    fn check(&self, store: &mut Store, load: Load, what: &str) {
        let page = store.load_part(load);
        let nobody = Room::default();
        let room = self.rooms.get(&load.room.room.0).unwrap_or(&nobody);
        let wanted = |record: &&Record| match load.from {
            From::After(place) => record.room == load.room && record.at > place,
            From::Since(ms) => record.room == load.room && record.time_ms >= ms,
        };
        let all: Vec<Record> = self.records.iter().filter(wanted).cloned().collect();
        let mut bytes = 0;
        let fits = |record: &&Record| {
            bytes += record.frame.len();
            bytes <= load.bytes_max
        };
        let fitting = all.iter().take(load.frames_max).take_while(fits).count();
        let expected = &all[..fitting.max(1).min(all.len())];
        assert_eq!(page.records, expected, "{load:?}, {what}");
        assert_eq!(page.more, expected.len() < all.len(), "{load:?}, {what}");
        assert_eq!((page.floor, page.end), (room.floor, room.end), "{load:?}, {what}");
        let known = match load.from {
            From::After(place) => room.epochs.contains(&place.epoch),
            From::Since(_) => true,
        };
        assert_eq!(page.known, known, "{load:?}, {what}");
    }
}

fn run(seed: u64, steps: u64) {
    let dir = TempDir::new("model");
    let mut random = Random(seed);
    let (mut model, mut epoch) = (Model::default(), 1);
    let options = |model: &Model, random: &mut Random| Options {
        retention: model.bounds.clone(),
        cache_bytes: [0, 5_000, 100_000][random.below(3) as usize],
        ..options(&dir.0)
    };
    let mut store = Store::open_with(options(&model, &mut random));
    for step in 0..steps {
        let what = format!("seed {seed}, step {step}");
        match random.below(100) {
            0 => {
                store.close();
                store = Store::open_with(options(&model, &mut random));
                assert!(store.found.clean, "{what}");
                let mut rooms = store.found.rooms.clone();
                rooms.sort();
                let last = |(&id, r): (&u64, &Room)| (room(id), r.end.max(r.floor), r.time_ms);
                assert_eq!(rooms, model.rooms.iter().map(last).collect::<Vec<_>>(), "{what}");
            }
            1..3 => epoch += 1,
            3 => {
                let bound = |count| Retention { count, ..Retention::default() };
                let bounds = |category| (category as u16, bound(1 + random.below(300)));
                model.bounds = (0..CATEGORIES).map(bounds).collect();
                store.keeper.set_retention(model.bounds.clone());
            }
            4..50 => append(&mut store, &mut model, &mut random, epoch),
            _ => {
                let load = any_load(&model, &mut random);
                model.check(&mut store, load, &what);
            }
        }
        model.retire();
        store.wait(|stats| stats.kept_records == model.records.len() as u64);
    }
    store.close();
}

fn append(store: &mut Store, model: &mut Model, random: &mut Random, epoch: u64) {
    let records: Vec<Record> = (0..=random.below(40))
        .map(|_| {
            let id = random.below(ROOMS);
            let last = model.rooms.get(&id).map_or(at(0, 0), |room| room.end.max(room.floor));
            let gap = if random.below(60) == 0 { random.below(5) } else { 0 };
            let start = if last.epoch < epoch && random.below(2) == 0 { 0 } else { last.seq };
            let mut record = record(id, epoch, start + 1 + gap);
            record.time_ms = model.records.len() as u64 * 10 + random.below(30);
            record.category = random.below(CATEGORIES) as u16;
            model.append(record.clone());
            record
        })
        .collect();
    store.store_all(records);
}

fn any_load(model: &Model, random: &mut Random) -> Load {
    let id = random.below(ROOMS + 1);
    let end = model.rooms.get(&id).map_or(at(0, 0), |room| room.end);
    let from = match random.below(3) {
        0 => From::Since(random.below(1 + model.records.len() as u64 * 10)),
        1 => From::After(at(random.below(end.epoch + 2), random.below(end.seq + 2))),
        _ => From::After(at(end.epoch, end.seq.saturating_sub(random.below(20)))),
    };
    let frames_max = [usize::MAX, 1, 7, 50][random.below(4) as usize];
    let bytes_max = [usize::MAX, 1, 60, 1000][random.below(4) as usize];
    Load { room: room(id), from, frames_max, bytes_max }
}

#[test]
fn a_store_is_a_few_vectors() {
    for seed in 1..=6 {
        run(seed, 400);
    }
}
