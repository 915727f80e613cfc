//! Runs of one gift by one sender: the first tap goes out at once, what follows is added up, and no
//! count is lost.

use std::collections::BTreeMap;

use barrage_wire::server::COMBO_FINAL;

use crate::agenda::{Agenda, Entry, Item, Turn};
use crate::frame::MergeId;
use crate::ids::Millis;
use crate::room::{Admission, Publish};
use crate::writer::{Label, Tally};

/// Runs that a room has at a time.
pub const COMBOS_MAX: usize = 4_096;
/// How much longer than `combo_every_ms` a part of a run waits for its category's limit.
pub const COMBO_HOLD_MAX_MS: u64 = 5_000;

/// The runs of a room.
#[derive(Debug, Default)]
pub(crate) struct Combos {
    runs: BTreeMap<MergeId, Run>,
}

#[derive(Debug)]
struct Run {
    label: Label,
    /// With the payload: the latest tap's. The first tap has gone out, so its payload is not kept.
    kind: u16,
    payload: Vec<u8>,
    /// Whether it had a second tap.
    repeated: bool,
    /// What was added since the last frame.
    pending: u32,
    /// The sum of all frames so far.
    total: u64,
    /// When it is over, unless it is gone on with.
    ends: Millis,
    /// When the next frame may go, aside from the final one.
    next: Millis,
    /// The last frame.
    seq: u64,
    entry: Entry,
}

impl Combos {
    /// Adds a tap to the run that it belongs to, if that is still going on. Whether a frame carries
    /// it at once is seen after what is due was sent; see `carried`.
    pub fn add(
        &mut self,
        id: MergeId,
        message: &Publish<'_>,
        agenda: &mut Agenda,
        turn: &mut Turn<'_>,
    ) -> bool {
        let now = turn.now;
        let Some(run) = self.runs.get_mut(&id).filter(|run| run.ends > now) else {
            return false;
        };
        let count = message.count.max(1);
        let held = run.pending.checked_add(count);
        if held.is_none() {
            run.send(id, 0, agenda, turn);
        }
        run.label = Label::from(message.category);
        run.kind = message.kind;
        run.payload.clear();
        run.payload.reserve_exact(message.payload.len());
        run.payload.extend_from_slice(message.payload);
        run.repeated = true;
        run.ends = run.ends.max(now.plus(turn.rules.merge.combo_gap_ms));
        if run.pending == 0 {
            run.next = run.next.max(now);
        }
        run.pending = held.unwrap_or(count);
        if held.is_none() || run.label.never_drop {
            run.send(id, 0, agenda, turn);
        } else {
            run.place(id, agenda, run.entry.waits);
        }
        true
    }

    /// The number of the frame that carries everything that was added to a run, if one does.
    pub fn carried(&self, id: MergeId) -> Option<u64> {
        self.runs.get(&id).filter(|run| run.pending == 0).map(|run| run.seq)
    }

    /// A tap that goes on with no run begins one.
    pub fn begin(
        &mut self,
        id: MergeId,
        message: &Publish<'_>,
        agenda: &mut Agenda,
        turn: &mut Turn<'_>,
    ) -> Admission {
        let Publish { category, kind, payload, .. } = *message;
        let (now, merge) = (turn.now, turn.rules.merge);
        let full = self.runs.len() >= COMBOS_MAX;
        if full && !category.never_drop {
            return Admission::Limited { retry_after_ms: merge.combo_gap_ms.max(1) };
        }
        if let Err(retry_after_ms) = agenda.admit(id.category, category.limit(turn.level), now) {
            return Admission::Limited { retry_after_ms };
        }
        let (label, count) = (Label::from(category), message.count.max(1));
        let total = u64::from(count);
        let seq = turn.writer.combo(label, id, kind, Tally { flags: 0, count, total }, payload);
        let mut run = Run {
            label,
            kind,
            payload: Vec::new(),
            repeated: false,
            pending: 0,
            total,
            ends: now.plus(merge.combo_gap_ms),
            next: now.plus(merge.combo_every_ms),
            seq,
            entry: Entry::default(),
        };
        // What is never dropped goes out even then; it only has no run.
        if !full {
            run.place(id, agenda, None);
            self.runs.insert(id, run);
        }
        Admission::Admitted { seq }
    }

    /// A run's timer has run out: it is over, or its next frame is due, or has waited too long.
    pub fn fires(&mut self, id: MergeId, agenda: &mut Agenda, turn: &mut Turn<'_>) {
        let run = self.runs.get_mut(&id).expect("only what is there has a timer");
        if run.ends <= turn.now {
            self.end(id, agenda, turn);
        } else if run.entry.waits.is_some() {
            run.send(id, 0, agenda, turn);
        } else {
            run.place(id, agenda, Some(run.next));
        }
    }

    /// The limit lets a run's next frame pass.
    pub fn passes(&mut self, id: MergeId, agenda: &mut Agenda, turn: &mut Turn<'_>) {
        let run = self.runs.get_mut(&id).expect("only what is there waits");
        run.send(id, 0, agenda, turn);
    }

    /// Ends every run.
    pub fn close(&mut self, agenda: &mut Agenda, turn: &mut Turn<'_>) {
        while let Some((&id, _)) = self.runs.first_key_value() {
            self.end(id, agenda, turn);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    fn end(&mut self, id: MergeId, agenda: &mut Agenda, turn: &mut Turn<'_>) {
        let mut run = self.runs.remove(&id).expect("only what is there ends");
        if run.repeated {
            run.send(id, COMBO_FINAL, agenda, turn);
        }
        agenda.place(Item::Run(id), &mut run.entry, Entry::default());
    }
}

impl Run {
    fn send(&mut self, id: MergeId, flags: u8, agenda: &mut Agenda, turn: &mut Turn<'_>) {
        let count = std::mem::take(&mut self.pending);
        self.total = self.total.saturating_add(u64::from(count));
        let tally = Tally { flags, count, total: self.total };
        self.seq = turn.writer.combo(self.label, id, self.kind, tally, &self.payload);
        self.next = turn.now.plus(turn.rules.merge.combo_every_ms);
        agenda.charge(id.category, turn);
        self.place(id, agenda, None);
    }

    /// Stands in the agenda where it should; `waits` says since when it has waited for the limit.
    fn place(&mut self, id: MergeId, agenda: &mut Agenda, waits: Option<Millis>) {
        let sooner = match waits {
            Some(since) => since.plus(COMBO_HOLD_MAX_MS),
            None if self.pending > 0 => self.next,
            None => self.ends,
        };
        let timer = Some(self.ends.min(sooner));
        agenda.place(Item::Run(id), &mut self.entry, Entry { timer, waits });
    }
}
