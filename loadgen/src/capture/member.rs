//! A client of rooms that writes down what it hears.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use barrage_wire::{ServerFrame, frame};

use crate::capture::file::{Direction, Record};
use crate::capture::scribe::Pen;
use crate::clock::{SECOND_NS, now_ns};
use crate::probe::client::{Client, Who};

/// How often the member looks whether it is to end.
const LOOK_NS: u64 = SECOND_NS / 20;
/// A client has one connection.
const CONNECTION: u32 = 1;

/// Joins the rooms and writes down every frame until `stop`, until that moment, or until nothing more
/// is taken.
pub fn follow(
    address: SocketAddr,
    who: &Who,
    rooms: &[u64],
    pen: &Pen,
    until_ns: u64,
    stop: &AtomicBool,
) -> Result<()> {
    let mut client = Client::connect(address)?;
    client.hello(who)?;
    pen.put(vec![Record::Opened { at_ns: pen.now_ns(), connection: CONNECTION }]);
    for (request, room) in (1..).zip(rooms) {
        client.ask_to_join(request, *room)?;
    }
    let result = listen(&mut client, rooms, pen, until_ns, stop);
    pen.put(vec![Record::Closed { at_ns: pen.now_ns(), connection: CONNECTION }]);
    result
}

fn listen(
    client: &mut Client,
    rooms: &[u64],
    pen: &Pen,
    until_ns: u64,
    stop: &AtomicBool,
) -> Result<()> {
    while !stop.load(Ordering::Relaxed) && !pen.is_full() && now_ns() < until_ns {
        let mut records = Vec::new();
        let look_ns = (now_ns() + LOOK_NS).min(until_ns);
        let heard = client.hear::<()>(look_ns, &mut |said, raw| {
            if let ServerFrame::Reply { request, code, .. } = said {
                let room = (*request as usize).checked_sub(1).and_then(|at| rooms.get(at));
                let room = room.map_or_else(String::new, |room| format!(" of room {room}"));
                return Err(anyhow!("the gateway refuses the JOIN{room}: {}", code.name()));
            }
            let mut bytes = Vec::new();
            frame::put(&mut bytes, raw.kind, |out| out.extend_from_slice(raw.body));
            let (at_ns, direction) = (pen.now_ns(), Direction::Down);
            records.push(Record::Frame { at_ns, connection: CONNECTION, direction, bytes });
            // One batch for each that is written at once would be too many.
            Ok((records.len() >= BATCH_MAX).then_some(()))
        });
        pen.put(records);
        heard?;
        client.keep_alive()?;
    }
    Ok(())
}

/// Records that are handed over at once.
const BATCH_MAX: usize = 1024;
