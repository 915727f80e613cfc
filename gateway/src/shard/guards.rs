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
    /// Bytes that were asked for in this tick, sent or not.
    egress_asked: u64,
    divider: Divider,
}

/// What an app does at rooms whose home is this shard.
#[derive(Default)]
struct AppUse {
    bucket: Bucket,
    /// What this shard may use, once it was told.
    share: Option<u32>,
    asked: u64,
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
            egress_asked: 0,
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
        place.asked += 1;
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
        self.egress_asked += bytes;
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
        self.guards.apps.clear();
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
        let asked = std::mem::take(&mut self.guards.egress_asked);
        if egress > 0 {
            let demand = Demand::Egress(asked.saturating_mul(TICKS_PER_SECOND));
            self.post.send(DIVIDER, Mail::Demand { shard, demand });
        }
        if !quota.is_unlimited() {
            for (app, place) in &mut self.guards.apps {
                let per_second = std::mem::take(&mut place.asked) * TICKS_PER_SECOND;
                let demand = Demand::App { app: app.0, per_second };
                self.post.send(DIVIDER, Mail::Demand { shard, demand });
            }
            self.guards.apps.retain(|_, place| place.share.is_some() || !place.bucket.is_full(now));
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
        match demand {
            Demand::Egress(share) => self.guards.egress.set(self.clock.millis(), share.max(1)),
            Demand::App { app, per_second } => {
                if let Some(place) = self.guards.apps.get_mut(&AppId(app)) {
                    place.share = Some(u32::try_from(per_second).unwrap_or(u32::MAX));
                }
            }
        }
    }
}
