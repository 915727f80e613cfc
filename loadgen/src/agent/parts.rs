//! How an agent divides what it is given among its workers, and makes one answer of theirs. Pure.

use std::collections::BTreeMap;

use crate::agent::carried::Carried;
use crate::agent::words::Word;
use crate::orders::{Books, Order, What};
use crate::record::Interval;
use crate::scenario::{Churn, Disconnect};

/// What worker `at` of `workers` has of `count` things.
pub fn share(count: u32, at: u32, workers: u32) -> u32 {
    count / workers + u32::from(at < count % workers)
}

/// The first of them.
pub fn start(count: u32, at: u32, workers: u32) -> u32 {
    count / workers * at + at.min(count % workers)
}

/// What an order says to worker `at` of `workers`.
pub fn divide(order: &Order, at: u32, workers: u32) -> Order {
    let part = |rate: f64| rate / f64::from(workers);
    match order.clone() {
        Order::Connect { clients, per_s } => {
            Order::Connect { clients: share(clients, at, workers), per_s: part(per_s) }
        }
        Order::Churn(Some(churn)) => {
            let clients_per_s = part(churn.clients_per_s);
            Order::Churn(Some(Churn { clients_per_s, ..churn }))
        }
        Order::Disconnect(disconnect) => {
            Order::Disconnect(Disconnect { per_s: part(disconnect.per_s), ..disconnect })
        }
        same @ (Order::Phase { .. } | Order::Churn(None) | Order::Drain { .. } | Order::Stop) => {
            same
        }
    }
}

/// An order with the moments of a clock that is `offset_ns` ahead.
pub fn translate(order: Order, offset_ns: i64) -> Order {
    let moved = |at_ns| shift(at_ns, offset_ns);
    match order {
        Order::Phase { index, from_ns, to_ns } => {
            Order::Phase { index, from_ns: moved(from_ns), to_ns: moved(to_ns) }
        }
        Order::Drain { last_seqs, until_ns } => {
            Order::Drain { last_seqs, until_ns: moved(until_ns) }
        }
        same @ (Order::Connect { .. } | Order::Churn(_) | Order::Disconnect(_) | Order::Stop) => {
            same
        }
    }
}

/// An interval with the moments of a clock that is `offset_ns` ahead.
pub fn translate_interval(interval: &mut Interval, offset_ns: i64) {
    interval.from_ns = shift(interval.from_ns, offset_ns);
    interval.to_ns = shift(interval.to_ns, offset_ns);
}

/// `u64::MAX` is never, by every clock.
fn shift(at_ns: u64, offset_ns: i64) -> u64 {
    if at_ns == u64::MAX { at_ns } else { at_ns.saturating_add_signed(offset_ns) }
}

/// Makes one answer of those of all workers.
#[derive(Debug)]
pub struct Gather {
    workers: u32,
    ramped: u32,
    returned: u32,
    finished: u32,
    books: Books,
    faults: BTreeMap<String, u64>,
}

impl Gather {
    /// For so many workers.
    pub fn new(workers: u32) -> Self {
        let (books, faults) = (Books::default(), BTreeMap::new());
        Self { workers, ramped: 0, returned: 0, finished: 0, books, faults }
    }

    /// A worker has said something: what the leader is to hear.
    pub fn hear(&mut self, what: What) -> Option<Word> {
        match what {
            What::Interval(interval) => Some(Word::Interval(Box::new(Carried::new(&interval)))),
            What::Ramped => all(&mut self.ramped, self.workers).then_some(Word::Ramped),
            What::Returned => all(&mut self.returned, self.workers).then_some(Word::Returned),
            What::Finished(books) => {
                self.add(*books);
                all(&mut self.finished, self.workers).then(|| self.finish())
            }
            What::Lost(why) => Some(Word::Lost(why)),
            What::Broken(why) => Some(Word::Broken(why)),
        }
    }

    fn add(&mut self, books: Books) {
        self.books.counts.add(&books.counts);
        for (why, count) in books.faults {
            *self.faults.entry(why).or_default() += count;
        }
        self.books.watches.extend(books.watches);
        self.books.bytes_per_client = self.books.bytes_per_client.max(books.bytes_per_client);
    }

    fn finish(&mut self) -> Word {
        let mut books = std::mem::take(&mut self.books);
        books.faults = std::mem::take(&mut self.faults).into_iter().collect();
        Word::Finished(Box::new(books))
    }
}

/// Counts one more, and says whether it was the last; then it begins anew.
fn all(count: &mut u32, of: u32) -> bool {
    *count += 1;
    let all = *count >= of;
    if all {
        *count = 0;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Counts;

    #[test]
    fn shares_are_even_and_follow_each_other() {
        for (count, workers) in [(0, 1), (1, 4), (10, 3), (12, 4), (1_000_003, 7)] {
            let mut next = 0;
            for at in 0..workers {
                assert_eq!(start(count, at, workers), next);
                next += share(count, at, workers);
            }
            assert_eq!(next, count);
        }
    }

    #[test]
    fn rates_are_divided_and_shares_in_a_hundred_are_not() {
        let connect = divide(&Order::Connect { clients: 5, per_s: 10.0 }, 1, 2);
        assert!(matches!(connect, Order::Connect { clients: 2, per_s: 5.0 }), "{connect:?}");
        let storm = Disconnect { percent: 50.0, away_ns: 3, resume: true, per_s: 8.0 };
        let Order::Disconnect(half) = divide(&Order::Disconnect(storm), 0, 2) else { panic!() };
        assert_eq!(half, Disconnect { per_s: 4.0, ..storm });
    }

    #[test]
    fn moments_are_moved_and_never_stays_never() {
        let moved = translate(Order::Phase { index: 1, from_ns: 100, to_ns: u64::MAX }, -30);
        let Order::Phase { index: 1, from_ns: 70, to_ns: u64::MAX } = moved else {
            panic!("{moved:?}")
        };
        let Order::Drain { until_ns: 0, .. } =
            translate(Order::Drain { last_seqs: Vec::new(), until_ns: 5 }, -30)
        else {
            panic!("a moment before the clock's beginning is its beginning")
        };
    }

    #[test]
    fn the_leader_hears_once_what_all_have_said() {
        let mut gather = Gather::new(2);
        for _ in 0..2 {
            assert!(gather.hear(What::Ramped).is_none(), "one of two");
            assert!(matches!(gather.hear(What::Ramped), Some(Word::Ramped)));
        }
        let books = |delivered, why: &str| {
            let counts = Counts { delivered, ..Counts::default() };
            let faults = vec![(why.to_owned(), 1), ("both".to_owned(), 1)];
            Box::new(Books { counts, faults, bytes_per_client: delivered, ..Books::default() })
        };
        assert!(gather.hear(What::Finished(books(7, "a"))).is_none());
        let Some(Word::Finished(all)) = gather.hear(What::Finished(books(5, "b"))) else {
            panic!("both have finished")
        };
        assert_eq!((all.counts.delivered, all.bytes_per_client), (12, 7));
        let faults: Vec<_> = all.faults.iter().map(|(why, n)| (why.as_str(), *n)).collect();
        assert_eq!(faults, [("a", 1), ("b", 1), ("both", 2)]);
    }
}
