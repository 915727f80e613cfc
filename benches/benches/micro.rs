//! Times the functions that a core calls for every message, frame or member.
//!
//! `cargo bench -p barrage-benches`; their bodies are in `barrage_benches::micro` and `::admit`.
#![forbid(unsafe_code)]

use std::hint::black_box;

use barrage_benches::admit::{Admit, MEMBERS};
use barrage_benches::micro::{MASKED_BYTES, PAYLOAD_BYTES, Rooms, Wire};
use criterion::{Criterion, Throughput};

/// Shards and members of each in the room that is measured.
const SHARDS: u16 = 8;
const MEMBERS_PER_SHARD: u32 = 250;

/// One publish; how many frames went out.
type Body = fn(&mut Admit) -> usize;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    wire(&mut criterion);
    websocket(&mut criterion);
    room(&mut criterion);
    admit(&mut criterion);
    criterion.final_summary();
}

fn wire(criterion: &mut Criterion) {
    let mut wire = Wire::new(PAYLOAD_BYTES, MASKED_BYTES);
    let mut group = criterion.benchmark_group("wire");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode_message", |b| b.iter(|| black_box(&mut wire).encode_message()));
    group.bench_function("decode_message", |b| b.iter(|| black_box(&wire).decode_message()));
    group.throughput(Throughput::Elements(wire.decode_client_frames() as u64));
    group.bench_function("encode_client_frames", |b| {
        b.iter(|| black_box(&mut wire).encode_client_frames());
    });
    group.bench_function("decode_client_frames", |b| {
        b.iter(|| black_box(&wire).decode_client_frames());
    });
    group.finish();
}

fn websocket(criterion: &mut Criterion) {
    let mut wire = Wire::new(PAYLOAD_BYTES, MASKED_BYTES);
    let mut group = criterion.benchmark_group("ws");
    group.throughput(Throughput::Bytes(MASKED_BYTES as u64));
    group.bench_function("unmask", |b| b.iter(|| black_box(&mut wire).unmask()));
    group.finish();
}

fn room(criterion: &mut Criterion) {
    let mut rooms = Rooms::new(SHARDS, MEMBERS_PER_SHARD, PAYLOAD_BYTES);
    let mut group = criterion.benchmark_group("room");
    group.throughput(Throughput::Elements(1));
    group.bench_function("publish", |b| b.iter(|| black_box(&mut rooms).publish()));
    group.bench_function("join_and_leave", |b| {
        b.iter(|| black_box(&mut rooms).join_and_leave());
    });
    group.finish();
}

fn admit(criterion: &mut Criterion) {
    let bodies: [(&str, Body); 5] = [
        ("chat_under_limit", Admit::chat_under_limit),
        ("chat_over_limit", Admit::chat_over_limit),
        ("combo", Admit::combo),
        ("state", Admit::state),
        ("never_drop", Admit::never_drop),
    ];
    let mut group = criterion.benchmark_group("admit");
    group.throughput(Throughput::Elements(1));
    for (name, body) in bodies {
        let mut room = Admit::new(MEMBERS, PAYLOAD_BYTES);
        group.bench_function(name, |b| b.iter(|| body(black_box(&mut room))));
    }
    group.finish();
}
