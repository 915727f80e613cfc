//! Who is told to go, to be silent, or not to come back, and which device gives way to which.

use barrage_router::{
    AppId, Device, Order, Refused, RoomId, ShardIndex, Surplus, UNTIL_FOREVER, UserId, UserKey,
    home_of_user, replaced,
};
use barrage_sys::ConnId;
use barrage_wire::server::{CloseReason, Code};
use barrage_wire::upstream::{AckMode, SECONDS_FOREVER};

use super::core::{Core, TallyEnd};
use crate::limits::CONNECTIONS_PER_USER_MAX;
use crate::mail::{ConnRef, Mail, TallyId};
use crate::note::NOTE_ORDER;
use crate::refusal::Refusal;

/// Bans and mutes that are looked at in one tick for whether they are over.
const SWEEP_ORDERS: usize = 256;
/// The same when there is no place for another one.
const SWEEP_ORDERS_FULL: usize = 16_384;

/// Stands where no user is named, so no user has it.
const NOBODY: UserId = UserId(0);

impl Core {
    /// An upstream bans or mutes somebody, or takes that back.
    pub(super) fn order(
        &mut self,
        id: ConnId,
        request: u32,
        user: UserKey,
        order: Order,
    ) -> Result<(), Refusal> {
        let origin = self.take_credit(id, request, AckMode::Accepted)?;
        if user.user == NOBODY {
            self.published(origin, Code::Forbidden, 0);
            return Ok(());
        }
        // Every shard says when it holds there, and the disk when it will hold after a restart.
        let parts = u32::from(self.post.shards()) + u32::from(self.history.is_some());
        let tally = self.open_tally(TallyEnd::Origin(origin), parts);
        let home = home_of_user(user, self.shards());
        self.post.send(home, Mail::Order { tally, order: Box::new(order) });
        Ok(())
    }

    /// An upstream tells a user to go.
    pub(super) fn upstream_kick(
        &mut self,
        id: ConnId,
        request: u32,
        user: UserKey,
        text: String,
    ) -> Result<(), Refusal> {
        let origin = self.take_credit(id, request, AckMode::Accepted)?;
        if user.user == NOBODY {
            self.published(origin, Code::Forbidden, 0);
            return Ok(());
        }
        let tally = self.open_tally(TallyEnd::Origin(origin), 1);
        let home = home_of_user(user, self.shards());
        self.post.send(home, Mail::Kick { tally, user, text });
        Ok(())
    }

    /// The moment that lies so many seconds ahead, in milliseconds since 1970; 0 for no seconds.
    pub(super) fn until_ms(&self, seconds: u32) -> u64 {
        match seconds {
            0 => 0,
            SECONDS_FOREVER => UNTIL_FOREVER,
            _ => self.unix_ms() + u64::from(seconds) * 1000,
        }
    }

    /// The user's home puts orders for one user into an order of their own, and says for all shards
    /// whether there is room for another one.
    pub(super) fn home_order(&mut self, tally: TallyId, order: Order) {
        // At once and not by mail: a connection of a banned user may be next in the queue.
        if let Err(code) = self.take_order(&order) {
            let parts = u32::from(self.post.shards()) + u32::from(self.history.is_some());
            let refused = Mail::Tallied { tally, code, count: 0, parts };
            return self.post.send(tally.shard, refused);
        }
        self.put_note(NOTE_ORDER, &order.key(), &order.value(), Some((tally, Code::Ok, 0)));
        if order.is_lift() {
            self.delete_note(NOTE_ORDER, &order.key());
        }
        if let Order::Ban { user, .. } = order
            && let Some(banned) = self.banned(user)
        {
            self.kick_user(user, &banned);
        }
        let (me, order) = (self.me(), Box::new(order));
        for shard in (0..self.post.shards()).map(ShardIndex).filter(|&shard| shard != me) {
            self.post.send(shard, Mail::Apply { tally, order: order.clone() });
        }
        let done = Mail::Tallied { tally, code: Code::Ok, count: 0, parts: 1 };
        self.post.send(tally.shard, done);
    }

    pub(super) fn apply_order(&mut self, tally: TallyId, order: &Order) {
        let code = self.take_order(order).err().unwrap_or(Code::Ok);
        self.post.send(tally.shard, Mail::Tallied { tally, code, count: 0, parts: 1 });
    }

    fn take_order(&mut self, order: &Order) -> Result<(), Code> {
        let mut taken = self.guards.moderation.apply(order.clone());
        if taken == Err(Refused::Full) {
            // Those that are over but not yet swept take nobody's place.
            self.sweep_at_most(SWEEP_ORDERS_FULL);
            taken = self.guards.moderation.apply(order.clone());
        }
        taken.map_err(|refused| match refused {
            Refused::Full => Code::Overloaded,
            Refused::LongText => Code::Refused,
        })
    }

    /// Puts back an order that was given before the gateway ended.
    pub fn restore_order(&mut self, order: Order) {
        // What does not fit was refused when it was given.
        let _ = self.guards.moderation.apply(order);
    }

    pub(super) fn sweep_orders(&mut self) {
        self.sweep_at_most(SWEEP_ORDERS);
    }

    fn sweep_at_most(&mut self, orders: usize) {
        let now = self.unix_ms();
        for order in self.guards.moderation.sweep(now, orders) {
            // The home of the user keeps the note.
            let (Order::Ban { user, .. } | Order::Mute { user, .. }) = order;
            if home_of_user(user, self.shards()) == self.me() {
                self.delete_note(NOTE_ORDER, &order.key());
            }
        }
    }

    /// Why a user may not come, if it is banned.
    pub(super) fn banned(&self, user: UserKey) -> Option<Refusal> {
        let now_ms = self.unix_ms();
        let (until_ms, text) = self.guards.moderation.is_banned(now_ms, user)?;
        let text = if text.is_empty() { "you are banned" } else { text };
        // More than can be said is as good as for ever.
        let retry_after_ms = u32::try_from(until_ms - now_ms).unwrap_or(u32::MAX);
        Some(Refusal { retry_after_ms, ..Refusal::new(CloseReason::Banned, text.to_owned()) })
    }

    pub(super) fn home_kick(&mut self, tally: TallyId, user: UserKey, text: &str) {
        let count = self.kick_user(user, &Refusal::new(CloseReason::Kicked, text.to_owned()));
        let code = if count > 0 { Code::Ok } else { Code::Offline };
        self.post.send(tally.shard, Mail::Tallied { tally, code, count, parts: 1 });
    }

    /// Every connection of a user is to go. How many there are.
    fn kick_user(&mut self, user: UserKey, refusal: &Refusal) -> u64 {
        let all: Vec<_> = self.homes.users.find(user).collect();
        all.iter().for_each(|&who| self.kick(who, refusal.clone()));
        all.len() as u64
    }

    /// A connection, on whichever shard, is to go.
    pub(super) fn kick(&mut self, who: ConnRef, refusal: Refusal) {
        let refusal = Box::new(refusal);
        self.post.send(who.shard, Mail::KickConn { conn: who.conn, refusal });
    }

    /// A connection of the user has come: those that it replaces are told, and get nothing more. False
    /// when it is to go itself.
    pub(super) fn replace_devices(&mut self, user: UserKey, who: ConnRef, device: Device) -> bool {
        let mut present: Vec<_> = self.homes.users.devices(user).collect();
        if present.is_empty() {
            return true;
        }
        present.push((device, who));
        let all: Vec<_> = present.iter().map(|&(device, _)| device).collect();
        let mut stays = true;
        let most = &self.config.rules.policy.devices;
        for (place, why) in replaced(&all, most, CONNECTIONS_PER_USER_MAX) {
            let (device, gone) = present[place];
            if gone == who {
                stays = false;
            } else {
                self.home_user_off(user, gone, device.name);
            }
            self.metrics.replaced_total += 1;
            self.kick(gone, Refusal::new(CloseReason::Replaced, replaced_text(why)));
        }
        stays
    }
}

/// What a connection is told that gives way to another one.
fn replaced_text(why: Surplus) -> String {
    match why {
        Surplus::Device => "this device has connected again: a device has one connection".into(),
        Surplus::Platform(most) => format!(
            "the user has connected from a newer device; at most {most} of this platform may be"
        ),
        Surplus::User => format!(
            "the user has connected from a newer device; at most {CONNECTIONS_PER_USER_MAX} may be"
        ),
    }
}

/// A user of an app.
pub(super) fn user(app: u32, user: u64) -> UserKey {
    UserKey { app: AppId(app), user: UserId(user) }
}

/// A mute: in one room, or with room 0 in the whole app.
pub(super) fn mute(user: UserKey, room: u64, until_ms: u64) -> Order {
    Order::Mute { user, room: RoomId(room), until_ms }
}
