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
    /// Frames that went out as parts of a run, or as values of a key.
    pub merged: u64,
    /// Ticks that sent something.
    pub ticked: u64,
    /// Publishes, by what became of them.
    pub admitted: u64,
    pub waited: u64,
    pub limited: u64,
    /// Values that were told to those who joined.
    pub snapshots: u64,
    /// Levels that fell.
    pub levels: u64,
    /// Closes that sent something.
    pub closed: u64,
    /// Rooms that went on after a restart.
    pub resumed: u64,
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
        self.merged += other.merged;
        self.ticked += other.ticked;
        self.admitted += other.admitted;
        self.waited += other.waited;
        self.limited += other.limited;
        self.snapshots += other.snapshots;
        self.levels += other.levels;
        self.closed += other.closed;
        self.resumed += other.resumed;
        self.trace ^= other.trace;
    }

    /// How often the rarest kind of thing happened.
    pub fn rarest(&self) -> u64 {
        let joins = self.live.min(self.missed).min(self.reset).min(self.snapshots);
        let trouble = self.forgotten.min(self.full).min(self.gone_before_joined);
        let ends = self.closed.min(self.resumed).min(self.levels);
        let answers = self.admitted.min(self.waited).min(self.limited);
        let frames = self.frames.min(self.merged).min(self.ticked);
        [joins, trouble, ends, answers, frames].into_iter().min().unwrap_or_default()
    }
}
