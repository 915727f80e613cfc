//! When all connections of the proxy are stalled or reset. Pure: moments in, orders out.

use crate::random::Random;

/// What happens to connections as a whole, counted from the first message.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Plan {
    /// How long a stall is; 0: there is none.
    pub stall_ns: u64,
    /// When the first one begins.
    pub stall_at_ns: u64,
    /// From the beginning of one to that of the next; none: there is one.
    pub stall_every_ns: Option<u64>,
    /// When every connection is reset.
    pub reset_at_ns: Option<u64>,
    /// How many connections are reset in a second, by chance.
    pub resets_per_s: f64,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sky {
    /// Nothing is forwarded until then.
    pub stalled_until_ns: Option<u64>,
    /// A stall has begun.
    pub stall_began: bool,
    /// Every connection is to be reset.
    pub reset_all: bool,
    /// So many connections are to be reset.
    pub resets: u32,
    /// When to look again, at the latest.
    pub next_ns: Option<u64>,
}

/// Follows a plan.
#[derive(Debug)]
pub struct Weather {
    plan: Plan,
    random: Random,
    began_ns: Option<u64>,
    /// When the present or the next stall begins; none: there is no more.
    stall_ns: Option<u64>,
    in_stall: bool,
    reset_all_ns: Option<u64>,
    reset_one_ns: Option<u64>,
}

impl Weather {
    /// The weather begins with the first message.
    pub fn new(plan: Plan, seed: u64) -> Self {
        Self {
            plan,
            random: Random::new(seed),
            began_ns: None,
            stall_ns: None,
            in_stall: false,
            reset_all_ns: None,
            reset_one_ns: None,
        }
    }

    /// Whether the first message is still to come.
    pub fn waits(&self) -> bool {
        self.began_ns.is_none()
    }

    /// The first message has come.
    pub fn begin(&mut self, now_ns: u64) {
        self.began_ns = Some(now_ns);
        self.stall_ns = (self.plan.stall_ns > 0).then(|| now_ns + self.plan.stall_at_ns);
        self.reset_all_ns = self.plan.reset_at_ns.map(|at_ns| now_ns + at_ns);
        self.reset_one_ns = self.next_reset(now_ns);
    }

    /// Stalls once more, from now on, whatever the plan says.
    pub fn stall_now(&mut self, now_ns: u64, for_ns: u64) {
        self.plan.stall_ns = for_ns;
        self.plan.stall_every_ns = None;
        (self.stall_ns, self.in_stall) = (Some(now_ns), false);
    }

    /// What is to be done.
    pub fn look(&mut self, now_ns: u64) -> Sky {
        let mut sky = Sky::default();
        self.stall(now_ns, &mut sky);
        if self.reset_all_ns.take_if(|at_ns| *at_ns <= now_ns).is_some() {
            sky.reset_all = true;
        }
        while let Some(at_ns) = self.reset_one_ns.filter(|at_ns| *at_ns <= now_ns) {
            sky.resets += 1;
            self.reset_one_ns = self.next_reset(at_ns);
        }
        let stall_ns = sky.stalled_until_ns.or(self.stall_ns);
        sky.next_ns = [stall_ns, self.reset_all_ns, self.reset_one_ns].into_iter().flatten().min();
        sky
    }

    fn stall(&mut self, now_ns: u64, sky: &mut Sky) {
        let Some(mut from_ns) = self.stall_ns else { return };
        if now_ns >= from_ns + self.plan.stall_ns && self.in_stall {
            self.in_stall = false;
            self.stall_ns = self.plan.stall_every_ns.map(|every_ns| from_ns + every_ns);
            let Some(next_ns) = self.stall_ns else { return };
            from_ns = next_ns;
        }
        if now_ns >= from_ns {
            sky.stall_began = !self.in_stall;
            if sky.stall_began {
                // A stall is as long as it should be, even when it was noticed late.
                from_ns = now_ns;
                self.stall_ns = Some(now_ns);
            }
            self.in_stall = true;
            sky.stalled_until_ns = Some(from_ns + self.plan.stall_ns);
        }
    }

    fn next_reset(&mut self, from_ns: u64) -> Option<u64> {
        (self.plan.resets_per_s > 0.0).then(|| {
            let wait_s = self.random.exponential(1.0 / self.plan.resets_per_s);
            from_ns + crate::clock::seconds_ns(wait_s).max(1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND_NS;

    /// What is seen at each second of ten: `.` nothing, `S` a stall begins, `s` goes on, `R` all are
    /// reset.
    fn check(plan: Plan, expected: &str) {
        let plan = Plan {
            stall_ns: plan.stall_ns * SECOND_NS,
            stall_at_ns: plan.stall_at_ns * SECOND_NS,
            stall_every_ns: plan.stall_every_ns.map(|every| every * SECOND_NS),
            reset_at_ns: plan.reset_at_ns.map(|at| at * SECOND_NS),
            ..plan
        };
        let mut weather = Weather::new(plan, 1);
        assert_eq!(weather.look(77), Sky::default(), "nothing happens before the first message");
        weather.begin(100 * SECOND_NS);
        let seen = |second: u64| {
            let sky = weather.look((100 + second) * SECOND_NS);
            match (sky.reset_all, sky.stall_began, sky.stalled_until_ns) {
                (true, ..) => 'R',
                (_, true, _) => 'S',
                (_, _, Some(_)) => 's',
                (..) => '.',
            }
        };
        assert_eq!((0..10).map(seen).collect::<String>(), expected);
    }

    #[test]
    fn stalls_come_once_or_again_and_again() {
        let once = Plan { stall_ns: 2, stall_at_ns: 3, ..Plan::default() };
        check(once, "...Ss.....");
        check(Plan { stall_every_ns: Some(4), ..once }, "...Ss..Ss.");
        check(Plan { stall_at_ns: 0, ..once }, "Ss........");
    }

    #[test]
    fn everybody_is_reset_once() {
        check(Plan { reset_at_ns: Some(5), ..Plan::default() }, ".....R....");
    }

    #[test]
    fn a_stall_that_is_noticed_late_is_as_long_as_any() {
        let plan = Plan { stall_ns: 10, stall_at_ns: 5, ..Plan::default() };
        let mut weather = Weather::new(plan, 1);
        weather.begin(0);
        assert_eq!(weather.look(12).stalled_until_ns, Some(22));
        assert_eq!(weather.look(21).stalled_until_ns, Some(22));
        assert_eq!(weather.look(22), Sky::default());
    }

    #[test]
    fn resets_come_at_their_rate() {
        let mut weather = Weather::new(Plan { resets_per_s: 50.0, ..Plan::default() }, 3);
        weather.begin(0);
        let resets: u32 = (1..=1000).map(|n| weather.look(n * SECOND_NS / 10).resets).sum();
        assert!((4500..5500).contains(&resets), "{resets} in a hundred seconds");
    }
}
