//! What the control thread asks of a shard, and how long ago the shard has turned.
//!
//! Each kind of question has a place of its own, so that a shard that does not turn is never asked too
//! much for what matters: the newest rules take the place of those that it has not seen, and it is told
//! once to end. Nothing here waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use barrage_sys::Waker;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use crate::limits::{LOOKS_MAX, TURN_LATE_MIN};
use crate::metrics::Metrics;
use crate::policy_file::Rules;

/// What the control thread can ask of a shard.
pub enum Ask {
    /// Its numbers.
    Metrics(oneshot::Sender<Metrics>),
    /// To go by other rules.
    Rules(Arc<Rules>),
    /// To say goodbye to everybody, and to end.
    Drain,
}

/// How the control thread reaches a shard.
#[derive(Clone)]
pub struct Handle {
    /// The core.
    pub core: usize,
    rules: Sender<Arc<Rules>>,
    /// Where rules wait that the shard has not seen, to be replaced there.
    unseen: Receiver<Arc<Rules>>,
    looks: Sender<oneshot::Sender<Metrics>>,
    drain: Sender<()>,
    turned: Arc<Turned>,
    waker: Waker,
}

/// The shard's end of it.
pub struct Asks {
    rules: Receiver<Arc<Rules>>,
    looks: Receiver<oneshot::Sender<Metrics>>,
    /// Taken, and not answered yet.
    look: Option<oneshot::Sender<Metrics>>,
    drain: Receiver<()>,
    turned: Arc<Turned>,
}

/// When a shard has looked last at what it was asked. The one number that a shard writes and others
/// read; it is for people, and nothing is decided by it on the way of a message.
struct Turned {
    since: Instant,
    ms: AtomicU64,
}

/// The shard has ended, so it need not turn.
const ENDED: u64 = u64::MAX;

impl Handle {
    /// A handle of the shard on `core`, and the other end of it.
    pub fn new(core: usize, waker: Waker) -> (Self, Asks) {
        let (rules, unseen) = bounded(1);
        let (looks, looks_here) = bounded(LOOKS_MAX);
        let (drain, drain_here) = bounded(1);
        let turned = Arc::new(Turned { since: Instant::now(), ms: AtomicU64::new(0) });
        let asks = Asks {
            rules: unseen.clone(),
            looks: looks_here,
            look: None,
            drain: drain_here,
            turned: Arc::clone(&turned),
        };
        (Self { core, rules, unseen, looks, drain, turned, waker }, asks)
    }

    /// The shard is to go by other rules as soon as it looks.
    pub fn set_rules(&self, rules: &Arc<Rules>) {
        // Ends after a turn or two: nobody else puts any there.
        while let Err(TrySendError::Full(_)) = self.rules.try_send(Arc::clone(rules)) {
            // The shard may have taken them at this moment.
            let _ = self.unseen.try_recv();
        }
        self.waker.signal();
    }

    /// Asks for the shard's numbers; nothing if too many have asked and it has not looked yet.
    pub fn look(&self) -> Option<oneshot::Receiver<Metrics>> {
        let (to, answer) = oneshot::channel();
        let asked = self.looks.try_send(to);
        self.waker.signal();
        asked.is_ok().then_some(answer)
    }

    /// The shard is to end.
    pub fn drain(&self) {
        // It was told so already, or it has ended.
        let _ = self.drain.try_send(());
        self.waker.signal();
    }

    /// For how long the shard has not turned, if that is longer than any work takes.
    pub fn stuck_for(&self) -> Option<Duration> {
        let turned_ms = self.turned.ms.load(Ordering::Relaxed);
        let quiet = self.turned.since.elapsed().saturating_sub(Duration::from_millis(turned_ms));
        (quiet >= TURN_LATE_MIN).then_some(quiet)
    }
}

impl Asks {
    /// The shard turns, and looks what it is asked.
    pub fn turn(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.turned.since).as_millis() as u64;
        self.turned.ms.store(ms, Ordering::Relaxed);
    }

    /// What is asked next. Who asks for numbers after rules were set gets them when these are in force.
    pub fn next(&mut self) -> Option<Ask> {
        self.look = self.look.take().or_else(|| self.looks.try_recv().ok());
        // Behind the look: rules that were set before it are here by now.
        if let Ok(rules) = self.rules.try_recv() {
            return Some(Ask::Rules(rules));
        }
        let look = self.look.take().map(Ask::Metrics);
        look.or_else(|| self.drain.try_recv().ok().map(|()| Ask::Drain))
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.looks.is_empty() && self.drain.is_empty()
    }
}

impl Drop for Asks {
    fn drop(&mut self) {
        self.turned.ms.store(ENDED, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy_file;

    fn pair() -> (Handle, Asks) {
        Handle::new(0, Waker::new().expect("a descriptor"))
    }

    #[test]
    fn the_newest_rules_take_the_place_of_those_that_were_not_seen() {
        let (handle, mut asks) = pair();
        let rules: Vec<_> = (0..100).map(|_| Arc::new(policy_file::builtin())).collect();
        rules.iter().for_each(|rules| handle.set_rules(rules));
        let Some(Ask::Rules(seen)) = asks.next() else { panic!("there are rules") };
        assert!(Arc::ptr_eq(&seen, &rules[99]));
        assert!(asks.next().is_none() && asks.is_empty());
    }

    #[test]
    fn who_looks_after_rules_were_set_is_answered_after_they_are_in_force() {
        let (handle, mut asks) = pair();
        let _before = handle.look();
        handle.set_rules(&Arc::new(policy_file::builtin()));
        let _after = handle.look();
        assert!(matches!(asks.next(), Some(Ask::Rules(_))));
        assert!(matches!(asks.next(), Some(Ask::Metrics(_))));
        assert!(matches!(asks.next(), Some(Ask::Metrics(_))));
        assert!(asks.next().is_none());
    }

    #[test]
    fn a_shard_that_is_asked_too_much_is_still_told_to_end() {
        let (handle, mut asks) = pair();
        let looks: Vec<_> =
            (0..LOOKS_MAX).map(|_| handle.look().expect("there is place")).collect();
        assert!(handle.look().is_none());
        handle.drain();
        handle.drain();
        let all: Vec<_> = std::iter::from_fn(|| asks.next()).collect();
        assert_eq!(all.len(), looks.len() + 1);
        assert!(matches!(all.last(), Some(Ask::Drain)));
    }

    #[test]
    fn a_shard_that_has_ended_is_not_stuck() {
        let (handle, asks) = pair();
        asks.turn(Instant::now() + Duration::from_secs(3600));
        assert_eq!(handle.stuck_for(), None, "it has turned just now");
        drop(asks);
        assert_eq!(handle.stuck_for(), None);
    }
}
