//! Who may not come, and who may not speak.

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::{AHashMap, RandomState};
use barrage_wire::limits::TEXT_BYTES_MAX;

use crate::ids::{AppId, RoomId, UserId, UserKey};

/// Bans and mutes in force at a time, in all apps.
pub const ORDERS_MAX: usize = 1_000_000;
/// Of an order that does not end by itself.
pub const UNTIL_FOREVER: u64 = u64::MAX;

/// Fixed, so that the same calls take the same steps.
const HASH_SEEDS: [u64; 4] = [0x6261_7272, 0x6167_6500, 0x6d6f_6465, 0x7261_7465];
/// The room that stands for all of the app's.
const WHOLE_APP: RoomId = RoomId(0);

/// First byte of a key: what the order is about.
const KEY_BAN: u8 = 1;
const KEY_MUTE: u8 = 2;
/// First byte of a value. Another layout gets another one.
const VALUE_VERSION: u8 = 1;

/// What a moderator has decided. Moments are Unix milliseconds; `until_ms` 0 lifts what was ordered
/// before, `UNTIL_FOREVER` never ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A user may not connect.
    Ban {
        /// The user.
        user: UserKey,
        /// When it ends.
        until_ms: u64,
        /// For the client to show; shared, because every shard has the order.
        text: Arc<str>,
    },
    /// A user may not speak.
    Mute {
        /// The user.
        user: UserKey,
        /// Where; 0: in the whole app.
        room: RoomId,
        /// When it ends.
        until_ms: u64,
    },
}

/// Why an order was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are `ORDERS_MAX` already.
    Full,
    /// The text has more than `TEXT_BYTES_MAX` bytes.
    LongText,
}

impl Order {
    /// Whether it lifts what was ordered before, so that nothing is left to be remembered.
    pub fn is_lift(&self) -> bool {
        let (Self::Ban { until_ms, .. } | Self::Mute { until_ms, .. }) = self;
        *until_ms == 0
    }

    /// What a store keeps the order under: an order replaces the one with the same key.
    pub fn key(&self) -> Vec<u8> {
        self.subject().to_bytes()
    }

    /// What a store keeps.
    pub fn value(&self) -> Vec<u8> {
        let (until_ms, text) = match self {
            Self::Ban { until_ms, text, .. } => (until_ms, &**text),
            Self::Mute { until_ms, .. } => (until_ms, ""),
        };
        [&[VALUE_VERSION][..], &until_ms.to_le_bytes(), text.as_bytes()].concat()
    }

    /// The order with this key and value, if they are those of one.
    pub fn read(key: &[u8], value: &[u8]) -> Option<Self> {
        let (&VALUE_VERSION, value) = value.split_first()? else { return None };
        let (until_ms, text) = value.split_first_chunk()?;
        let until_ms = u64::from_le_bytes(*until_ms);
        match Subject::from_bytes(key)? {
            Subject::Ban(user) if text.len() <= TEXT_BYTES_MAX => {
                let text = std::str::from_utf8(text).ok()?.into();
                Some(Self::Ban { user, until_ms, text })
            }
            Subject::Mute(user, room) if text.is_empty() => {
                Some(Self::Mute { user, room, until_ms })
            }
            Subject::Ban(_) | Subject::Mute(..) => None,
        }
    }

    fn subject(&self) -> Subject {
        match *self {
            Self::Ban { user, .. } => Subject::Ban(user),
            Self::Mute { user, room, .. } => Subject::Mute(user, room),
        }
    }
}

/// What there is at most one order about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Ban(UserKey),
    Mute(UserKey, RoomId),
}

impl Subject {
    /// Big-endian, so that a store has a user's orders side by side.
    fn to_bytes(self) -> Vec<u8> {
        let (kind, user, room) = match self {
            Self::Ban(user) => (KEY_BAN, user, None),
            Self::Mute(user, room) => (KEY_MUTE, user, Some(room.0.to_be_bytes())),
        };
        let room = room.as_ref().map_or(&[][..], |room| room);
        [&[kind][..], &user.app.0.to_be_bytes(), &user.user.0.to_be_bytes(), room].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        let (app, rest) = rest.split_first_chunk()?;
        let (user, room) = rest.split_first_chunk()?;
        let app = AppId(u32::from_be_bytes(*app));
        let user = UserKey { app, user: UserId(u64::from_be_bytes(*user)) };
        match kind {
            KEY_BAN if room.is_empty() => Some(Self::Ban(user)),
            KEY_MUTE => {
                let room = RoomId(u64::from_be_bytes(room.try_into().ok()?));
                Some(Self::Mute(user, room))
            }
            _ => None,
        }
    }
}

/// The bans and mutes in force. Every shard has them all, so that asking costs no mail.
///
/// At most so much memory: on each shard `ORDERS_MAX` times its entries in the tables (about 200
/// bytes), and once for all shards `ORDERS_MAX` texts of `TEXT_BYTES_MAX`.
pub struct Moderation {
    bans: AHashMap<UserKey, Ban>,
    mutes: AHashMap<(UserKey, RoomId), u64>,
    /// How many of `mutes` are of this user: most users have none, and one look says so.
    muted: AHashMap<UserKey, u32>,
    /// Every order that ends by itself, the first to end first.
    endings: BTreeSet<(u64, Subject)>,
    orders_max: usize,
}

struct Ban {
    until_ms: u64,
    text: Arc<str>,
}

impl Moderation {
    /// Nobody is banned or muted, and nothing is allocated.
    pub fn new() -> Self {
        Self::with_capacity(ORDERS_MAX)
    }

    fn with_capacity(orders_max: usize) -> Self {
        let [a, b, c, d] = HASH_SEEDS;
        let hasher = RandomState::with_seeds(a, b, c, d);
        Self {
            bans: AHashMap::with_hasher(hasher.clone()),
            mutes: AHashMap::with_hasher(hasher.clone()),
            muted: AHashMap::with_hasher(hasher),
            endings: BTreeSet::new(),
            orders_max,
        }
    }

    /// Puts an order in force, in place of the one before about the same.
    pub fn apply(&mut self, order: Order) -> Result<(), Refused> {
        let subject = order.subject();
        if let Order::Ban { text, .. } = &order
            && text.len() > TEXT_BYTES_MAX
        {
            return Err(Refused::LongText);
        }
        if order.is_lift() {
            self.lift(subject);
            return Ok(());
        }
        if !self.holds(subject) && self.len() >= self.orders_max {
            return Err(Refused::Full);
        }
        self.lift(subject);
        let (Order::Ban { until_ms, .. } | Order::Mute { until_ms, .. }) = order;
        if until_ms != UNTIL_FOREVER {
            self.endings.insert((until_ms, subject));
        }
        match order {
            Order::Ban { user, until_ms, text } => {
                self.bans.insert(user, Ban { until_ms, text });
            }
            Order::Mute { user, room, until_ms } => {
                self.mutes.insert((user, room), until_ms);
                *self.muted.entry(user).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Until when this user is banned, and what they are to be shown.
    #[inline]
    pub fn is_banned(&self, now_unix_ms: u64, user: UserKey) -> Option<(u64, &str)> {
        let ban = self.bans.get(&user)?;
        in_force(now_unix_ms, ban.until_ms).then_some((ban.until_ms, &*ban.text))
    }

    /// Until when this user may not speak in this room, for its own mute or the whole app's.
    #[inline]
    pub fn is_muted(&self, now_unix_ms: u64, user: UserKey, room: RoomId) -> Option<u64> {
        self.muted.get(&user)?;
        let until = |room| self.mutes.get(&(user, room)).copied();
        let until_ms = until(room).max(until(WHOLE_APP))?;
        in_force(now_unix_ms, until_ms).then_some(until_ms)
    }

    /// Forgets up to so many orders that have ended, and says which as the orders that lift them,
    /// so that a store can forget them too.
    pub fn sweep(&mut self, now_unix_ms: u64, at_most: usize) -> Vec<Order> {
        let mut lifts = Vec::new();
        while lifts.len() < at_most
            && let Some(&(until_ms, subject)) = self.endings.first()
            && !in_force(now_unix_ms, until_ms)
        {
            self.lift(subject);
            lifts.push(match subject {
                Subject::Ban(user) => Order::Ban { user, until_ms: 0, text: "".into() },
                Subject::Mute(user, room) => Order::Mute { user, room, until_ms: 0 },
            });
        }
        lifts
    }

    /// How many orders are held, those that have ended and not been swept among them.
    pub fn len(&self) -> usize {
        self.bans.len() + self.mutes.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn holds(&self, subject: Subject) -> bool {
        match subject {
            Subject::Ban(user) => self.bans.contains_key(&user),
            Subject::Mute(user, room) => self.mutes.contains_key(&(user, room)),
        }
    }

    fn lift(&mut self, subject: Subject) {
        let until_ms = match subject {
            Subject::Ban(user) => self.bans.remove(&user).map(|ban| ban.until_ms),
            Subject::Mute(user, room) => self.mutes.remove(&(user, room)),
        };
        let Some(until_ms) = until_ms else { return };
        let ends = self.endings.remove(&(until_ms, subject));
        assert!(ends || until_ms == UNTIL_FOREVER, "what ends is known to end");
        if let Subject::Mute(user, _) = subject {
            let rooms = self.muted.get_mut(&user).expect("every mute is counted");
            *rooms -= 1;
            if *rooms == 0 {
                self.muted.remove(&user);
            }
        }
    }
}

impl Default for Moderation {
    fn default() -> Self {
        Self::new()
    }
}

fn in_force(now_unix_ms: u64, until_ms: u64) -> bool {
    until_ms == UNTIL_FOREVER || now_unix_ms < until_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: UserKey = UserKey { app: AppId(1), user: UserId(7) };

    fn ban(until_ms: u64) -> Order {
        Order::Ban { user: USER, until_ms, text: "out".into() }
    }

    fn mute(room: u64, until_ms: u64) -> Order {
        Order::Mute { user: USER, room: RoomId(room), until_ms }
    }

    /// Until when the user is banned, and muted in rooms 1, 2 and 0, at moment 100.
    fn check(orders: &[Order], banned: Option<u64>, muted: [Option<u64>; 3]) {
        let mut moderation = Moderation::new();
        for order in orders {
            assert_eq!(moderation.apply(order.clone()), Ok(()));
        }
        let (until, text) = moderation.is_banned(100, USER).unzip();
        assert_eq!((until, text), (banned, banned.and(Some("out"))), "{orders:?}");
        let until = [1, 2, 0].map(|room| moderation.is_muted(100, USER, RoomId(room)));
        assert_eq!(until, muted, "{orders:?}");
        let others = [
            UserKey { app: AppId(2), user: USER.user },
            UserKey { app: USER.app, user: UserId(8) },
        ];
        for other in others {
            assert_eq!(moderation.is_banned(100, other), None);
            assert_eq!(moderation.is_muted(100, other, RoomId(1)), None);
        }
    }

    #[test]
    fn an_order_holds_until_it_ends() {
        const NOT: [Option<u64>; 3] = [None; 3];
        check(&[], None, NOT);
        check(&[ban(101)], Some(101), NOT);
        check(&[ban(100)], None, NOT);
        check(&[ban(UNTIL_FOREVER)], Some(UNTIL_FOREVER), NOT);
        check(&[ban(500), ban(0)], None, NOT);
        check(&[ban(500), ban(99)], None, NOT);
        check(&[ban(99), ban(500)], Some(500), NOT);
        check(&[mute(1, 101)], None, [Some(101), None, None]);
        check(&[mute(1, 100)], None, NOT);
        check(&[mute(0, 500)], None, [Some(500); 3]);
    }

    #[test]
    fn mutes_of_a_room_and_of_the_app_do_not_lift_each_other() {
        check(&[mute(1, 500), mute(0, 300)], None, [Some(500), Some(300), Some(300)]);
        check(&[mute(1, 300), mute(0, 500)], None, [Some(500); 3]);
        check(&[mute(1, 500), mute(0, 300), mute(0, 0)], None, [Some(500), None, None]);
        check(&[mute(1, 500), mute(0, 300), mute(1, 0)], None, [Some(300); 3]);
        check(&[mute(1, 500), mute(2, 300), mute(1, 0)], None, [None, Some(300), None]);
        check(&[mute(1, 500), ban(300), ban(0)], None, [Some(500), None, None]);
    }

    #[test]
    fn what_has_ended_is_swept_a_few_at_a_time() {
        let mut moderation = Moderation::new();
        for order in [mute(1, 30), mute(2, 10), ban(20), mute(3, 40), mute(0, UNTIL_FOREVER)] {
            moderation.apply(order).unwrap();
        }
        assert_eq!(moderation.sweep(9, 9), []);
        let lifted_ban = Order::Ban { user: USER, until_ms: 0, text: "".into() };
        assert_eq!(moderation.sweep(39, 2), [mute(2, 0), lifted_ban]);
        assert_eq!(moderation.sweep(39, 2), [mute(1, 0)]);
        assert_eq!(moderation.sweep(u64::MAX, 9), [mute(3, 0)]);
        assert_eq!(moderation.len(), 1, "for ever is for ever");
        assert_eq!(moderation.is_muted(u64::MAX, USER, RoomId(1)), Some(UNTIL_FOREVER));
        assert!(moderation.endings.is_empty());
        moderation.apply(mute(0, 0)).unwrap();
        assert!(moderation.is_empty() && moderation.muted.is_empty(), "nothing is left behind");
    }

    #[test]
    fn one_too_many_is_refused_and_changes_nothing() {
        let mut moderation = Moderation::with_capacity(2);
        let outcomes = [ban(500), mute(1, 500), mute(2, 500), mute(1, 600), ban(0), mute(2, 500)]
            .map(|order| moderation.apply(order));
        assert_eq!(outcomes, [Ok(()), Ok(()), Err(Refused::Full), Ok(()), Ok(()), Ok(())]);
        assert_eq!(moderation.is_muted(100, USER, RoomId(1)), Some(600));
        let text = "x".repeat(TEXT_BYTES_MAX + 1).into();
        let long = Order::Ban { user: USER, until_ms: 500, text };
        assert_eq!(moderation.apply(long), Err(Refused::LongText));
        assert_eq!(moderation.len(), 2);
    }

    #[test]
    fn what_is_stored_stays_readable() {
        let (key, value) = (ban(0x0102).key(), ban(0x0102).value());
        assert_eq!(key, [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(value, [&[1, 2, 1, 0, 0, 0, 0, 0, 0][..], b"out"].concat());
        assert_eq!(
            mute(3, 5).key(),
            [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 3]
        );
        assert_eq!(mute(3, 5).value(), [1, 5, 0, 0, 0, 0, 0, 0, 0]);
        for order in [ban(0), ban(9), ban(UNTIL_FOREVER), mute(0, 9), mute(3, 0)] {
            assert_eq!(Order::read(&order.key(), &order.value()), Some(order));
        }
    }

    #[test]
    fn what_is_no_order_is_not_read() {
        let (key, value) = (mute(3, 5).key(), mute(3, 5).value());
        let check = |key: &[u8], value: &[u8]| assert_eq!(Order::read(key, value), None);
        (0..key.len()).for_each(|end| check(&key[..end], &value));
        (0..value.len()).for_each(|end| check(&key, &value[..end]));
        check(&[&key[..], &[0]].concat(), &value);
        check(&key, &[&value[..], &[0]].concat());
        check(&[&[3], &key[1..]].concat(), &value);
        check(&key, &[&[2], &value[1..]].concat());
        check(&ban(5).key(), &[&value[..], &[0xff]].concat());
        check(&ban(5).key(), &[&value[..], &[b'x'; TEXT_BYTES_MAX + 1]].concat());
        check(&[&ban(5).key()[..], &[0; 8]].concat(), &value);
    }
}
