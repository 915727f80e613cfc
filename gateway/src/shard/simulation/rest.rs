//! What must hold when all is quiet, and when everybody has gone.

use std::collections::BTreeMap;

use barrage_router::{AppId, Room, UserId, UserKey};
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
                let same =
                    (key.app.0, key.room.0, room.room.epoch()) == (of.app, of.room, of.epoch);
                same.then(|| room.room.head())
            })
        };
        for client in &self.clients {
            client.check_rest(&self.truth, head, uplinks_lost);
            client.check_owed(&self.truth);
        }
        self.upstreams.iter().for_each(Upstream::check_rest);
        self.truth.check_ranges();
        self.check_merges();
        self.check_values();
        self.check_platforms();
        for shard in &self.shards {
            assert_eq!(shard.metrics().log_bytes, 0, "everybody has everything");
            assert!(shard.core.tallies.is_empty(), "every answer was collected");
        }
    }

    /// Taps and values, in rooms that never lost their memory and in others.
    fn check_merges(&mut self) {
        let mut heads = BTreeMap::new();
        for shard in &self.shards {
            let homes = &shard.core.homes;
            for (_, place) in homes.rooms.iter().filter(|_| !homes.epochs.any_lost()) {
                heads.insert(sequence(&place.room), place.room.head());
            }
            assert!(homes.merged.is_empty(), "who waited was told");
        }
        self.truth.check_merges(&heads, &mut self.report);
    }

    /// Every member shows the values that the room has.
    fn check_values(&mut self) {
        for shard in &mut self.shards {
            for (_, place) in &mut shard.core.homes.rooms {
                let of = sequence(&place.room);
                for bytes in place.room.snapshot() {
                    let Some(ServerFrame::Snapshot { category, kind, key, payload, .. }) =
                        split(&mut &bytes[..], usize::MAX)
                            .expect("frames")
                            .and_then(|raw| ServerFrame::decode(raw).ok())
                    else {
                        panic!("snapshots are frames");
                    };
                    let id = self.truth.id_of(of.app, category, kind, payload.0);
                    for client in &self.clients {
                        let shown = client.shown(of, category, key);
                        assert!(
                            shown.is_none_or(|shown| shown == Some(id)),
                            "client {} of {of:?} shows {shown:?} for {key}, not {id}",
                            client.name
                        );
                        self.report.values_checked += u64::from(shown.is_some());
                    }
                }
            }
        }
    }

    /// Nobody has more devices than the policy says.
    fn check_platforms(&self) {
        let mut counts = BTreeMap::<_, u16>::new();
        for client in &self.clients {
            if client.session.as_ref().is_some_and(|session| session.is_live()) {
                let count = counts.entry((client.app, client.user, client.platform as u8));
                *count.or_default() += 1;
            }
        }
        let max = self.truth.kind.devices;
        for (who, count) in counts {
            assert!(max == 0 || count <= max, "{who:?} has {count} connections of {max}");
        }
    }

    /// What nobody has got is still in the memory of its room.
    fn learn_history(&mut self) {
        for shard in &self.shards {
            for (_, room) in &shard.core.homes.rooms {
                let of = sequence(&room.room);
                let oldest = room.room.history().oldest().unwrap_or(1);
                for frame in room.room.history().since(oldest - 1).into_iter().flatten() {
                    let mut bytes = &frame.bytes[..];
                    let raw = split(&mut bytes, usize::MAX).expect("frames").expect("a frame");
                    let frame = ServerFrame::decode(raw).expect("a frame of the protocol");
                    let heard = self.truth.numbered_frame(of.app, &frame);
                    let (seq, heard) = heard.expect("rooms remember what has a number");
                    self.truth.heard(of, seq, heard);
                }
            }
        }
    }

    /// When a room says what it has kept back, if one does.
    pub fn next_due(&self) -> Option<u64> {
        let dues = self.shards.iter().filter(|shard| !shard.core.is_draining()).flat_map(|shard| {
            let rooms = shard.core.homes.rooms.iter();
            rooms.filter_map(|(_, place)| place.room.due()).map(|due| due.0 * 1_000)
        });
        dues.min()
    }

    /// Whether mail, or what a peer has said, waits at a shard.
    pub fn is_busy(&mut self, at: usize) -> bool {
        let shard = &mut self.shards[at];
        !shard.core.post.is_empty()
            || !shard.ring.is_quiet()
            || shard.core.local.walks.any_waits_or_rests()
    }

    /// What was acknowledged is not sent again, however long one waits.
    pub fn check_silence(&mut self) {
        let before = self.report.repeats;
        self.pass(20_000_000);
        assert_eq!(self.report.repeats, before, "who has said that it came is asked no more");
    }

    /// Nobody is here, and nothing is left of them.
    pub fn check_empty(&mut self) {
        let forgets = self.truth.kind.kept_s == 1;
        for shard in &self.shards {
            check_empty(shard);
            let inboxes = shard.metrics().inboxes;
            assert!(!forgets || inboxes == 0, "{inboxes} inboxes of messages long over");
        }
    }
}

fn sequence(room: &Room) -> Sequence {
    let key = room.key();
    Sequence { app: key.app.0, room: key.room.0, epoch: room.epoch() }
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
    // A room that may not speak any more is looked at again and again.
    let due = if core.is_draining() { 0 } else { core.homes.due.len() as u64 };
    for (what, count) in gauges.into_iter().chain([("dues", due)]) {
        assert_eq!(count, 0, "{what} are left");
    }
    assert_eq!(metrics.accepted_total, metrics.closed_total);
    for (app, user) in (1..=2).flat_map(|app| (1..=USERS).map(move |user| (app, user))) {
        let user = UserKey { app: AppId(app), user: UserId(user) };
        assert_eq!(core.homes.users.find(user).count(), 0, "{user:?} is gone");
    }
}
