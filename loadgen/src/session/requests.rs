//! What a client asks for: frames that it says on its own.

use barrage_wire::client::{Cursor, Platform};
use barrage_wire::limits::PROTOCOL_VERSION;
use barrage_wire::{ClientFrame, List, Text};

use super::Client;
use crate::ledger::Membership;
use crate::plan::Plan;
use crate::shared::Errand;
use crate::world::World;

/// The frames that a client begins with: HELLO, and its JOINs unless they come later. Who goes on
/// where it was says where that is.
pub fn first_frames(world: &World, k: u32, client: &Client, places: &[Membership]) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    let plan = &world.plan;
    let token = plan.token.replace("{user}", &(u64::from(k) + 1).to_string());
    let hello = ClientFrame::Hello {
        version: PROTOCOL_VERSION,
        app: plan.app,
        device: k.into(),
        platform: Platform::Bot,
        resume: List::new(&[]),
        token: Text(&token),
    };
    hello.encode(&mut out);
    if !plan.joins_later {
        plan.rooms.each(k, |place| {
            let member = places.get(place.nth).filter(|_| client.resume);
            let epoch = member.map_or(0, |member| world.epochs.of(member.epoch()));
            let seq = member.filter(|_| epoch != 0).map_or(0, Membership::reached);
            let cursor = Cursor { room: place.id, epoch, seq };
            ClientFrame::Join { request: place.nth as u32 + 1, cursor }.encode(&mut out);
        });
    }
    out
}

/// Appends client `k`'s requests to join, or to leave, all its rooms. The requests of joins are 1
/// and on, those of leaves follow.
pub fn errand_frames(plan: &Plan, k: u32, errand: Errand, out: &mut Vec<u8>) {
    plan.rooms.each(k, |place| {
        let (request, room) = (place.nth as u32 + 1, place.id);
        match errand {
            Errand::Join => {
                let cursor = Cursor { room, epoch: 0, seq: 0 };
                ClientFrame::Join { request, cursor }.encode(out);
            }
            Errand::Leave => {
                let request = request + plan.rooms.per_client() as u32;
                ClientFrame::Leave { request, room }.encode(out);
            }
        }
    });
}

/// The 16 bytes of client `k`'s WebSocket handshake.
pub fn ws_key(k: u32) -> [u8; 16] {
    let mut key = *b"barrage-loadgen!";
    key[..4].copy_from_slice(&k.to_le_bytes());
    key
}
