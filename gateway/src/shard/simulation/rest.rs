//! What must hold when all is quiet, and when everybody has gone.

use barrage_router::{AppId, UserId, UserKey};
use barrage_wire::server::ServerFrame;
use barrage_wire::split;

use super::model::Sequence;
use super::upstream::Upstream;
use super::world::{USERS, World};
use crate::fake_ring::FakeRing;
use crate::shard::Shard;

impl World {
    /// All is quiet: what must have come by now has come.
    pub fn check_rest(&mut self) {
        self.learn_history();
        let uplinks_lost = self.upstreams.iter().any(|upstream| upstream.ended > 0);
        let shards = &self.shards;
        let head = |of: Sequence| {
            let mut rooms = shards.iter().flat_map(|shard| &shard.core.homes.rooms);
            rooms.find_map(|(_, room)| {
                let key = room.room.key();
                let same = (key.app.0, key.room.0, room.room.epoch()) == (of.app, of.room, of.epoch);
                same.then(|| room.room.head())
            })
        };
        for client in &self.clients {
            client.check_rest(head, uplinks_lost);
            client.check_owed(&self.truth);
        }
        self.upstreams.iter().for_each(Upstream::check_rest);
        self.truth.check_ranges();
        for shard in &self.shards {
            assert_eq!(shard.metrics().log_bytes, 0, "everybody has everything");
            assert!(shard.core.tallies.is_empty(), "every answer was collected");
        }
    }

    /// What nobody has got is still in the memory of its room.
    fn learn_history(&mut self) {
        for shard in &self.shards {
            for (_, room) in &shard.core.homes.rooms {
                let (app, of) = (room.room.key().app.0, room.room.key().room.0);
                let of = Sequence { app, room: of, epoch: room.room.epoch() };
                let oldest = room.room.history().oldest().unwrap_or(1);
                for frame in room.room.history().since(oldest - 1).into_iter().flatten() {
                    let mut bytes = &frame.bytes[..];
                    let raw = split(&mut bytes, usize::MAX).expect("frames").expect("a frame");
                    let Ok(ServerFrame::Message { seq, category, kind, payload, .. }) =
                        ServerFrame::decode(raw)
                    else {
                        panic!("rooms remember messages");
                    };
                    let id = self.truth.id_of(app, category, kind, payload.0);
                    self.truth.heard(of, seq, id);
                }
            }
        }
    }

    /// Nobody is here, and nothing is left of them.
    pub fn check_empty(&mut self) {
        for shard in &self.shards {
            check_empty(shard);
        }
    }
}

/// A shard without connections holds nothing but rooms that nobody is in.
pub fn check_empty(shard: &Shard<FakeRing>) {
    let (core, metrics) = (&shard.core, shard.metrics());
    let gauges = [
        ("connections", metrics.connections),
        ("clients", metrics.clients),
        ("upstreams", metrics.upstreams),
        ("memberships", metrics.memberships),
        ("local rooms", metrics.rooms_local),
        ("log bytes", metrics.log_bytes),
        ("tallies", core.tallies.len() as u64),
        ("aliases", core.local.by_alias.len() as u64),
        ("apps", core.local.by_app.len() as u64),
        ("subscribers", core.subscribers.len() as u64),
        ("members", core.homes.rooms.iter().map(|(_, room)| u64::from(room.room.members())).sum()),
        ("names", core.conns.ids().count() as u64),
    ];
    for (what, count) in gauges {
        assert_eq!(count, 0, "{what} are left");
    }
    assert_eq!(metrics.accepted_total, metrics.closed_total);
    for (app, user) in (1..=2).flat_map(|app| (1..=USERS).map(move |user| (app, user))) {
        let user = UserKey { app: AppId(app), user: UserId(user) };
        assert_eq!(core.homes.users.find(user).count(), 0, "{user:?} is gone");
    }
}
