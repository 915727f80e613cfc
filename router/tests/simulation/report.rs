//! What happened in a run, so that a run in which nothing did is noticed.

/// What happened in a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Frames that members received.
    pub frames: u64,
    /// Joins, by how they caught up.
    pub live: u64,
    pub missed: u64,
    pub reset: u64,
    /// Rooms that their home forgot.
    pub forgotten: u64,
    /// Times that somebody had to wait for a full queue.
    pub full: u64,
    /// Answers to members that had left meanwhile.
    pub gone_before_joined: u64,
    /// A hash of everything that homes said, in order.
    pub trace: u64,
}

impl Report {
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.live += other.live;
        self.missed += other.missed;
        self.reset += other.reset;
        self.forgotten += other.forgotten;
        self.full += other.full;
        self.gone_before_joined += other.gone_before_joined;
        self.trace ^= other.trace;
    }

    /// How often the rarest kind of thing happened.
    pub fn rarest(&self) -> u64 {
        let joins = self.live.min(self.missed).min(self.reset);
        let trouble = self.forgotten.min(self.full).min(self.gone_before_joined);
        self.frames.min(joins).min(trouble)
    }
}
