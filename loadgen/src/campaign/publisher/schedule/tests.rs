use super::super::fixture::{gifts, messages, scenario, states, stream};
use super::*;
use crate::clock::SECOND_NS;
use crate::scenario::{Arrival, Spread, To};

const START_NS: u64 = 1_000 * SECOND_NS;
const WINDOW: Rate = Rate::Window(8);

fn schedule(scenario: &Scenario, phase: usize, members: &[u32], seconds: u64) -> Schedule {
    let (start_ns, to_ns) = (START_NS, START_NS + seconds * SECOND_NS);
    let layout = Arc::new(Layout::new(scenario.rooms, scenario.seed));
    Schedule::new(&Plan { scenario, phase, members, start_ns, to_ns }, &layout)
}

fn acts(scenario: &Scenario, phase: usize, seconds: u64) -> Vec<Act> {
    let mut schedule = schedule(scenario, phase, &[10; 4], seconds);
    std::iter::from_fn(|| schedule.due(u64::MAX)).collect()
}

fn everything() -> Scenario {
    let fixed = messages(Rate::Messages(30.0), Arrival::Fixed);
    let chance = messages(Rate::Messages(30.0), Arrival::Poisson);
    let mut scenario = scenario(4, vec![fixed, chance, gifts(), states()]);
    scenario.rooms.spread = Spread::Zipf { exponent: 1.0 };
    for stream in &mut scenario.streams {
        stream.categories = vec![(3, 1.0), (4, 3.0)];
        stream.size = (16, 64);
        if let StreamKind::Messages { to, .. } = &mut stream.kind {
            *to = To::Members;
        }
    }
    scenario
}

#[test]
fn the_same_seed_makes_the_same_schedule_in_order() {
    let scenario = everything();
    let one = acts(&scenario, 0, 30);
    assert_eq!(one, acts(&scenario, 0, 30));
    assert_ne!(one, acts(&scenario, 1, 30), "phases differ");
    assert_ne!(one, acts(&Scenario { seed: 8, ..scenario.clone() }, 0, 30));
    assert!(one.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));
    let span = START_NS..START_NS + 30 * SECOND_NS;
    assert!(one.iter().all(|act| span.contains(&act.at_ns)));
    for stream in 0..4 {
        assert!(one.iter().any(|act| act.stream == stream), "stream {stream} is silent");
    }
}

#[test]
fn a_stream_does_not_depend_on_the_others() {
    let mut scenario = everything();
    let own = |acts: Vec<Act>| acts.into_iter().filter(|act| act.stream == 1).collect::<Vec<_>>();
    let among = own(acts(&scenario, 0, 10));
    scenario.phases[0].streams = vec![1];
    assert_eq!(acts(&scenario, 0, 10), among);
}

#[test]
fn a_fixed_rate_is_told_by_the_number_of_the_message() {
    let scenario = scenario(3, vec![messages(Rate::Messages(8.0), Arrival::Fixed)]);
    for (n, act) in (0..).zip(acts(&scenario, 0, 10)) {
        let expected = (START_NS + n * SECOND_NS / 8, (n % 3) as u32, What::Message);
        assert_eq!((act.at_ns, act.room, act.what), expected);
    }
}

#[test]
fn rates_are_what_was_asked_for_times_the_factor() {
    let fixed = messages(Rate::Messages(50.0), Arrival::Fixed);
    let deliveries = messages(Rate::Deliveries(5000.0), Arrival::Fixed);
    let mut scenario = scenario(4, vec![fixed, deliveries, states(), gifts()]);
    let count = |scenario: &Scenario| {
        let acts = acts(scenario, 0, 20);
        [0, 1, 2, 3].map(|stream| acts.iter().filter(|act| act.stream == stream).count())
    };
    // Rooms of ten members; two keys in each of four rooms, five times a second.
    let [fixed, deliveries, states, taps] = count(&scenario);
    assert_eq!([fixed, deliveries, states], [1000, 10_000, 800]);
    scenario.phases[0].rate_factor = 0.5;
    let [fixed, deliveries, states, half] = count(&scenario);
    assert_eq!([fixed, deliveries, states], [500, 5000, 400]);
    assert!((0.4..0.6).contains(&(half as f64 / taps as f64)), "{half} of {taps}");
    scenario.phases[0].rate_factor = 0.0;
    assert_eq!(count(&scenario), [0; 4]);
}

#[test]
fn categories_are_mixed_by_weight_and_sizes_spread_evenly() {
    let mut scenario = scenario(1, vec![messages(Rate::Messages(10_000.0), Arrival::Fixed)]);
    scenario.streams[0].categories = vec![(4, 6.0), (0, 0.0), (7, 2.0)];
    scenario.streams[0].size = (16, 19);
    let acts = acts(&scenario, 0, 1);
    let share = |is: &dyn Fn(&Act) -> bool| acts.iter().filter(|act| is(act)).count() as f64 / 1e4;
    for (category, weight) in [(4, 0.75), (0, 0.0), (7, 0.25)] {
        assert!((share(&|act| act.category == category) - weight).abs() < 0.02, "{category}");
    }
    for size in 16..=19 {
        assert!((share(&|act| act.size == size) - 0.25).abs() < 0.02, "{size}");
    }
}

#[test]
fn nothing_is_handed_out_before_its_time_or_after_the_end() {
    let scenario = everything();
    let mut schedule = schedule(&scenario, 0, &[], 5);
    assert_eq!(schedule.due(START_NS - 1), None);
    let next_ns = schedule.next_ns().unwrap();
    assert_eq!(schedule.due(next_ns).unwrap().at_ns, next_ns);
    let end_ns = START_NS + 2 * SECOND_NS;
    schedule.end_at(end_ns);
    let last = std::iter::from_fn(|| schedule.due(u64::MAX)).last().unwrap();
    assert!((end_ns - SECOND_NS / 10..end_ns).contains(&last.at_ns));
}

#[test]
fn what_is_passed_over_is_counted_as_it_would_have_been_said() {
    let mut scenario = everything();
    for rate in [0.3, 7.0, 333.3, 9999.9] {
        scenario.streams[0] = messages(Rate::Messages(rate), Arrival::Fixed);
        scenario.streams[1] = messages(Rate::Messages(rate), Arrival::Poisson);
        for after_ns in [0, 1, 299_999_999, 2 * SECOND_NS, 3 * SECOND_NS + 100_010_001] {
            for streams in [vec![0], vec![1], vec![2], vec![3], vec![0, 1, 2, 3]] {
                scenario.phases[0].streams = streams;
                let mut schedule = schedule(&scenario, 0, &[], 3);
                while schedule.due(START_NS + SECOND_NS / 10).is_some() {}
                let (mut passed, now_ns) = (schedule.clone(), START_NS + after_ns);
                let said = std::iter::from_fn(|| schedule.due(now_ns)).count() as u64;
                assert_eq!(passed.pass(now_ns), said, "{rate}/s after {after_ns}");
                assert_eq!(passed.pass(now_ns), 0, "once");
                assert_eq!(passed.next_ns().is_none(), schedule.next_ns().is_none());
            }
        }
    }
}

#[test]
fn a_window_is_filled_and_no_more() {
    let fixed = messages(Rate::Messages(1.0), Arrival::Fixed);
    let window = |to| stream(StreamKind::Messages { rate: WINDOW, arrival: Arrival::Fixed, to });
    let scenario = scenario(2, vec![fixed, window(To::Hot), window(To::Even)]);
    let mut schedule = schedule(&scenario, 0, &[], 5);
    let now_ns = START_NS + 17;
    let filled: Vec<Act> =
        (0..).map_while(|on_their_way| schedule.fill(on_their_way, now_ns)).collect();
    assert_eq!(filled.len(), 8);
    assert!(filled.iter().all(|act| act.at_ns == now_ns));
    let streams: Vec<usize> = filled.iter().map(|act| act.stream).collect();
    assert_eq!(streams, [1, 2, 1, 2, 1, 2, 1, 2], "in turn");
    assert_eq!(schedule.fill(0, START_NS + 5 * SECOND_NS), None, "the phase is over");
    assert_eq!(schedule.window(), Some(8));
}

#[test]
fn a_phase_that_says_nothing_is_silent() {
    let scenario = scenario(2, Vec::new());
    let mut schedule = schedule(&scenario, 0, &[], 5);
    assert_eq!((schedule.next_ns(), schedule.window()), (None, None));
    assert_eq!((schedule.due(u64::MAX), schedule.fill(0, START_NS)), (None, None));
}

#[test]
fn what_cannot_be_published_is_said() {
    let mut scenario = scenario(1_000_000, vec![gifts()]);
    assert_eq!(fault(&scenario), None);
    scenario.rooms.count = 3_000_000;
    assert!(fault(&scenario).is_some_and(|fault| fault.contains("6000000 givers")));
    scenario.streams[0].categories.clear();
    assert!(fault(&scenario).is_some_and(|fault| fault.contains("said has no category")));
    scenario.phases.clear();
    assert_eq!(fault(&scenario), None, "nobody wants it");
}
