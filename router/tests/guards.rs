//! Quotas, the egress budget, moderation and device rules against models that are as plain as can
//! be, on calls that come from a seed.
//!
//! `SEED=n cargo test -p barrage-router --test guards` runs one seed again.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use barrage_router::{
    AppId, Class, Device, Egress, Level, Millis, Moderation, Order, PLATFORMS, QuotaTable, Rate,
    RoomId, Surplus, UNTIL_FOREVER, UserId, UserKey, replaced, shares,
};
use barrage_wire::client::Platform;

/// Seeds that every test run goes through.
const SEEDS: u64 = 2_000;
/// Calls of each kind in one seed.
const STEPS: u64 = 100;

/// SplitMix64: small, and the same everywhere for ever.
struct Random(u64);

impl Random {
    /// Under `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Says how to see a failure again.
struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with: SEED={} cargo test -p barrage-router --test guards", self.0);
        }
    }
}

/// Runs every seed, or the one that is asked for, and checks that each kind of outcome was seen.
fn check<const KINDS: usize>(run: impl Fn(&mut Random) -> [u64; KINDS]) {
    let one = |seed| {
        let _name_the_seed = OnPanic(seed);
        run(&mut Random(seed))
    };
    if let Ok(seed) = std::env::var("SEED") {
        println!("{:?}", one(seed.parse().expect("SEED is a number")));
        return;
    }
    let mut seen = [0; KINDS];
    for seed in 0..SEEDS {
        seen.iter_mut().zip(one(seed)).for_each(|(sum, more)| *sum += more);
    }
    println!("{seen:?}");
    // A simulation in which something never happens says nothing about it.
    assert!(seen.iter().all(|&times| times > SEEDS), "every kind of thing happens often: {seen:?}");
}

#[test]
fn quotas_do_what_the_model_does() {
    check(quotas);
}

#[test]
fn egress_does_what_the_model_does() {
    check(egress);
}

#[test]
fn droppable_messages_never_exceed_what_they_were_given() {
    check(budget);
}

#[test]
fn shares_are_fair() {
    check(fair_shares);
}

#[test]
fn moderation_does_what_the_model_does() {
    check(moderation);
}

#[test]
fn what_was_stored_is_read_and_nothing_else() {
    check(stored);
}

#[test]
fn devices_are_replaced_as_the_model_does() {
    check(devices);
}

/// The model: when each key will have paid, for ever, in a list that is searched. What is refused,
/// what had to pass all the same, and who was forgotten in debt.
fn quotas(random: &mut Random) -> [u64; 3] {
    let capacity = random.pick(&[1, 2, 3, 8, 100]);
    let keys = random.pick(&[2, 4, 20]);
    let rates = [(0, 0), (1, 1), (3, 0), (10, 5), (1_000, 2), (7, 100)]
        .map(|(per_second, burst)| Rate { per_second, burst });
    let rate_of_all = random.pick(&rates);
    let (mut table, mut paid_ns) = (QuotaTable::new(capacity), BTreeMap::<u64, u64>::new());
    let (mut now, [mut refused, mut forced, mut lost]) = (random.below(100_000), [0; 3]);
    for _ in 0..STEPS {
        now += random.pick(&[0, 0, 1, 10, 100, 500, 3_000]);
        let (now_ns, at) = (now * 1_000_000, Millis(now));
        let key = random.below(keys);
        let rate = if random.below(10) == 0 { random.pick(&rates) } else { rate_of_all };
        let cost_ns = if rate.per_second == 0 { 0 } else { 1_000_000_000 / rate.per_second as u64 };
        let allowed_ns = cost_ns * u64::from(rate.burst.max(1));
        let after_ns = paid_ns.get(&key).map_or(now_ns, |&paid| paid.max(now_ns)) + cost_ns;
        let late_ms = after_ns.saturating_sub(now_ns + allowed_ns).div_ceil(1_000_000);
        let expected = if late_ms == 0 || cost_ns == 0 { Ok(()) } else { Err(late_ms as u32) };
        assert_eq!(table.check(at, key, rate), expected, "{key} at {now}, {rate:?}");
        refused += u64::from(expected.is_err());
        if expected.is_err() && random.below(4) > 0 {
            continue;
        }
        forced += u64::from(expected.is_err());
        table.take(at, key, rate);
        if cost_ns > 0 {
            if !paid_ns.contains_key(&key) && paid_ns.len() == capacity {
                let paid_ms = |(key, paid): (&u64, &u64)| (paid.div_ceil(1_000_000), *key);
                let (first_ms, first) = paid_ns.iter().map(paid_ms).min().expect("one is there");
                paid_ns.remove(&first);
                lost += u64::from(first_ms > now);
            }
            paid_ns.insert(key, after_ns);
        }
        let in_debt = paid_ns.values().filter(|&&paid| paid > now_ns).count();
        assert!((in_debt..=capacity).contains(&table.len()), "{} held", table.len());
        if random.below(20) == 0 {
            table.forget(at, usize::MAX);
            assert_eq!(table.len(), in_debt, "those in debt and nobody else");
        }
    }
    [refused, forced, lost]
}

/// The model: a bucket that is filled millisecond by millisecond.
struct Bucket {
    share: i128,
    left: i128,
    owed: i128,
}

impl Bucket {
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.left += self.share;
            let paid = self.owed.min(self.share);
            self.owed -= paid;
            self.left = (self.left - paid).min(1_000 * self.share);
        }
    }

    fn admits(&self, class: Class, level: Level, bytes: u64) -> bool {
        let of_class = match class {
            Class::P0 => return true,
            Class::P1 => 0,
            Class::P2 => 200,
            Class::P3 => 450,
        };
        let floor = (of_class + 50 * level.index() as i128) * self.share;
        self.left - self.owed >= (floor + 1_000 * i128::from(bytes)).min(1_000 * self.share)
    }

    fn spend(&mut self, must: bool, bytes: u64) {
        let bytes = 1_000 * i128::from(bytes);
        if !must && self.left >= self.owed {
            self.left -= bytes;
        } else {
            let beyond = (bytes - self.left.max(0)).max(0);
            self.left -= bytes - beyond;
            self.owed = (self.owed + beyond).min(1_000 * self.share);
        }
    }
}

fn kind(random: &mut Random) -> (Class, bool, Level) {
    (random.pick(&Class::ALL), random.below(8) == 0, random.pick(&Level::ALL))
}

/// Admitted, refused, had to pass while in debt.
fn egress(random: &mut Random) -> [u64; 3] {
    let mut share = 1 + random.pick(&[0, 10, 1_000, 123_457]);
    let mut now = random.below(1_000_000);
    let mut egress = Egress::new();
    egress.set(Millis(now), share);
    let full = i128::from(share);
    let mut model = Bucket { share: full, left: 1_000 * full, owed: 0 };
    let [mut admitted, mut refused, mut in_debt] = [0; 3];
    for _ in 0..STEPS {
        let pause = random.pick(&[0, 0, 0, 1, 1, 7, 50, 300]);
        now += pause;
        model.pass(pause);
        let ((class, never_drop, level), at) = (kind(random), Millis(now));
        let largest = random.pick(&[1, share / 20, share / 2, 3 * share]);
        let bytes = random.below(largest + 1);
        let must = never_drop || class == Class::P0;
        let outcome = egress.admit(at, class, never_drop, level, bytes);
        assert_eq!(outcome.is_ok(), must || model.admits(class, level, bytes), "{class:?} {bytes}");
        if let Err(wait_ms) = outcome {
            let ask = |ms| egress.admit(Millis(now + ms), class, never_drop, level, bytes);
            assert_eq!(ask(u64::from(wait_ms)), Ok(()), "it was told to try again then");
            assert_eq!(ask(u64::from(wait_ms) - 1), Err(1), "and no sooner");
        }
        for (above, lower) in Class::ALL.iter().zip(&Class::ALL[1..]) {
            let passes = |class: &Class| egress.admit(at, *class, false, level, bytes).is_ok();
            assert!(passes(above) || !passes(lower), "{lower:?} passes where {above:?} does not");
        }
        admitted += u64::from(outcome.is_ok() && !must);
        refused += u64::from(outcome.is_err());
        in_debt += u64::from(must && egress.fullness(at) < 0);
        if outcome.is_ok() || random.below(10) == 0 {
            egress.spend(at, class, never_drop, bytes);
            model.spend(must, bytes);
        }
        if random.below(20) == 0 {
            share = 1 + random.below(2 * share);
            egress.set(at, share);
            model.share = i128::from(share);
            model.left = model.left.min(1_000 * model.share);
            model.owed = model.owed.min(1_000 * model.share);
        }
        let permille = (model.left - model.owed).div_euclid(model.share);
        assert_eq!(i128::from(egress.fullness(at)), permille, "at {now}");
    }
    [admitted, refused, in_debt]
}

/// Whatever is offered, what asked and was admitted is no more than one full bucket, what the
/// shares gave since, and the excess of the last message, if it was larger than a bucket. Counts
/// what was admitted, refused, and how often the share has changed.
fn budget(random: &mut Random) -> [u64; 3] {
    let (mut now, mut share) = (0, 1_000);
    let mut egress = Egress::new();
    egress.set(Millis(now), share);
    let (mut given, mut used) = (1_000 * u128::from(share), 0);
    let [mut admitted, mut refused, mut changed] = [0; 3];
    let largest = random.pick(&[20, 200, 1_000, 9_000]);
    for _ in 0..STEPS {
        let pause = random.pick(&[0, 1, 5, 20, 100]);
        now += pause;
        given += u128::from(share * pause);
        let (class, never_drop, level) = kind(random);
        let bytes = random.below(largest);
        if egress.admit(Millis(now), class, never_drop, level, bytes).is_ok() {
            egress.spend(Millis(now), class, never_drop, bytes);
            if !never_drop && class != Class::P0 {
                used += 1_000 * u128::from(bytes);
                admitted += 1;
                let excess = 1_000 * u128::from(bytes.saturating_sub(share));
                assert!(used <= given + excess, "{used} of {given} at {now}");
            }
        } else {
            refused += 1;
        }
        if random.below(10) == 0 {
            share = 1 + random.below(2_000);
            egress.set(Millis(now), share);
            changed += 1;
        }
    }
    [admitted, refused, changed]
}

/// Max-min fairness as it is defined. Counts those who got less than they wanted, just what they
/// wanted, and more.
fn fair_shares(random: &mut Random) -> [u64; 3] {
    let (mut out, mut less, mut just, mut more) = (Vec::new(), 0, 0, 0);
    for _ in 0..STEPS / 10 {
        let scale = random.pick(&[1, 10, 1_000, 1 << 40, u64::MAX / 64]);
        let demand = |random: &mut Random| match random.below(4) {
            0 => 0,
            1 => random.below(scale),
            2 => random.below(scale) * 16,
            _ => random.pick(&[scale, u64::MAX]),
        };
        let wants: Vec<_> = (0..1 + random.below(12)).map(|_| demand(random)).collect();
        let shards = wants.len() as u64;
        let budget = random.below(scale).saturating_mul(random.pick(&[1, 8, 64]));
        shares(budget, &wants, &mut out);
        let sum: u128 = out.iter().copied().map(u128::from).sum();
        assert_eq!((out.len(), sum), (wants.len(), u128::from(budget)));
        let least = (budget / shards / 4).max(u64::from(budget >= shards));
        let largest = out.iter().copied().max().expect("one at least");
        let short = out.iter().zip(&wants).any(|(share, want)| share < want);
        for (&share, &want) in out.iter().zip(&wants) {
            let text = || format!("{share} for {want}: {budget} over {wants:?} is {out:?}");
            assert!(share >= least, "{}", text());
            // Who lacks something has as much as anybody; to a byte, for they do not divide.
            assert!(share >= want || share + 1 >= largest, "{}", text());
            // And while somebody lacks something, nobody has more than they want.
            assert!(!short || share <= want.max(least), "{}", text());
            match share.cmp(&want) {
                Ordering::Less => less += 1,
                Ordering::Equal => just += 1,
                Ordering::Greater => more += 1,
            }
        }
    }
    [less, just, more]
}

fn user(random: &mut Random) -> UserKey {
    UserKey { app: AppId(random.below(2) as u32), user: UserId(random.below(4)) }
}

fn order(random: &mut Random, now: u64) -> Order {
    let (user, later) = (user(random), now + random.below(400));
    let until_ms = random.pick(&[0, later, later, later, UNTIL_FOREVER, now / 2]);
    if random.below(2) == 0 {
        let text = random.pick(&["", "spam", "Grüße", "🚫"]).into();
        Order::Ban { user, until_ms, text }
    } else {
        Order::Mute { user, room: RoomId(random.below(3)), until_ms }
    }
}

/// The model: the last order about each, in a list. Counts who was found banned, found muted, and
/// what was swept.
fn moderation(random: &mut Random) -> [u64; 3] {
    let (mut table, mut model) = (Moderation::new(), BTreeMap::<Vec<u8>, Order>::new());
    let (mut now, [mut banned, mut muted, mut swept]) = (1_000, [0; 3]);
    for _ in 0..STEPS {
        now += random.pick(&[0, 1, 10, 50]);
        let order = order(random, now);
        assert_eq!(table.apply(order.clone()), Ok(()));
        model.insert(order.key(), order.clone());
        model.retain(|_, order| !order.is_lift());
        let user = user(random);
        let in_force = |until: u64| until == UNTIL_FOREVER || until > now;
        let ban = model.values().find_map(|order| match order {
            Order::Ban { user: of, until_ms, text } if *of == user && in_force(*until_ms) => {
                Some((*until_ms, &**text))
            }
            _ => None,
        });
        assert_eq!(table.is_banned(now, user), ban, "{user:?} at {now}");
        banned += u64::from(ban.is_some());
        for room in (0..4).map(RoomId) {
            let until = model.values().filter_map(|order| match *order {
                Order::Mute { user: of, room: place, until_ms } => {
                    let here = of == user && (place == room || place == RoomId(0));
                    (here && in_force(until_ms)).then_some(until_ms)
                }
                Order::Ban { .. } => None,
            });
            let until = until.max();
            assert_eq!(table.is_muted(now, user, room), until, "{user:?} in {room:?} at {now}");
            muted += u64::from(until.is_some());
        }
        let at_most = random.below(3) as usize;
        let lifts = table.sweep(now, at_most);
        swept += lifts.len() as u64;
        for lift in &lifts {
            assert!(lift.is_lift());
            let (Order::Ban { until_ms, .. } | Order::Mute { until_ms, .. }) =
                model.remove(&lift.key()).expect("each is swept once");
            assert!(!in_force(until_ms), "it has ended");
        }
        let ended = model.values().any(|order| {
            let (Order::Ban { until_ms, .. } | Order::Mute { until_ms, .. }) = order;
            !in_force(*until_ms)
        });
        assert!(lifts.len() == at_most || !ended, "as many as there are");
        assert_eq!(table.len(), model.len());
    }
    [banned, muted, swept]
}

/// Any order is read as it was stored, and bytes that are read as an order are just those that it
/// is stored as. Counts orders, and bytes with an error that are an order and that are none.
fn stored(random: &mut Random) -> [u64; 3] {
    let [mut read, mut other, mut none] = [0; 3];
    for _ in 0..STEPS / 5 {
        let shift = random.below(64);
        let order = order(random, (u64::MAX / 4) >> shift);
        let (mut key, mut value) = (order.key(), order.value());
        assert_eq!(Order::read(&key, &value), Some(order));
        read += 1;
        let bytes = if random.below(2) == 0 { &mut key } else { &mut value };
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.below(256) as u8),
            2 => bytes[at] ^= 1 << random.below(8),
            _ => bytes.iter_mut().for_each(|byte| *byte = random.below(256) as u8),
        }
        match Order::read(&key, &value) {
            Some(order) => {
                assert_eq!((order.key(), order.value()), (key, value));
                other += 1;
            }
            None => none += 1,
        }
    }
    [read, other, none]
}

/// The model: while there are too many, the oldest goes. Counts comers who push nobody out, one,
/// and several.
fn devices(random: &mut Random) -> [u64; 3] {
    /// Connections of one user.
    const MOST: usize = 6;
    let mut pushed = [0; 3];
    let mut present = Vec::<Device>::new();
    let mut rules = [0; PLATFORMS];
    for step in 0..STEPS {
        if step % 10 == 0 {
            rules = rules.map(|_| random.below(5) as u16);
        }
        // Some were overtaken on their way.
        let arrived = if random.below(10) == 0 { random.below(STEPS) } else { STEPS + step };
        let (name, platform) = (random.below(8), random.pick(Platform::ALL));
        present.push(Device { name, platform, arrived });
        let mut places = replaced(&present, &rules, MOST);
        let of_platform = usize::from(rules[platform as usize]);
        let mut left: Vec<_> = (0..present.len()).collect();
        let mut expected = Vec::new();
        type Is<'a> = &'a dyn Fn(&Device) -> bool;
        let bounds: [(usize, Surplus, Is<'_>); 3] = [
            (1, Surplus::Device, &|device| name != 0 && device.name == name),
            (of_platform, Surplus::Platform(of_platform as u16), &|device| {
                of_platform > 0 && device.platform == platform
            }),
            (MOST, Surplus::User, &|_| true),
        ];
        for (most, why, is_rival) in bounds {
            loop {
                let rivals = left.iter().copied().filter(|&at| is_rival(&present[at]));
                if rivals.clone().count() <= most {
                    break;
                }
                let oldest = rivals.min_by_key(|&at| present[at].arrived).expect("some");
                left.retain(|&at| at != oldest);
                expected.push((oldest, why));
            }
        }
        assert_eq!(places, expected, "{rules:?}, {present:?}");
        pushed[places.len().min(2)] += 1;
        places.sort_unstable_by_key(|&(at, _)| at);
        for &(at, _) in places.iter().rev() {
            present.swap_remove(at);
        }
        let swap = random.below(present.len() as u64) as usize;
        present.swap(0, swap);
    }
    pushed
}
