//! What happened in a run, so that a run in which nothing did is noticed.

/// How often things happened.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub received: u64,
    pub duplicates: u64,
    pub delivered: u64,
    pub expired: u64,
    pub crowded: u64,
    pub evicted: u64,
    pub aged: u64,
    pub restarts: u64,
    pub set_back: u64,
    pub replaced: u64,
    pub acks_lost: u64,
    pub full_windows: u64,
    pub given_up: u64,
    pub idle: u64,
    /// A hash of all that inboxes said.
    pub trace: u64,
}

impl Report {
    pub fn add(&mut self, other: &Self) {
        let theirs = other.counts();
        self.counts_mut().into_iter().zip(theirs).for_each(|(sum, count)| *sum += count);
        self.trace ^= other.trace;
    }

    /// How often the rarest kind of thing happened.
    pub fn rarest(&self) -> u64 {
        self.counts().into_iter().min().expect("there are counts")
    }

    fn counts(&self) -> [u64; 14] {
        self.clone().counts_mut().map(|count| *count)
    }

    fn counts_mut(&mut self) -> [&mut u64; 14] {
        [
            &mut self.received,
            &mut self.duplicates,
            &mut self.delivered,
            &mut self.expired,
            &mut self.crowded,
            &mut self.evicted,
            &mut self.aged,
            &mut self.restarts,
            &mut self.set_back,
            &mut self.replaced,
            &mut self.acks_lost,
            &mut self.full_windows,
            &mut self.given_up,
            &mut self.idle,
        ]
    }
}
