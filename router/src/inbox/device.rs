//! What an inbox knows of one device, and what it is sent.

use std::collections::VecDeque;

use super::kept::Kept;
use super::{INBOX_WINDOW, INBOX_WINDOW_BYTES_MAX, InboxDevice, InboxOutput, UNNAMED, after};
use crate::ids::Millis;
use crate::policy::InboxRules;

#[derive(Debug)]
pub(super) struct Device<A> {
    pub(super) id: u64,
    /// It has everything up to here.
    pub(super) acked: u64,
    /// It was sent messages up to here, on any connection.
    pub(super) sent: u64,
    /// When it is forgotten if it is away. Later for those that were seen later.
    pub(super) until: Millis,
    pub(super) online: Option<Online<A>>,
}

#[derive(Debug)]
pub(super) struct Online<A> {
    pub(super) at: A,
    /// The newest message that was sent on this connection.
    pub(super) sent: u64,
    /// What was sent on it, is kept and not ACKed, by rising number; a window of it at most.
    pub(super) pending: Vec<Pending>,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) seq: u64,
    pub(super) retry_at: Millis,
    pub(super) tries_left: u8,
}

impl<A: Copy + Eq> Device<A> {
    pub(super) fn is_at(&self, at: A) -> bool {
        self.online.as_ref().is_some_and(|online| online.at == at)
    }

    pub(super) fn is_given_up(&self, now: Millis) -> bool {
        self.online.is_none() && self.until <= now
    }

    /// What a store holds of it; nothing of one without a name.
    pub(super) fn record(&self) -> Option<InboxDevice> {
        let Self { id, acked, until, .. } = *self;
        (id != UNNAMED).then_some(InboxDevice { device: id, acked, until })
    }

    pub(super) fn due(&self) -> Option<Millis> {
        let Some(online) = &self.online else { return Some(self.until) };
        let tried = online.pending.iter().filter(|pending| pending.tries_left > 0);
        tried.map(|pending| pending.retry_at).min()
    }

    /// Sends again what it has not ACKed for too long, then what is new as far as the window goes.
    /// What it does not ACK after all tries keeps its place in the window: whoever ACKs nothing is
    /// sent nothing until there is a new connection.
    pub(super) fn serve(
        &mut self,
        now: Millis,
        rules: &InboxRules,
        messages: &VecDeque<Kept>,
        out: &mut Vec<InboxOutput<A>>,
    ) {
        let Some(online) = &mut self.online else { return };
        let retry_at = after(now, u64::from(rules.retry_after_ms));
        let mut bytes = 0;
        online.pending.retain_mut(|pending| {
            let place = messages.binary_search_by_key(&pending.seq, |kept| kept.seq);
            let Some(place) = place.ok().filter(|_| pending.seq > self.acked) else { return false };
            bytes += messages[place].frame.len();
            if pending.tries_left > 0 && pending.retry_at <= now {
                pending.tries_left -= 1;
                pending.retry_at = retry_at;
                out.push(messages[place].send(online.at, true));
            }
            true
        });
        let next = messages.partition_point(|kept| kept.seq <= self.acked.max(online.sent));
        let window = INBOX_WINDOW - online.pending.len();
        let tries_left = rules.tries.saturating_sub(1);
        for kept in messages.range(next..).take(window) {
            bytes += kept.frame.len();
            if bytes > INBOX_WINDOW_BYTES_MAX && !online.pending.is_empty() {
                break;
            }
            out.push(kept.send(online.at, kept.seq <= self.sent));
            online.pending.push(Pending { seq: kept.seq, retry_at, tries_left });
            online.sent = kept.seq;
            self.sent = self.sent.max(kept.seq);
        }
        if online.pending.is_empty() {
            online.pending = Vec::new();
        }
    }
}

impl<A> Online<A> {
    pub(super) fn memory_bytes(&self) -> usize {
        self.pending.capacity() * size_of::<Pending>()
    }
}
