//! What may be said, before a room is asked: quotas, the egress budget, who is banned or muted; and
//! how what is scarce is divided among shards.
//!
//! Every shard holds the whole table of bans and mutes, and its own share of the egress budget and
//! of each app's quota. Shard 0 divides both by what each shard would have used in the last tick.

use ahash::AHashMap;
use barrage_router::{
    AppId, Bucket, Egress, Millis, Moderation, QuotaTable, Rate, ShardIndex, UserKey, shares,
};

use super::core::Core;
use crate::limits::QUOTA_USERS_MAX;
use crate::mail::{Demand, Mail};

/// Users whose quota is looked at in one tick for whether it is whole again.
const FORGET_USERS: usize = 256;
/// Where what is scarce is divided.
const DIVIDER: ShardIndex = ShardIndex(0);
const TICKS_PER_SECOND: u64 = 1_000_000 / super::TICK_US;

/// See the module.
pub(super) struct Guards {
    pub moderation: Moderation,
    pub users: QuotaTable<UserKey>,
    apps: AHashMap<AppId, AppUse>,
    pub egress: Egress,
    /// Bytes, sent or not.
    egress_asked: Asked,
    divider: Divider,
}

/// What an app does at rooms whose home is this shard.
#[derive(Default)]
struct AppUse {
    bucket: Bucket,
    /// What this shard may use, once it was told.
    share: Option<u32>,
    asked: Asked,
}

/// How much is asked for.
#[derive(Default)]
struct Asked {
    in_tick: u64,
    per_second: u64,
}

impl Asked {
    /// A tick is over: what is asked for in a second, as it is now. It rises at once and falls
    /// slowly, to a quarter in a second: a tick that comes late is followed by one in which nothing
    /// was asked.
    fn turn(&mut self) -> u64 {
        let now = std::mem::take(&mut self.in_tick).saturating_mul(TICKS_PER_SECOND);
        self.per_second = now.max(self.per_second - self.per_second.div_ceil(8));
        self.per_second
    }
}

/// What shards would use, at the shard that divides.
#[derive(Default)]
struct Divider {
    egress: Vec<u64>,
    apps: AHashMap<u32, Vec<u64>>,
}

impl Guards {
    /// Nobody has said anything.
    pub fn new() -> Self {
        Self {
            moderation: Moderation::new(),
            users: QuotaTable::new(QUOTA_USERS_MAX),
            apps: AHashMap::new(),
            egress: Egress::new(),
            egress_asked: Asked::default(),
            divider: Divider::default(),
        }
    }

    /// Whether an app may say one more thing here.
    pub fn check_app(
        &mut self,
        now: Millis,
        app: AppId,
        quota: Rate,
        shards: u32,
    ) -> Result<(), u32> {
        if quota.is_unlimited() {
            return Ok(());
        }
        let place = self.apps.entry(app).or_default();
        place.asked.in_tick += 1;
        place.bucket.check(place.rate(quota, shards), now)
    }

    /// It has.
    pub fn take_app(&mut self, now: Millis, app: AppId, quota: Rate, shards: u32) {
        if !quota.is_unlimited() {
            let place = self.apps.entry(app).or_default();
            place.bucket.take(place.rate(quota, shards), now);
        }
    }

    /// So many bytes would be sent.
    pub fn ask_egress(&mut self, bytes: u64) {
        self.egress_asked.in_tick = self.egress_asked.in_tick.saturating_add(bytes);
    }
}

impl AppUse {
    fn rate(&self, quota: Rate, shards: u32) -> Rate {
        let even = |amount: u32| amount.div_ceil(shards);
        let per_second = self.share.unwrap_or_else(|| even(quota.per_second)).max(1);
        Rate { per_second, burst: even(quota.burst).max(1) }
    }
}

impl Core {
    /// Sets what follows from a policy that has just come into force.
    pub(super) fn rules_changed(&mut self) {
        let budget = self.config.rules.policy.egress_bytes_per_second;
        let shards = u64::from(self.post.shards());
        let share = if budget == 0 { 0 } else { (budget / shards).max(1) };
        self.guards.egress.set(self.clock.millis(), share);
        if self.config.rules.policy.quotas.app.is_unlimited() {
            self.guards.apps.clear();
            self.guards.divider.apps.clear();
        }
        // What was used stays used: a policy that is read again is not another burst.
        self.guards.apps.values_mut().for_each(|place| place.share = None);
    }

    /// Says what this shard would use, and divides what all say if that is its part.
    pub(super) fn divide(&mut self) {
        let policy = &self.config.rules.policy;
        let (egress, quota) = (policy.egress_bytes_per_second, policy.quotas.app);
        let (shard, now) = (self.me(), self.clock.millis());
        self.guards.users.forget(now, FORGET_USERS);
        if self.post.shards() == 1 {
            self.guards.apps.retain(|_, place| !place.bucket.is_full(now));
            return;
        }
        let asked = self.guards.egress_asked.turn();
        if egress > 0 {
            let demand = Demand::Egress(asked);
            self.post.send(DIVIDER, Mail::Demand { shard, demand });
        }
        if !quota.is_unlimited() {
            let post = &mut self.post;
            self.guards.apps.retain(|app, place| {
                let per_second = place.asked.turn();
                let demand = Demand::App { app: app.0, per_second };
                post.send(DIVIDER, Mail::Demand { shard, demand });
                // Who has been silent is forgotten, and has said that nothing is wanted.
                per_second > 0 || !place.bucket.is_full(now)
            });
        }
        if shard == DIVIDER {
            self.divide_demands();
        }
    }

    /// For metrics: a debt counts as nothing left.
    pub(super) fn egress_fullness(&self) -> u64 {
        self.guards.egress.fullness(self.clock.millis()).max(0) as u64
    }

    pub(super) fn demanded(&mut self, shard: ShardIndex, demand: Demand) {
        let shards = usize::from(self.post.shards());
        let (demands, amount) = match demand {
            Demand::Egress(amount) => (&mut self.guards.divider.egress, amount),
            Demand::App { app, per_second } => {
                (self.guards.divider.apps.entry(app).or_default(), per_second)
            }
        };
        demands.resize(shards, 0);
        demands[usize::from(shard.0)] = amount;
    }

    fn divide_demands(&mut self) {
        let policy = &self.config.rules.policy;
        let mut divided = Vec::new();
        let mut tells = Vec::new();
        let divider = &mut self.guards.divider;
        if policy.egress_bytes_per_second > 0 && !divider.egress.is_empty() {
            shares(policy.egress_bytes_per_second, &divider.egress, &mut divided);
            tells.extend((0..).zip(&divided).map(|(shard, &it)| (shard, Demand::Egress(it))));
        }
        for (&app, demands) in &mut divider.apps {
            shares(u64::from(policy.quotas.app.per_second), demands, &mut divided);
            let tell = |(shard, &per_second)| (shard, Demand::App { app, per_second });
            tells.extend((0..).zip(&divided).map(tell));
        }
        // Who asks for nothing any more is not divided for.
        divider.apps.retain(|_, demands| demands.iter().any(|&demand| demand > 0));
        for (shard, demand) in tells {
            self.post.send(ShardIndex(shard), Mail::Share { demand });
        }
    }

    pub(super) fn shared(&mut self, demand: Demand) {
        let budget = self.config.rules.policy.egress_bytes_per_second;
        match demand {
            // Of a budget that is gone: there is no limit any more.
            Demand::Egress(_) if budget == 0 => {}
            Demand::Egress(share) => self.guards.egress.set(self.clock.millis(), share.max(1)),
            Demand::App { app, per_second } => {
                if let Some(place) = self.guards.apps.get_mut(&AppId(app)) {
                    place.share = Some(u32::try_from(per_second).unwrap_or(u32::MAX));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_rises_at_once_and_falls_slowly_to_nothing() {
        let mut asked = Asked::default();
        let mut check = |in_tick, per_second| {
            asked.in_tick += in_tick;
            assert_eq!(asked.turn(), per_second, "after {in_tick}");
        };
        check(0, 0);
        check(64, 640);
        check(0, 560);
        check(10, 490);
        check(100, 1000);
        let last = |asked: &mut Asked, ticks| (0..ticks).map(|_| asked.turn()).last();
        assert_eq!(last(&mut asked, 10), Some(261));
        assert_eq!(last(&mut asked, 50), Some(0));
    }
}
