//! The uplinks that an upstream has not answered yet.

use std::collections::VecDeque;

use ahash::AHashMap;

use crate::limits::{TICK, UPLINK_ANSWER_MAX, UPLINKS_OPEN_MAX};

/// How many ticks an upstream has to answer.
const ANSWER_TICKS: u32 = (UPLINK_ANSWER_MAX.as_millis() / TICK.as_millis()) as u32;

/// Tickets whose time is watched. Those that are closed behind one that stays open are among them
/// until so many are: half of them can be forgotten then, so a ticket's share of that work is small.
const DUE_MAX: usize = 2 * UPLINKS_OPEN_MAX;

/// Open tickets, and when they are given up. A client may use a request's number again as soon as it
/// was answered, so each opening has a number of its own.
#[derive(Default)]
pub struct Tickets {
    open: AHashMap<u128, u64>,
    /// In the order they were opened in; some are closed already.
    due: VecDeque<(u32, u64, u128)>,
    opened: u64,
}

impl Tickets {
    /// Opens a ticket. False when there are too many, or when it is open.
    #[must_use]
    pub fn open(&mut self, ticket: u128, now: u32) -> bool {
        if self.open.len() >= UPLINKS_OPEN_MAX || self.open.contains_key(&ticket) {
            return false;
        }
        if self.due.len() >= DUE_MAX {
            let open = &self.open;
            self.due.retain(|(_, number, ticket)| open.get(ticket) == Some(number));
        }
        self.opened += 1;
        self.open.insert(ticket, self.opened);
        self.due.push_back((now, self.opened, ticket));
        true
    }

    /// Closes a ticket. False when it is not open.
    #[must_use]
    pub fn close(&mut self, ticket: u128) -> bool {
        let closed = self.open.remove(&ticket).is_some();
        // What was closed in order is forgotten at once.
        while let Some(&(_, number, ticket)) = self.due.front()
            && self.open.get(&ticket) != Some(&number)
        {
            self.due.pop_front();
        }
        closed
    }

    /// Closes one ticket whose time is over.
    pub fn expire(&mut self, now: u32) -> Option<u128> {
        while let Some(&(since, number, ticket)) = self.due.front()
            && now.wrapping_sub(since) >= ANSWER_TICKS
        {
            self.due.pop_front();
            if self.open.get(&ticket) == Some(&number) {
                self.open.remove(&ticket);
                return Some(ticket);
            }
        }
        None
    }

    /// Closes all, the oldest first.
    pub fn take_all(&mut self) -> Vec<u128> {
        let open = std::mem::take(&mut self.open);
        let due = std::mem::take(&mut self.due).into_iter();
        due.filter(|(_, number, ticket)| open.get(ticket) == Some(number))
            .map(|(_, _, ticket)| ticket)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_closed_once_by_an_answer_or_by_time() {
        let mut tickets = Tickets::default();
        assert!(tickets.open(1, 0) && tickets.open(2, 5));
        assert!(!tickets.open(1, 5), "it is open");
        assert!(tickets.close(1) && !tickets.close(1));
        assert!(tickets.open(1, 6), "a client may use its number again");
        assert_eq!(tickets.expire(ANSWER_TICKS + 4), None);
        assert_eq!(tickets.expire(ANSWER_TICKS + 5), Some(2));
        assert_eq!(tickets.expire(ANSWER_TICKS + 5), None, "ticket 1 is a newer one");
        assert_eq!(tickets.expire(ANSWER_TICKS + 6), Some(1));
        assert!(!tickets.close(1));
    }

    #[test]
    fn there_is_an_end_to_open_tickets() {
        let mut tickets = Tickets::default();
        assert!((0..UPLINKS_OPEN_MAX as u128).all(|ticket| tickets.open(ticket, 0)));
        assert!(!tickets.open(u128::MAX, 0));
        assert!(tickets.close(0) && tickets.open(u128::MAX, 0));
        assert_eq!(tickets.take_all().len(), UPLINKS_OPEN_MAX);
    }

    /// One that is never answered takes one place, however many are answered behind it.
    #[test]
    fn an_unanswered_ticket_holds_up_no_others() {
        let mut tickets = Tickets::default();
        assert!(tickets.open(0, 0));
        for ticket in 1..=10 * UPLINKS_OPEN_MAX as u128 {
            assert!(tickets.open(ticket, 1), "ticket {ticket}");
            assert!(tickets.close(ticket));
            assert!(tickets.due.len() <= DUE_MAX, "what is closed is forgotten");
        }
        assert_eq!(tickets.expire(ANSWER_TICKS), Some(0));
        assert_eq!(tickets.expire(2 * ANSWER_TICKS), None);
        assert!(tickets.take_all().is_empty());
    }
}
