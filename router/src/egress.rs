//! The gateway's outbound bytes as a budget: who gives way when they are short, and which shard
//! gets how much of them.

use crate::class::Class;
use crate::ids::Millis;
use crate::level::Level;

/// What had to pass is owed for at most so long, so that the bucket is full again soon after.
pub const EGRESS_DEBT_MS: u64 = 1_000;

/// Of a second's share, in permille: what the least important droppable message of each class, by
/// `Class::index`, leaves in the bucket for those above it. P0 asks for nothing.
const FLOOR_PERMILLE: [i128; Class::ALL.len()] = [0, 0, 200, 450];
/// What each level above L1 leaves on top of that.
const LEVEL_PERMILLE: i128 = 50;
/// The bucket holds one second's share.
const BUCKET_MS: i128 = 1_000;

const _: () = assert!(
    floor_permille(Class::P1, Level::L4) < floor_permille(Class::P2, Level::L1)
        && floor_permille(Class::P2, Level::L4) < floor_permille(Class::P3, Level::L1)
        && floor_permille(Class::P3, Level::L4) < 1_000,
    "a class gives way as a whole before the one above it does"
);

/// What a shard may send: a bucket that holds one second's share and fills steadily.
///
/// Each class and level of room leaves some of the bucket to those that matter more. So when bytes
/// are short the bucket settles just where the least important of what still passes is refused as
/// often as is needed, and nothing is switched on or off as a whole.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    share_bytes_per_second: u64,
    /// What droppable messages may use, in thousandths of a byte, so that a millisecond's share is
    /// whole. Negative after a message of more than was there: all of it is owed.
    left: i128,
    /// What had to pass beyond that; at most `EGRESS_DEBT_MS` of the share. In the same unit.
    owed: i128,
    /// When these were right.
    at: Millis,
}

impl Egress {
    /// No limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says how much may be sent from now on; 0: no limit. The bucket begins full, and keeps what
    /// is in it when the share changes.
    pub fn set(&mut self, now: Millis, share_bytes_per_second: u64) {
        self.refill(now);
        let began = self.share_bytes_per_second == 0;
        self.share_bytes_per_second = share_bytes_per_second;
        self.left = if began { self.size() } else { self.left.min(self.size()) };
        self.owed = if began { 0 } else { self.owed.min(self.owed_max()) };
    }

    /// Whether a message may go out, by the bytes that it is to all its receivers together; else in
    /// how many milliseconds, if nobody else is quicker. P0 and what is never dropped always may.
    ///
    /// A message of more than what its class and level may use waits for a full bucket.
    pub fn admit(
        &self,
        now: Millis,
        class: Class,
        never_drop: bool,
        level: Level,
        bytes: u64,
    ) -> Result<(), u32> {
        if self.share_bytes_per_second == 0 || must_pass(class, never_drop) {
            return Ok(());
        }
        let floor = self.size() * floor_permille(class, level) / 1_000;
        let needed = (floor + thousandths(bytes)).min(self.size());
        let missing = needed - self.fill(now);
        if missing <= 0 {
            return Ok(());
        }
        // At least 1, for `missing` is, and so is the share.
        let wait_ms = (missing - 1) / i128::from(self.share_bytes_per_second) + 1;
        Err(u32::try_from(wait_ms).unwrap_or(u32::MAX))
    }

    /// A message goes out, whether it was admitted or had to. What goes out unasked although it is
    /// droppable, like the end of a combo, counts as never dropped.
    pub fn spend(&mut self, now: Millis, class: Class, never_drop: bool, bytes: u64) {
        if self.share_bytes_per_second == 0 {
            return;
        }
        self.refill(now);
        let bytes = thousandths(bytes);
        // Nothing is admitted to a bucket in debt, so that whatever is spent there had to pass.
        if !must_pass(class, never_drop) && self.fill(now) >= 0 {
            self.left -= bytes;
            return;
        }
        let paid = bytes.min(self.left.max(0));
        self.left -= paid;
        self.owed = (self.owed + bytes - paid).min(self.owed_max());
    }

    /// How full the bucket is, in permille of one second's share; negative in debt, 1000 when there
    /// is no limit.
    pub fn fullness(&self, now: Millis) -> i32 {
        match self.size() {
            0 => 1_000,
            size => {
                let permille = self.fill(now).saturating_mul(1_000).div_euclid(size);
                i32::try_from(permille).unwrap_or(i32::MIN)
            }
        }
    }

    /// In thousandths of a byte, as all that follows.
    fn size(&self) -> i128 {
        i128::from(self.share_bytes_per_second) * BUCKET_MS
    }

    fn owed_max(&self) -> i128 {
        i128::from(self.share_bytes_per_second) * i128::from(EGRESS_DEBT_MS)
    }

    fn gained(&self, now: Millis) -> i128 {
        let share = i128::from(self.share_bytes_per_second);
        share.saturating_mul(i128::from(now.since(self.at)))
    }

    fn fill(&self, now: Millis) -> i128 {
        (self.left - self.owed).saturating_add(self.gained(now)).min(self.size())
    }

    /// Pays what had to pass first, then fills the bucket.
    fn refill(&mut self, now: Millis) {
        let gained = self.gained(now);
        let paid = gained.min(self.owed);
        self.owed -= paid;
        self.left = self.left.saturating_add(gained - paid).min(self.size());
        self.at = self.at.max(now);
    }
}

/// Splits a budget over shards by what each of them wanted to send lately, refused or not, into as
/// many shares as there are demands. Their sum is exactly the budget.
///
/// It is max-min fair: nobody's share can grow without another's shrinking that is no larger. But
/// everybody gets a quarter of an even share whatever it wants, and what nobody wants is spread
/// evenly, so that an idle shard can start at once.
///
/// A share of 0 is no limit, so a budget of fewer bytes than there are shards is not one to have.
pub fn shares(budget: u64, demands: &[u64], out: &mut Vec<u64>) {
    out.clear();
    let shards = demands.len() as u64;
    if shards == 0 {
        return;
    }
    let even = budget / shards;
    let least = (even / 4).max(1).min(even);
    out.extend(demands.iter().map(|&demand| demand.max(least)));
    let wanted: u128 = out.iter().copied().map(u128::from).sum();
    let (most, spread_over) = match u64::try_from(wanted) {
        Ok(wanted) if wanted <= budget => (u64::MAX, shards),
        _ => cap(budget, out),
    };
    let taken: u64 = out.iter().map(|&want| want.min(most)).sum();
    let (each, mut odd) = ((budget - taken) / spread_over, (budget - taken) % spread_over);
    for share in out {
        if spread_over == shards || *share > most {
            *share = (*share).min(most) + each + u64::from(odd > 0);
            odd = odd.saturating_sub(1);
        }
    }
}

/// The share that nobody exceeds when all want more than there is, and how many want more than it.
///
/// It begins at the even share and rises by what those who want less leave over. Each round finds
/// at least one more of them or is the last.
fn cap(budget: u64, wants: &[u64]) -> (u64, u64) {
    let mut most = budget / wants.len() as u64;
    loop {
        let modest = || wants.iter().filter(|&&want| want <= most);
        let hungry = (wants.len() - modest().count()) as u64;
        assert!(hungry > 0, "they want more than there is");
        let fair = (budget - modest().sum::<u64>()) / hungry;
        if fair == most {
            return (most, hungry);
        }
        most = fair;
    }
}

fn must_pass(class: Class, never_drop: bool) -> bool {
    never_drop || matches!(class, Class::P0)
}

const fn floor_permille(class: Class, level: Level) -> i128 {
    FLOOR_PERMILLE[class as usize] + LEVEL_PERMILLE * (level as i128 - 1)
}

fn thousandths(bytes: u64) -> i128 {
    i128::from(bytes) * 1_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use Class::{P0, P1, P2, P3};
    use Level::{L1, L4};

    const SHARE: u64 = 1_000_000;
    const MESSAGE_BYTES: u64 = 1_000;
    const MINUTE_MS: u64 = 60_000;

    /// Messages of one kind, as so many percent of the share.
    type Offer = (Class, bool, Level, u64);

    /// Offers these for a while and gives the bytes of each that passed. What is never dropped or
    /// P0 is counted last, so that the total is of those that asked.
    fn run(egress: &mut Egress, from: u64, offers: &[Offer], span_ms: u64) -> Vec<u64> {
        let (mut credit, mut passed) = (vec![0; offers.len()], vec![0; offers.len()]);
        for moment in (from..from + span_ms).map(Millis) {
            for (at, &(class, never_drop, level, percent)) in offers.iter().enumerate() {
                credit[at] += SHARE * percent / 100 / 1_000;
                while credit[at] >= MESSAGE_BYTES {
                    credit[at] -= MESSAGE_BYTES;
                    if egress.admit(moment, class, never_drop, level, MESSAGE_BYTES).is_ok() {
                        egress.spend(moment, class, never_drop, MESSAGE_BYTES);
                        passed[at] += MESSAGE_BYTES;
                    }
                }
            }
        }
        passed
    }

    /// What passes of each offer in a minute, in percent of the share, give or take 2. Nothing
    /// depends on who comes first.
    fn check(offers: &[Offer], expected: &[u64]) {
        let reversed: (Vec<_>, Vec<_>) =
            offers.iter().copied().zip(expected.iter().copied()).rev().unzip();
        for (offers, expected) in [(offers, expected), (&reversed.0, &reversed.1)] {
            let mut egress = Egress::new();
            egress.set(Millis(0), SHARE);
            let passed = run(&mut egress, 0, offers, MINUTE_MS);
            let budget = SHARE * MINUTE_MS / 1_000;
            for (at, &expected) in expected.iter().enumerate() {
                let percent = passed[at] as f64 * 100.0 / budget as f64;
                assert!((percent - expected as f64).abs() < 2.0, "{offers:?}: {at} had {percent}");
            }
            let asked = |&(at, _): &(usize, &u64)| !must_pass(offers[at].0, offers[at].1);
            let total: u64 = passed.iter().enumerate().filter(asked).map(|(_, bytes)| bytes).sum();
            assert!(total <= budget + SHARE, "{offers:?}: {total}");
        }
    }

    #[test]
    fn what_is_within_the_budget_passes() {
        check(&[(P3, false, L4, 99)], &[99]);
        check(&[(P3, false, L4, 40), (P2, false, L1, 30), (P0, true, L1, 25)], &[40, 30, 25]);
    }

    #[test]
    fn five_times_the_budget_is_cut_to_it() {
        check(&[(P3, false, L4, 500)], &[100]);
        check(&[(P2, false, L1, 500)], &[100]);
        check(&[(P1, false, L1, 500)], &[100]);
    }

    #[test]
    fn the_least_important_starve_first() {
        check(&[(P3, false, L4, 400), (P3, false, L1, 100)], &[0, 100]);
        check(&[(P3, false, L4, 450), (P3, false, L1, 50)], &[50, 50]);
        check(&[(P3, false, L1, 250), (P2, false, L4, 250)], &[0, 100]);
        check(&[(P2, false, L1, 250), (P1, false, L4, 250)], &[0, 100]);
        check(&[(P3, false, L4, 400), (P2, false, L1, 60), (P1, false, L1, 40)], &[0, 60, 40]);
        check(&[(P3, false, L1, 430), (P2, false, L1, 70)], &[30, 70]);
    }

    #[test]
    fn what_must_pass_does_whatever_it_costs_the_others() {
        check(&[(P3, true, L4, 300), (P1, false, L1, 100), (P3, false, L4, 100)], &[300, 0, 0]);
        check(&[(P0, false, L4, 300), (P2, false, L1, 200)], &[300, 0]);
        check(&[(P1, true, L4, 60), (P1, false, L1, 200), (P2, false, L1, 240)], &[60, 40, 0]);
    }

    #[test]
    fn overload_is_refused_evenly_and_not_in_turns() {
        let mut egress = Egress::new();
        egress.set(Millis(0), SHARE);
        let offers = [(P3, false, L4, 500)];
        run(&mut egress, 0, &offers, 2_000);
        for step in 0..200 {
            let passed = run(&mut egress, 2_000 + 10 * step, &offers, 10)[0];
            assert!((9_000..=11_000).contains(&passed), "{passed} in 10 ms");
        }
    }

    #[test]
    fn two_seconds_after_the_load_all_is_as_before() {
        for bytes in [1, SHARE / 4, SHARE, 100 * SHARE] {
            let mut egress = Egress::new();
            egress.set(Millis(0), SHARE);
            (0..1_000).for_each(|moment| egress.spend(Millis(moment), P0, true, bytes * 10));
            let end = 1_000;
            assert!(egress.fullness(Millis(end)) >= -1_000);
            assert!(egress.admit(Millis(end + 1_000), P1, false, L1, 0).is_ok());
            assert_eq!(egress.fullness(Millis(end + 2_000)), 1_000);
            assert!(egress.admit(Millis(end + 2_000), P3, false, L4, bytes).is_ok());
        }
    }

    /// At each fullness, the message of one byte that is the least important to pass.
    #[test]
    fn classes_give_way_in_order() {
        let cases = [
            (1_000, "P3 L4"),
            (601, "P3 L4"),
            (600, "P3 L3"),
            (500, "P3 L1"),
            (450, "P2 L4"),
            (350, "P2 L3"),
            (200, "P1 L4"),
            (100, "P1 L2"),
            (1, "P1 L1"),
            (0, "P0 L4"),
            (-1_000, "P0 L4"),
        ];
        for (permille, least) in cases {
            let mut egress = Egress::new();
            egress.set(Millis(0), 1_000);
            egress.spend(Millis(0), P0, true, (1_000 - permille) as u64);
            assert_eq!(egress.fullness(Millis(0)), permille);
            let all = Class::ALL.iter().flat_map(|class| Level::ALL.map(|level| (*class, level)));
            let passes =
                |&(class, level): &_| egress.admit(Millis(0), class, false, level, 1).is_ok();
            let (pass, refused): (Vec<_>, Vec<_>) = all.partition(passes);
            let text = |(class, level): &_| format!("{class:?} {level:?}");
            assert_eq!(pass.last().map(text), Some(least.to_owned()), "at {permille}");
            assert_eq!(pass.len() + refused.len(), 16);
            assert!(refused.iter().all(|kind| kind.0 > pass[pass.len() - 1].0 || kind.1 > L1));
        }
    }

    #[test]
    fn a_message_of_many_seconds_waits_for_a_full_bucket_and_is_owed_in_full() {
        let mut egress = Egress::new();
        egress.set(Millis(0), SHARE);
        egress.spend(Millis(0), P3, false, 1);
        assert_eq!(egress.admit(Millis(0), P3, false, L1, 10 * SHARE), Err(1));
        assert_eq!(egress.admit(Millis(1), P3, false, L1, 10 * SHARE), Ok(()));
        egress.spend(Millis(1), P3, false, 10 * SHARE);
        assert_eq!(egress.fullness(Millis(1)), -9_000);
        assert_eq!(egress.admit(Millis(1), P1, false, L1, 0), Err(9_000));
        egress.spend(Millis(1), P3, false, 10 * SHARE);
        assert_eq!(egress.fullness(Millis(1)), -10_000, "not admitted, so it had to pass");
    }

    #[test]
    fn a_share_can_change_at_any_time() {
        let mut egress = Egress::new();
        assert_eq!(egress.fullness(Millis(5)), 1_000);
        egress.spend(Millis(5), P3, false, u64::MAX);
        egress.set(Millis(9_000), 1_000);
        assert_eq!(egress.fullness(Millis(9_000)), 1_000, "it begins full");
        egress.set(Millis(9_000), 4_000);
        assert_eq!(egress.fullness(Millis(9_000)), 250, "bytes stay what they are");
        egress.set(Millis(9_500), 1_000);
        assert_eq!(egress.fullness(Millis(9_500)), 1_000, "and are no more than fit");
        egress.spend(Millis(9_500), P0, true, 9_000);
        egress.set(Millis(9_500), 100);
        assert_eq!(egress.fullness(Millis(9_500)), -1_000, "nor owed for longer than fits");
        egress.set(Millis(9_500), 0);
        assert_eq!(egress.admit(Millis(9_500), P3, false, L4, u64::MAX), Ok(()));
    }

    #[test]
    fn no_moment_is_counted_twice() {
        let mut egress = Egress::new();
        egress.set(Millis(1_000), 1_000);
        egress.spend(Millis(1_000), P3, false, 1_000);
        for moment in [500, 1_000, 0, 1_100, 1_000] {
            egress.spend(Millis(moment), P3, false, 0);
        }
        assert_eq!(egress.fullness(Millis(1_100)), 100);
    }

    #[test]
    fn any_moment_and_any_number_are_taken() {
        let mut egress = Egress::new();
        for share in [1, u64::MAX, 3, 0, u64::MAX] {
            for moment in [u64::MAX, 0, 7].map(Millis) {
                egress.set(moment, share);
                for bytes in [0, 1, u64::MAX] {
                    let _ = egress.admit(moment, P3, false, L4, bytes);
                    egress.spend(moment, P3, false, bytes);
                    egress.spend(moment, P0, true, bytes);
                    egress.fullness(moment);
                }
            }
        }
    }

    fn check_shares(budget: u64, demands: &[u64], expected: &[u64]) {
        let mut out = vec![7; 3];
        shares(budget, demands, &mut out);
        assert_eq!(out, expected, "{budget} over {demands:?}");
        assert_eq!(out.iter().sum::<u64>(), if demands.is_empty() { 0 } else { budget });
    }

    #[test]
    fn shares_follow_demands() {
        check_shares(100, &[], &[]);
        check_shares(100, &[0], &[100]);
        check_shares(100, &[u64::MAX], &[100]);
        check_shares(100, &[0, 0, 0, 0], &[25, 25, 25, 25]);
        check_shares(102, &[0, 0, 0, 0], &[26, 26, 25, 25]);
        check_shares(400, &[900, 0, 0, 0], &[325, 25, 25, 25]);
        check_shares(400, &[200, 0, 0, 0], &[232, 56, 56, 56]);
        check_shares(400, &[900, 110, 30, 0], &[235, 110, 30, 25]);
        check_shares(400, &[u64::MAX, u64::MAX, 30, 0], &[173, 172, 30, 25]);
        check_shares(u64::MAX, &[u64::MAX, u64::MAX], &[u64::MAX / 2 + 1, u64::MAX / 2]);
        check_shares(5, &[0, 9, 9, 0], &[1, 2, 1, 1]);
        check_shares(3, &[0, 0, 9, 9], &[0, 0, 2, 1]);
        check_shares(0, &[1, 2], &[0, 0]);
    }
}
