//! Clients that go and come back: by themselves, because they are told to, or because they have
//! lost their connection.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use barrage_sys::KernelRing;

use super::Fleet;
use crate::clock::SECOND_NS;
use crate::plan::{Plan, is_of_share};
use crate::ramp::{BATCH_MAX, IN_FLIGHT_MAX, connect};
use crate::random::Random;
use crate::scenario::{Churn, Disconnect};
use crate::session::{Client, Phase};

/// Connections in a row that may fail before a client stays away for good.
const TRIES_MAX: u8 = 10;
/// The pause before the first of them; each further one is twice as long …
const PAUSE_NS: u64 = SECOND_NS / 10;
/// … up to this.
const PAUSE_NS_MAX: u64 = 5 * SECOND_NS;
/// Looks for a client that may go: so often for each that is to go.
const PICKS_MAX: u32 = 32;
/// Clients that go at one time at most, when the thread was late.
const GOING_MAX: u64 = 1024;

/// Those who are away, and who goes next.
pub(super) struct Away {
    /// When which client comes back.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    churn: Option<Churn>,
    /// When the next one goes.
    next_ns: u64,
    random: Random,
    /// Clients that somebody waits for.
    awaited: u64,
    /// Nobody goes any more.
    draining: bool,
}

impl Away {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            due: BinaryHeap::new(),
            churn: None,
            next_ns: 0,
            random: Random::new(u64::from(plan.first) + 1),
            awaited: 0,
            draining: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.due.capacity() * size_of::<(u64, u32)>()
    }
}

impl Fleet {
    /// Clients go and come back from now on, or no more.
    pub fn set_churn(&mut self, churn: Option<Churn>) {
        self.away.churn = churn.filter(|churn| churn.clients_per_s > 0.0);
        self.away.next_ns = self.world.now_ns;
    }

    /// Lets those go whose time has come.
    pub fn churn(&mut self) {
        let Some(churn) = self.away.churn else { return };
        let step_ns = ((SECOND_NS as f64 / churn.clients_per_s) as u64).max(1);
        for _ in 0..GOING_MAX {
            if self.away.next_ns > self.world.now_ns || self.away.draining {
                return;
            }
            self.away.next_ns += step_ns;
            let Some(number) = self.pick() else { continue };
            let abrupt = self.away.random.share() * 100.0 < churn.abrupt_percent;
            let back_ns = self.world.now_ns + churn.away_ns;
            self.drop_client(number, churn.resume, abrupt, back_ns);
        }
    }

    fn pick(&mut self) -> Option<usize> {
        let clients = self.clients.len() as u64;
        (0..PICKS_MAX)
            .map(|_| self.away.random.below(clients) as usize)
            .find(|&number| self.clients.get(number).is_some_and(|c| c.phase == Phase::Ready))
    }

    /// Lets clients lose their connection now; [`Fleet::awaited`] says how many are not back yet.
    pub fn disconnect(&mut self, disconnect: Disconnect) {
        let step_ns = match disconnect.per_s {
            0.0 => 0.0,
            per_s => SECOND_NS as f64 / per_s,
        };
        let mut gone = 0u64;
        for number in 0..self.clients.len() {
            let client = &mut self.clients[number];
            let k = self.world.plan.first + number as u32;
            if client.phase == Phase::Ready && is_of_share(k, disconnect.percent) {
                // Who has to catch up after one is away once more, and still one.
                let again = std::mem::replace(&mut client.awaited, true);
                self.away.awaited += u64::from(!again);
                let back_ns = self.world.now_ns + disconnect.away_ns;
                let back_ns = back_ns + (gone as f64 * step_ns) as u64;
                self.drop_client(number, disconnect.resume, false, back_ns);
                gone += 1;
            }
        }
    }

    /// Clients of a disconnect that are not back yet.
    pub fn awaited(&self) -> u64 {
        self.away.awaited
    }

    /// Nobody goes from now on. Whoever is away comes back now, if it would go on where it was, if
    /// somebody waits for it or if it has tried before; the others have gone for good.
    pub fn come_home(&mut self) {
        self.away.draining = true;
        let now_ns = self.world.now_ns;
        let due = std::mem::take(&mut self.away.due).into_iter();
        let (back, gone): (Vec<_>, Vec<_>) = due.partition(|Reverse((_, number))| {
            let client = &self.clients[*number as usize];
            client.resume || client.awaited || client.tries > 0
        });
        self.away.due =
            back.into_iter().map(|Reverse((_, number))| Reverse((now_ns, number))).collect();
        for Reverse((_, number)) in gone {
            self.clients[number as usize].phase = Phase::Gone;
        }
    }

    /// Counts those who were to come back and have not: nothing more will come.
    pub(super) fn count_unreturned(&mut self) {
        let draining = self.away.draining;
        let is_overdue = |client: &&Client| match client.phase {
            Phase::Connecting | Phase::Handshake | Phase::Hello | Phase::Welcomed | Phase::Away => {
                client.known && (draining || client.tries > 0)
            }
            Phase::Ready | Phase::Gone => false,
        };
        for _ in self.clients.iter().filter(is_overdue) {
            self.world.counts.unreturned += 1;
            self.world.fault("did not come back before the end".to_owned());
        }
    }

    /// Ends a connection on purpose.
    fn drop_client(&mut self, number: usize, resume: bool, abrupt: bool, back_ns: u64) {
        self.world.counts.dropped += 1;
        self.leave(number);
        let client = &mut self.clients[number];
        // Totals are counted where somebody watches, so a watcher has to hear everything.
        client.resume = resume || client.watches;
        client.phase = Phase::Away;
        match abrupt {
            true => self.resets.push(client.conn),
            false => self.closes.push(client.conn),
        }
        self.away.due.push(Reverse((back_ns, number as u32)));
    }

    /// Ends a connection that has failed, or that the gateway has ended.
    pub(super) fn lose(&mut self, number: usize, why: String) {
        self.world.say.clear();
        self.world.say_raw.clear();
        self.world.catching.clear();
        let client = &mut self.clients[number];
        let was_ready = client.phase == Phase::Ready;
        match client.phase {
            Phase::Away | Phase::Gone => return,
            Phase::Ready => {
                self.world.counts.lost += 1;
                self.world.uplinks.disconnected += u64::from(client.unanswered);
                client.resume = true;
            }
            Phase::Connecting | Phase::Handshake | Phase::Hello | Phase::Welcomed => {
                self.world.counts.failed += u64::from(!client.known);
            }
        }
        self.world.fault(why);
        self.closes.push(client.conn);
        self.leave(number);
        if was_ready && self.away.draining {
            self.clients[number].phase = Phase::Gone;
            return self.not_awaited(number);
        }
        self.try_again(number);
    }

    /// Whoever was ready once comes back, if clients do that and it has not tried too often.
    fn try_again(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if !client.known || !self.world.plan.returns {
            client.phase = Phase::Gone;
        } else if client.tries >= TRIES_MAX {
            client.phase = Phase::Gone;
            self.world.counts.unreturned += 1;
        } else {
            let pause_ns = (PAUSE_NS << client.tries).min(PAUSE_NS_MAX);
            client.tries += 1;
            client.phase = Phase::Away;
            self.away.due.push(Reverse((self.world.now_ns + pause_ns, number as u32)));
            return;
        }
        self.not_awaited(number);
    }

    /// What ends with every connection, whoever has ended it.
    fn leave(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let counts = &mut self.world.counts;
        if client.phase == Phase::Ready {
            counts.here -= 1;
        } else {
            counts.in_flight = counts.in_flight.saturating_sub(1);
        }
        client.rare = None;
        client.unanswered = 0;
        for place in &mut self.memberships[number * self.per_client..][..self.per_client] {
            place.leave();
        }
    }

    /// Connects those whose time to come back has come; says whether there were any.
    pub fn bring_back(&mut self, ring: &mut KernelRing) -> bool {
        let mut begun = 0;
        while let Some(&Reverse((at_ns, number))) = self.away.due.peek() {
            let full = self.world.counts.in_flight >= IN_FLIGHT_MAX || begun >= BATCH_MAX;
            if at_ns > self.world.now_ns || full {
                break;
            }
            self.away.due.pop();
            begun += 1;
            let number = number as usize;
            match connect(ring, &self.world.plan, self.world.plan.k(number)) {
                Ok(conn) => self.take(number, conn),
                Err(why) => {
                    self.world.fault(why);
                    self.try_again(number);
                }
            }
        }
        begun > 0
    }

    /// Looks whether a client has heard what it has missed. Of each place only the newest number
    /// counts, so there are never more than it has places.
    #[cold]
    pub(super) fn catch_up(&mut self, number: usize, catching: &mut Vec<(u32, u64)>) {
        let new = &mut self.world.catching;
        catching.retain(|(nth, _)| !new.iter().any(|(newer, _)| newer == nth));
        catching.append(new);
        let places = &self.memberships[number * self.per_client..][..self.per_client];
        catching.retain(|&(nth, upto)| {
            places.get(nth as usize).is_some_and(|place| place.reached() < upto)
        });
        if catching.is_empty() && self.clients[number].phase == Phase::Ready {
            self.not_awaited(number);
        }
    }

    /// Nobody waits for a client any more: it is back, or will not be.
    fn not_awaited(&mut self, number: usize) {
        if std::mem::take(&mut self.clients[number].awaited) {
            self.away.awaited -= 1;
        }
    }
}
