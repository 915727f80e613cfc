//! Who of a campaign's workers has which clients. Pure.

use crate::agent::parts::{share, start};
use crate::scenario::layout::Layout;

/// The clients of one who works for the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first of its clients.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// How many cores it has; one with several divides its clients among them.
    pub cores: u32,
}

/// Divides `clients` among those who have so many cores each.
pub fn divide(clients: u32, cores: &[u32]) -> Vec<Part> {
    let mut first = 0;
    let counts = by_weight(clients, cores.iter().map(|&cores| u64::from(cores.max(1))));
    let parts = counts.zip(cores).map(|(count, &cores)| {
        let part = Part { first, count, cores: cores.max(1).min(count.max(1)) };
        first += count;
        part
    });
    parts.collect()
}

/// How many of each part's clients are connected when `to` of all are.
pub fn connected(to: u32, parts: &[Part]) -> Vec<u32> {
    by_weight(to, parts.iter().map(|part| u64::from(part.count))).collect()
}

/// Shares of a number by weight, none more than its part of the sum of weights rounded up.
fn by_weight(number: u32, weights: impl Iterator<Item = u64> + Clone) -> impl Iterator<Item = u32> {
    let sum = weights.clone().sum::<u64>().max(1);
    let upto = move |weight: u64| (u64::from(number) * weight / sum) as u32;
    weights.scan(0, move |before, weight| {
        let from = upto(*before);
        *before += weight;
        Some(upto(*before) - from)
    })
}

/// Members of each room when of each part so many clients are connected.
pub fn members(layout: &Layout, parts: &[Part], connected: &[u32]) -> Vec<u32> {
    let mut members = vec![0; layout.count() as usize];
    for (part, &connected) in parts.iter().zip(connected) {
        for at in 0..part.cores {
            let first = part.first + start(part.count, at, part.cores);
            let clients = first..first + share(connected, at, part.cores);
            clients.for_each(|k| layout.rooms_of(k, |room| members[room as usize] += 1));
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Rooms, Spread};

    #[test]
    fn parts_are_as_large_as_their_cores_and_leave_nobody_out() {
        let parts = divide(10, &[1, 3, 1]);
        let all = [(0, 2, 1), (2, 6, 3), (8, 2, 1)];
        assert_eq!(parts, all.map(|(first, count, cores)| Part { first, count, cores }));
        for (clients, to) in [(1, 1), (7, 3), (1_000_003, 999_999), (5, 0)] {
            let parts = divide(clients, &[1, 2, 1, 4]);
            assert_eq!(parts.iter().map(|part| part.count).sum::<u32>(), clients);
            let connected = connected(to, &parts);
            assert_eq!(connected.iter().sum::<u32>(), to);
            assert!(connected.iter().zip(&parts).all(|(now, part)| *now <= part.count));
        }
    }

    #[test]
    fn members_are_those_who_are_connected() {
        let rooms =
            Rooms { first: 1, count: 4, per_client: 1, spread: Spread::Even, hot_percent: 0.0 };
        let layout = Layout::new(rooms, 1);
        let parts = divide(8, &[1, 1]);
        assert_eq!(members(&layout, &parts, &[4, 4]), [2; 4]);
        assert_eq!(members(&layout, &parts, &[1, 2]), [2, 1, 0, 0]);
    }
}
