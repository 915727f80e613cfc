//! The leader's way through a campaign, with hands that say what a script says, in a world whose time
//! passes as fast as it is asked for.

mod ending;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::campaign::crew::{Hand, Speaker};
use crate::campaign::publisher::{Let, Published, Say};
use crate::campaign::shares;
use crate::exit::{Exit, TargetLost};
use crate::orders::{Books as Last, Order, Report, What};
use crate::record::kept::{Head, Summary, TargetSample};
use crate::record::{Interval, Timings};
use crate::scenario::file;
use crate::shared::Shared;

const CLIENTS: u32 = 8;
const MESSAGES: u64 = 5;
const STEP_NS: u64 = SECOND_NS / 20;
const UP: &str = "[[phases]]\nname = 'up'\nkind = 'ramp'\n";
const ON: &str = "[[phases]]\nname = 'on'\nsecs = 3\n";

/// What a hand says, and after how many seconds.
type Says = Vec<(f64, What)>;

/// Something that is said at a second, and by whom.
type Aside = (f64, usize, fn() -> What);

/// A campaign that is played.
struct Play {
    phases: String,
    /// Clients' shares, one for each hand.
    weights: Vec<u32>,
    /// What a hand that is told something says instead of what a good one says.
    script: fn(usize, &Order) -> Option<Says>,
    /// What is said at moments of their own, by place.
    aside: Vec<Aside>,
    stop_at_s: f64,
    lost_from_s: f64,
    /// What the publisher says at its end.
    published: Published,
}

impl Default for Play {
    fn default() -> Self {
        Self {
            phases: format!("{UP}{ON}"),
            weights: vec![3, 1],
            script: |_, _| None,
            aside: Vec::new(),
            stop_at_s: f64::MAX,
            lost_from_s: f64::MAX,
            published: Published::default(),
        }
    }
}

/// What came of it.
struct Played {
    summary: Summary,
    /// Orders and what the publisher is told, each with its second.
    log: Vec<(f64, String)>,
    events: Vec<String>,
}

struct Stage {
    now_ns: u64,
    play: Play,
    counts: Vec<u32>,
    /// Who has said its last word, and hears no more.
    ended: Vec<bool>,
    orders: Vec<Receiver<Order>>,
    said: Receiver<Say>,
    due: Vec<(u64, Report)>,
    stop: Arc<AtomicBool>,
    log: Rc<RefCell<Vec<(f64, String)>>>,
}

fn s(ns: u64) -> f64 {
    ns as f64 / SECOND_NS as f64
}

fn ns(s: f64) -> u64 {
    (s * SECOND_NS as f64) as u64
}

fn interval(counts: Counts, ready: u64) -> What {
    let (source, timings) = ("worker-0".to_owned(), Timings::default());
    let (phase, from_ns, to_ns, busy) = (0, 0, 1, 0.1);
    let interval = Interval { source, phase, from_ns, to_ns, ready, busy, counts, timings };
    What::Interval(Box::new(interval))
}

/// What a hand says that does as it is told.
fn good(clients: u32, order: &Order) -> Says {
    let counts = Counts { connected: clients.into(), ..Counts::default() };
    match order {
        Order::Connect { .. } => {
            vec![(0.4, interval(counts, clients.into())), (0.5, What::Ramped)]
        }
        Order::Disconnect(_) => vec![(0.7, What::Returned)],
        Order::Drain { .. } => {
            let counts = Counts { delivered: MESSAGES * u64::from(clients), ..counts };
            vec![(0.1, What::Finished(Box::new(Last { counts, ..Last::default() })))]
        }
        Order::Phase { .. } | Order::Churn(_) | Order::Stop => Vec::new(),
    }
}

fn name(order: &Order) -> String {
    match order {
        Order::Connect { clients, per_s } => format!("connect {clients} at {per_s}"),
        Order::Phase { index, .. } => format!("phase {index}"),
        Order::Churn(churn) => match churn {
            Some(churn) => format!("churn {}", churn.clients_per_s),
            None => "no churn".to_owned(),
        },
        Order::Disconnect(disconnect) => format!("disconnect {}", disconnect.percent),
        Order::Drain { .. } => "drain".to_owned(),
        Order::Stop => "stop".to_owned(),
    }
}

impl Stage {
    /// Lets everybody hear what they were told.
    fn turn(&mut self) {
        let now = self.now_ns;
        for say in self.said.try_iter() {
            let text = match say {
                Say::Phase { index, .. } => format!("publisher: phase {index}"),
                Say::Close => "publisher: close".to_owned(),
            };
            self.log.borrow_mut().push((s(now), text));
        }
        for (hand, orders) in self.orders.iter().enumerate() {
            for order in orders.try_iter() {
                self.log.borrow_mut().push((s(now), format!("{hand}: {}", name(&order))));
                if self.ended[hand] {
                    continue;
                }
                let says = (self.play.script)(hand, &order);
                let says = says.unwrap_or_else(|| good(self.counts[hand], &order));
                self.ended[hand] |= says.iter().any(|(_, what)| matches!(what, What::Finished(_)));
                let reports = says
                    .into_iter()
                    .map(|(after_s, what)| (now + ns(after_s), Report { worker: hand, what }));
                self.due.extend(reports);
            }
        }
    }
}

impl Outside for Rc<RefCell<Stage>> {
    fn now_ns(&self) -> u64 {
        self.borrow().now_ns
    }

    fn hear(&mut self, _: &Receiver<Report>, until_ns: u64) -> Option<Report> {
        let mut this = self.borrow_mut();
        this.turn();
        let until_ns = until_ns.min(this.now_ns + STEP_NS);
        let first = (0..this.due.len()).min_by_key(|&at| this.due[at].0);
        let report = match first.filter(|&first| this.due[first].0 <= until_ns) {
            Some(first) => {
                let (at_ns, report) = this.due.remove(first);
                this.now_ns = this.now_ns.max(at_ns);
                Some(report)
            }
            None => {
                this.now_ns = until_ns;
                None
            }
        };
        if s(this.now_ns) >= this.play.stop_at_s {
            this.stop.store(true, Ordering::Relaxed);
        }
        report
    }

    fn reach(&self, _: &Scenario) -> Result<(), TargetLost> {
        let this = self.borrow();
        match s(this.now_ns) < this.play.lost_from_s {
            true => Ok(()),
            false => Err(TargetLost("it takes no connection".to_owned())),
        }
    }

    fn look_at(&mut self, _: u64) {}

    fn seen(&mut self) -> Vec<Option<TargetSample>> {
        Vec::new()
    }

    fn is_watched(&self) -> bool {
        false
    }

    fn available_bytes(&self) -> Option<u64> {
        None
    }
}

/// A publisher whose books are there already.
fn speaker(published: Published) -> (Speaker, Receiver<Say>) {
    let room = Let { last_seq: MESSAGES, admitted: MESSAGES, ..Let::default() };
    let counts = Counts { published: MESSAGES, admitted: MESSAGES, ..Counts::default() };
    let published = Published { rooms: vec![room], counts, ..published };
    let (says, said) = channel();
    let thread = std::thread::spawn(move || Ok(published));
    while !thread.is_finished() {
        std::thread::yield_now();
    }
    (Speaker { says, thread }, said)
}

fn play(play: Play) -> Played {
    let text = format!(
        "name = 'test'\nabout = 'x'\n[clients]\ncount = {CLIENTS}\n[streams.chat]\n\
         messages_per_s = 1\n{}",
        play.phases
    );
    let loaded = file::parse(&text, "test.toml", &[]).expect("a scenario");
    let stop = Arc::new(AtomicBool::new(false));
    let parts = shares::divide(CLIENTS, &play.weights);
    let (_reports, reports) = channel();
    let (publisher, said) = speaker(play.published.clone());
    let mut crew = Crew {
        hands: Vec::new(),
        publisher: Some(publisher),
        odd: None,
        reports,
        clocks: Vec::new(),
        stop: Arc::new(AtomicBool::new(false)),
        threads: Vec::new(),
    };
    let mut ordered = Vec::new();
    for (hand, &part) in parts.iter().enumerate() {
        let (orders, heard) = channel();
        ordered.push(heard);
        let shared = Shared::new(Arc::clone(&crew.stop));
        let source = format!("worker-{hand}");
        crew.hands.push(Hand { orders, part, source, shared, is_remote: false });
    }
    let aside = play.aside.iter();
    let aside = aside.map(|&(at_s, worker, what)| (ns(at_s), Report { worker, what: what() }));
    let log = Rc::new(RefCell::new(Vec::new()));
    let stage = Rc::new(RefCell::new(Stage {
        now_ns: 0,
        ended: vec![false; parts.len()],
        counts: parts.iter().map(|part| part.count).collect(),
        orders: ordered,
        said,
        due: aside.collect(),
        stop: Arc::clone(&stop),
        log: Rc::clone(&log),
        play,
    }));
    let keep = Keep::create(Some("none"), &Head::default()).expect("nothing is kept");
    let view = View::new(true, true, false, false);
    let outside = Box::new(Rc::clone(&stage));
    let mut leader = Leader::new(&loaded.scenario, crew, keep, view, outside, &stop);
    leader.lead().expect("it is led");
    let events = leader.scene.events.iter().cloned().collect();
    let (summary, _) = leader.close(&[]).expect("it is closed");
    stage.borrow_mut().turn();
    let log = log.borrow().clone();
    Played { summary, log, events }
}

impl Played {
    /// When that was said first.
    fn at(&self, text: &str) -> f64 {
        let said = self.log.iter().find(|(_, said)| said == text);
        said.unwrap_or_else(|| panic!("{text} was not said: {:?}", self.log)).0
    }

    fn check(&self, exit: Exit, why: &str) {
        let verdict = &self.summary.verdict;
        assert_eq!(verdict.exit, exit, "{verdict:?}");
        assert!(verdict.why.contains(why), "{verdict:?}");
    }

    fn told(&self, text: &str) -> bool {
        self.events.iter().any(|event| event.contains(text))
    }
}

const STORM: &str = "[[phases]]\nname = 'storm'\nkind = 'storm'\nsecs = 2\n\
                     disconnect = { percent = 50 }\n";
const CHURN: &str = "[[phases]]\nname = 'churn'\nsecs = 2\nchurn = { clients_per_s = 4 }\n";

#[test]
fn orders_come_in_their_order_and_shares_by_size() {
    let played = play(Play { phases: format!("{UP}{STORM}{CHURN}"), ..Play::default() });
    played.check(Exit::Pass, "every objective");
    let all = |hand: &str| -> Vec<&str> {
        played.log.iter().filter_map(|(_, said)| said.strip_prefix(hand)).collect()
    };
    let orders = |connect, churn| {
        vec![
            "phase 0",
            connect,
            "phase 1",
            "disconnect 50",
            "phase 2",
            churn,
            "no churn",
            "drain",
            "stop",
        ]
    };
    assert_eq!(all("0: "), orders("connect 6 at 0", "churn 3"));
    assert_eq!(all("1: "), orders("connect 2 at 0", "churn 1"));
    let publisher = ["phase 0", "phase 1", "phase 2", "close"];
    assert_eq!(all("publisher: "), publisher);
    assert!(played.at("publisher: close") <= played.at("0: drain"));
    assert!(played.at("0: phase 1") < 0.6, "a ramp ends when all are there");
    assert_eq!(played.summary.totals.delivered, MESSAGES * u64::from(CLIENTS));
    assert!((played.summary.reconnect_s.expect("all came back") - 0.7).abs() < 1e-6);
}

#[test]
fn a_ramp_in_which_nothing_moves_ends_and_one_with_a_bound_at_it() {
    let silent: fn(usize, &Order) -> Option<Says> =
        |hand, order| (hand == 1 && matches!(order, Order::Connect { .. })).then(Vec::new);
    for (secs, ends_s) in [("", 60.0), ("secs = 5\n", 5.0)] {
        let phases = format!("{UP}{secs}{ON}");
        let played = play(Play { phases, script: silent, ..Play::default() });
        let began = played.at("0: phase 1");
        assert!((ends_s..ends_s + 1.5).contains(&began), "{began}");
        assert!(played.told("ended before everybody was ready"), "{:?}", played.events);
    }
}

#[test]
fn those_who_come_back_late_are_waited_for_but_not_for_ever() {
    let after = |script| {
        let phases = format!("{UP}{STORM}{ON}");
        let played = play(Play { phases, script, ..Play::default() });
        (played.at("0: phase 2") - played.at("0: disconnect 50"), played)
    };
    let (went_on, played) = after(|hand, order| {
        let is_late = hand == 1 && matches!(order, Order::Disconnect(_));
        is_late.then(|| vec![(10.0, What::Returned)])
    });
    assert!((10.0..10.2).contains(&went_on), "{went_on}");
    assert!((played.summary.reconnect_s.expect("known") - 10.0).abs() < 1e-6);
    let (went_on, played) =
        after(|hand, order| (hand == 1 && matches!(order, Order::Disconnect(_))).then(Vec::new));
    assert!((122.0..123.0).contains(&went_on), "{went_on}");
    assert_eq!(played.summary.reconnect_s, None);
    assert!(played.told("not all came back"), "{:?}", played.events);
}

#[test]
fn abort_conditions_end_a_run_at_once() {
    let slow = || {
        let mut timings = Timings::default();
        timings.corrected.record(90_000).expect("within the bounds");
        let What::Interval(mut slow) = interval(Counts::default(), 6) else { panic!() };
        slow.timings = timings;
        What::Interval(slow)
    };
    let lost = || interval(Counts { lost: 3, ..Counts::default() }, 3);
    let unexplained = || interval(Counts { unexplained: 9, ..Counts::default() }, 6);
    type Case = (&'static str, &'static str, fn() -> What);
    let table: [Case; 3] = [
        ("p99_ms = 50\nintervals = 1", "the p99 was 90 ms", slow),
        ("lost_percent = 20", "37.5 % of the clients", lost),
        ("unexplained = 9", "9 messages are missing", unexplained),
    ];
    for (abort, why, what) in table {
        let phases = format!("{UP}{}[abort]\n{abort}\n", ON.replace('3', "60"));
        let played = play(Play { phases, aside: vec![(4.0, 0, what)], ..Play::default() });
        played.check(Exit::Missed, why);
        assert!((4.0..6.0).contains(&played.at("0: drain")), "{why}");
    }
}

#[test]
fn a_hand_that_breaks_makes_the_run_invalid_in_every_phase() {
    let broken = || What::Broken("no memory".to_owned());
    for at_s in [0.1, 2.0, 3.65] {
        let played = play(Play { aside: vec![(at_s, 1, broken)], ..Play::default() });
        played.check(Exit::Invalid, "worker-1 has ended: no memory");
        let drained = played.at("0: drain");
        assert!(drained < at_s.max(3.6) + 0.2, "{at_s}: {drained}");
    }
    let played = play(Play { aside: vec![(2.0, 2, broken)], ..Play::default() });
    played.check(Exit::Invalid, "publisher has ended: no memory");
}

#[test]
fn a_target_that_has_gone_is_told_from_a_part_that_broke() {
    let lost = || What::Lost("refused".to_owned());
    let played = play(Play { aside: vec![(2.0, 1, lost)], ..Play::default() });
    played.check(Exit::TargetLost, "worker-1 has ended: refused");
    let broken = || What::Broken("reset".to_owned());
    let aside = vec![(2.0, 2, broken as fn() -> What)];
    let played = play(Play { aside, lost_from_s: 1.9, ..Play::default() });
    played.check(Exit::TargetLost, "it takes no connection (publisher has ended: reset)");
    let gone = || interval(Counts { lost: 6, ..Counts::default() }, 0);
    let phases = format!("{UP}{}", ON.replace('3', "60"));
    let aside = vec![(2.0, 0, gone as fn() -> What), (2.0, 1, gone)];
    let played = play(Play { phases, aside, lost_from_s: 2.0, ..Play::default() });
    played.check(Exit::TargetLost, "it takes no connection");
    assert!(played.at("0: drain") < 5.0, "after two looks");
}

#[test]
fn ctrl_c_ends_every_phase_and_shortens_the_end() {
    for stop_at_s in [0.2, 2.0] {
        let played = play(Play { stop_at_s, ..Play::default() });
        played.check(Exit::Invalid, "stopped before its time");
        assert!(played.at("0: drain") < stop_at_s + 0.2);
    }
    let never: fn(usize, &Order) -> Option<Says> = |_, order| match order {
        Order::Drain { until_ns, .. } if s(*until_ns) > 5.0 => Some(Vec::new()),
        _ => None,
    };
    let played = play(Play { stop_at_s: 4.5, script: never, ..Play::default() });
    played.check(Exit::Invalid, "stopped before its time");
    assert!(played.at("0: stop") < 5.0, "{:?}", played.log);
    assert_eq!(played.summary.totals.delivered, MESSAGES * u64::from(CLIENTS), "books are kept");
}

#[test]
fn who_leaves_no_books_is_named_and_what_it_said_counts() {
    let played = play(Play {
        script: |hand, order| (hand == 0 && matches!(order, Order::Drain { .. })).then(Vec::new),
        ..Play::default()
    });
    played.check(Exit::Invalid, "worker-0 has left no books");
    assert_eq!(played.summary.totals.connected, u64::from(CLIENTS));
}
