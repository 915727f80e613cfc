//! What a room has merged, said as plainly as possible: every tap and every value is held against
//! every frame.

use std::collections::BTreeMap;

use barrage_router::{COMBO_HOLD_MAX_MS, MergeId, MergeRules, Publish};
use barrage_wire::ServerFrame;
use barrage_wire::server::COMBO_FINAL;

/// What a frame is to the limit of its category.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pass {
    /// It went because the limit let it.
    Asked,
    /// It would have gone anyway.
    Forced,
}

/// A message as it was said last.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    kind: u16,
    payload: Vec<u8>,
}

impl Said {
    fn of(message: &Publish<'_>) -> Self {
        Self { kind: message.kind, payload: message.payload.to_vec() }
    }
}

#[derive(Debug)]
struct Run {
    latest: Said,
    taps: u32,
    pending: u64,
    total: u64,
    ends: u64,
    /// When the next frame may go.
    next: u64,
    /// When what is pending should have gone.
    due: u64,
}

#[derive(Debug)]
struct Value {
    latest: Said,
    pending: bool,
    next: u64,
}

/// All runs and values of a room.
#[derive(Debug, Default)]
pub struct Merges {
    runs: BTreeMap<MergeId, Run>,
    values: BTreeMap<MergeId, Value>,
}

impl Merges {
    /// Whether the answer to a tap can be a refusal: not while its run goes on.
    pub fn goes_on(&self, now: u64, id: MergeId) -> bool {
        self.runs.get(&id).is_some_and(|run| run.ends > now)
    }

    /// Whether a tap makes so many that one frame cannot say it.
    pub fn overflows(&self, id: MergeId, message: &Publish<'_>) -> bool {
        let pending = self.runs.get(&id).map_or(0, |run| run.pending);
        pending + u64::from(message.count.max(1)) > u64::from(u32::MAX)
    }

    pub fn tap(&mut self, now: u64, rules: &MergeRules, id: MergeId, message: &Publish<'_>) {
        let ends = now + u64::from(rules.combo_gap_ms);
        let count = u64::from(message.count.max(1));
        let latest = Said::of(message);
        if let Some(run) = self.runs.get_mut(&id).filter(|run| run.ends > now) {
            if run.pending == 0 {
                run.due = run.next.max(now);
            }
            run.pending += count;
            run.taps += 1;
            run.ends = run.ends.max(ends);
            run.latest = latest;
            return;
        }
        let run = Run { latest, taps: 1, pending: count, total: 0, ends, next: 0, due: now };
        let before = self.runs.insert(id, run);
        assert!(before.is_none_or(|run| run.taps == 1), "a run of several taps has a final frame");
    }

    pub fn put(&mut self, id: MergeId, message: &Publish<'_>) {
        let next = self.values.get(&id).map_or(0, |value| value.next);
        let value = Value { latest: Said::of(message), pending: true, next };
        self.values.insert(id, value);
    }

    /// Holds a frame against what was said. `hurried`: it need not wait for its moment.
    pub fn check(
        &mut self,
        now: u64,
        rules: &MergeRules,
        id: MergeId,
        frame: &ServerFrame<'_>,
        hurried: bool,
    ) -> Pass {
        match *frame {
            ServerFrame::Combo {
                category,
                kind,
                flags,
                sender,
                key,
                count,
                total,
                payload,
                ..
            } => {
                assert_eq!(id, MergeId { category, sender, key });
                let latest = Said { kind, payload: payload.0.to_vec() };
                let run = self.runs.get_mut(&id).expect("somebody tapped");
                assert_eq!((u64::from(count), latest), (run.pending, run.latest.clone()));
                run.total += run.pending;
                assert_eq!(total, run.total, "totals are of the run");
                if flags & COMBO_FINAL != 0 {
                    assert!(hurried || now >= run.ends, "it is over only after the gap");
                    assert!(run.taps > 1, "a single tap says it all");
                    self.runs.remove(&id);
                    return Pass::Forced;
                }
                let waited = now >= run.due + COMBO_HOLD_MAX_MS;
                assert!(run.pending > 0 && run.ends > now);
                assert!(hurried || now >= run.next, "at most one in that time");
                run.pending = 0;
                run.next = now + u64::from(rules.combo_every_ms);
                if hurried || waited { Pass::Forced } else { Pass::Asked }
            }
            ServerFrame::State { category, kind, key, payload, .. } => {
                assert_eq!(id, MergeId { category, sender: 0, key });
                let latest = Said { kind, payload: payload.0.to_vec() };
                let value = self.values.get_mut(&id).expect("somebody said it");
                assert!(value.pending, "no value goes out twice");
                assert_eq!(latest, value.latest, "what goes out is the latest");
                assert!(hurried || now >= value.next, "at most one in that time");
                value.pending = false;
                value.next = now + u64::from(rules.state_every_ms);
                if hurried { Pass::Forced } else { Pass::Asked }
            }
            ref other => panic!("nothing is merged into {other:?}"),
        }
    }

    /// The latest value of each key, and `None` for keys that were removed.
    pub fn values(&self) -> impl Iterator<Item = (MergeId, Option<(u16, &[u8])>)> {
        self.values.iter().map(|(&id, value)| {
            let Said { kind, payload } = &value.latest;
            (id, (!payload.is_empty()).then_some((*kind, &payload[..])))
        })
    }

    /// The room was ticked: what its limit does not hold back has gone out, and no part of a run is
    /// held for too long.
    pub fn check_ticked(&self, now: u64, is_unlimited: impl Fn(u16) -> bool) {
        for (id, run) in self.runs.iter().filter(|(_, run)| run.pending > 0) {
            assert!(now < run.ends, "{id:?} is over: {run:?}");
            let held_ms = if is_unlimited(id.category) { 0 } else { COMBO_HOLD_MAX_MS };
            assert!(now < run.due + held_ms, "{id:?} is held for too long: {run:?}");
        }
        for (id, value) in self.values.iter().filter(|(_, value)| value.pending) {
            let held = now < value.next || !is_unlimited(id.category);
            assert!(held, "{id:?} is held for nothing: {value:?}");
        }
    }

    /// Whether something is to go out, or might be gone on with.
    pub fn is_pending(&self, now: u64) -> bool {
        self.runs.values().any(|run| run.ends > now) || !self.has_said_all()
    }

    /// Whether everything that was said went out.
    pub fn has_said_all(&self) -> bool {
        let runs = self.runs.values().all(|run| run.pending == 0);
        runs && self.values.values().all(|value| !value.pending)
    }

    /// The room was closed: runs are over.
    pub fn close(&mut self) {
        assert!(self.runs.values().all(|run| run.taps == 1), "every run has its final frame");
        self.runs.clear();
        assert!(self.has_said_all());
    }
}
