//! What an inbox does, step by step: at which time, what happens, and what it says.

use barrage_router::{
    Class, DEVICES_MAX, Gone, INBOX_WINDOW, INBOX_WINDOW_BYTES_MAX, Inbox, InboxDevice,
    InboxMessage, InboxOutput, InboxPush, InboxRules, Millis, Policy,
};
use barrage_wire::limits::PAYLOAD_BYTES_MAX;

/// Tries after 10 ms, three in all; five messages for a second.
const RULES: InboxRules = InboxRules { retry_after_ms: 10, tries: 3, ttl_s: 1, messages_max: 5 };

/// Goes through `steps`: a time, what is done then, and what the inbox says. `on 7 a` connects
/// device 7 at address a, `push 50` pushes what expires after 50 ms. In what it says, `a1` is
/// message 1 sent to a, `a1*` the same as a repeat; what devices' records say is left out.
fn check(steps: &[(u64, &str, &str)]) {
    let mut inbox = Inbox::new(1);
    for &(now, step, expected) in steps {
        let now = Millis(now);
        assert_eq!(take(&mut inbox, now, step), expected, "at {}: {step}", now.0);
        assert!(inbox.due().is_none_or(|due| due > now), "at {}: {step}", now.0);
    }
}

fn take(inbox: &mut Inbox<char>, now: Millis, step: &str) -> String {
    let mut out = Vec::new();
    let words: Vec<&str> = step.split(' ').collect();
    let number = |at: usize| words.get(at).map_or(0, |word| word.parse::<u64>().expect("a number"));
    let address = |at: usize| words[at].chars().next().expect("a letter");
    match words[0] {
        "push" => {
            let (class, payload, ttl_ms) = (Class::P1, &[1, 2][..], number(1) as u32);
            let push = InboxPush { category: 1, class, kind: 2, payload, ttl_ms };
            inbox.push(now, &RULES, push, &mut out);
        }
        "on" => inbox.device_on(now, &RULES, number(1), address(2), &mut out),
        "off" => inbox.device_off(now, &RULES, number(1), address(2), &mut out),
        "ack" => inbox.ack(now, &RULES, number(1), address(2), number(3), &mut out),
        "tick" => inbox.tick(now, &RULES, &mut out),
        other => panic!("what is {other}?"),
    }
    let said: Vec<String> = out.iter().filter_map(name).collect();
    said.join(" ")
}

fn name(output: &InboxOutput<char>) -> Option<String> {
    match output {
        InboxOutput::Send { to, seq, repeat: false, .. } => Some(format!("{to}{seq}")),
        InboxOutput::Send { to, seq, repeat: true, .. } => Some(format!("{to}{seq}*")),
        InboxOutput::Gone { seq, cause: Gone::Delivered } => Some(format!("{seq} delivered")),
        InboxOutput::Gone { seq, cause: Gone::Expired } => Some(format!("{seq} expired")),
        InboxOutput::Gone { seq, cause: Gone::Crowded } => Some(format!("{seq} crowded")),
        InboxOutput::Device(_) => None,
        InboxOutput::Forgotten { device } => Some(format!("{device} forgotten")),
    }
}

#[test]
fn what_every_device_has_acked_is_gone() {
    check(&[
        (0, "on 7 a", ""),
        (1, "on 8 b", ""),
        (2, "push", "a1 b1"),
        (3, "push", "a2 b2"),
        (4, "ack 7 a 2", ""),
        (5, "ack 8 b 1", "1 delivered"),
        (6, "ack 8 b 2", "2 delivered"),
        (99, "tick", ""),
    ]);
}

#[test]
fn what_is_not_acked_is_repeated_until_the_tries_are_used_up() {
    check(&[
        (0, "on 7 a", ""),
        (0, "push", "a1"),
        (5, "push", "a2"),
        (9, "tick", ""),
        (10, "tick", "a1*"),
        (15, "tick", "a2*"),
        (20, "tick", "a1*"),
        (21, "ack 7 a 1", "1 delivered"),
        (25, "tick", "a2*"),
        (500, "tick", ""),
        // A new connection gets it with fresh tries.
        (500, "on 7 b", "b2*"),
        (510, "tick", "b2*"),
        (520, "tick", "b2*"),
        (530, "tick", ""),
        (540, "ack 7 b 2", "2 delivered"),
    ]);
}

#[test]
fn what_waits_is_pulled_by_whoever_comes() {
    check(&[
        (0, "push", ""),
        (1, "push", ""),
        (2, "on 7 a", "a1 a2"),
        (3, "on 8 b", "b1 b2"),
        (4, "ack 7 a 1", ""),
        (5, "off 7 a", ""),
        (6, "ack 8 b 2", "1 delivered"),
        (7, "push", "b3"),
        (8, "on 7 c", "c2* c3"),
        (9, "on 7 c", ""),
    ]);
}

#[test]
fn the_newest_connection_of_a_device_counts() {
    check(&[
        (0, "on 7 a", ""),
        (0, "push", "a1"),
        (1, "on 7 b", "b1*"),
        (2, "off 7 a", ""),
        (3, "push", "b2"),
        // What arrived on the old one has arrived.
        (4, "ack 7 a 1", "1 delivered"),
        (5, "off 7 b", ""),
        (6, "push", ""),
    ]);
}

#[test]
fn an_unnamed_device_is_its_connection() {
    check(&[
        (0, "on 0 a", ""),
        (0, "on 0 b", ""),
        (0, "push", "a1 b1"),
        (1, "ack 0 a 1", ""),
        (2, "ack 0 c 1", ""),
        (3, "off 0 b", "1 delivered"),
        (4, "push", "a2"),
        (5, "off 0 a", ""),
        (6, "on 0 d", "d2*"),
        (7, "ack 0 d 2", "2 delivered"),
    ]);
}

#[test]
fn acks_of_the_past_of_the_future_and_of_nobody_do_nothing() {
    check(&[
        (0, "ack 7 a 1", ""),
        (0, "on 7 a", ""),
        (0, "push", "a1"),
        (0, "push", "a2"),
        (1, "ack 7 a 3", ""),
        (1, "ack 7 a 18446744073709551615", ""),
        (1, "ack 8 a 2", ""),
        (1, "ack 0 a 2", ""),
        (2, "ack 7 a 1", "1 delivered"),
        (2, "ack 7 a 0", ""),
        (2, "ack 7 a 1", ""),
        (10, "tick", "a2*"),
    ]);
}

#[test]
fn messages_end_by_time_and_by_number_and_devices_by_time() {
    check(&[
        (0, "push 50", ""),
        (0, "push", ""),
        (0, "push", ""),
        (50, "tick", "1 expired"),
        (60, "push", ""),
        (60, "push", ""),
        (60, "push", ""),
        (60, "push", "2 crowded"),
        (999, "tick", ""),
        (1_000, "tick", "3 expired"),
        (1_001, "on 7 a", "a4 a5 a6 a7"),
        (1_002, "off 7 a", ""),
        (1_060, "tick", "4 expired 5 expired 6 expired 7 expired"),
        (2_000, "on 8 b", ""),
        (2_001, "push", "b8"),
        // The device that is away is given up, and with it the message.
        (2_001, "ack 8 b 8", ""),
        (2_002, "tick", "7 forgotten 8 delivered"),
    ]);
}

#[test]
fn a_clock_that_is_set_back_keeps_nobody_waiting() {
    check(&[
        (9_000, "on 7 a", ""),
        (9_000, "push", "a1"),
        (9_004, "tick", ""),
        (2_000, "tick", ""),
        (2_005, "tick", ""),
        (2_006, "tick", "a1*"),
        (2_995, "tick", "a1*"),
        (2_996, "tick", "1 expired"),
    ]);
}

#[test]
fn the_longest_unseen_device_makes_room() {
    let mut inbox = Inbox::new(1);
    let at = |device: u64| char::from_u32(0x100 + device as u32).unwrap();
    for device in 1..=DEVICES_MAX as u64 {
        let on = format!("on {device} {}", at(device));
        assert_eq!(take(&mut inbox, Millis(device), &on), "");
    }
    let mut next = |now, step: &str| take(&mut inbox, Millis(now), step);
    assert_eq!(next(20, &format!("off 5 {}", at(5))), "");
    assert_eq!(next(21, &format!("off 4 {}", at(4))), "");
    assert_eq!(next(22, "on 50 x"), "5 forgotten", "who is away for longest goes");
    assert_eq!(next(23, "on 51 y"), "4 forgotten");
    assert_eq!(next(24, "on 52 z"), "", "nobody is away");
    let sent = next(25, "push");
    assert_eq!(sent.split(' ').count(), DEVICES_MAX + 1, "who is there is never passed over");
    assert!(sent.contains("z1") && sent.contains(at(1)));
    assert_eq!(next(26, &format!("off 1 {}", at(1))), "1 forgotten");
    assert_eq!(next(27, &format!("off 2 {}", at(2))), "");
}

#[test]
fn a_device_is_sent_a_window_ahead_of_its_acks() {
    let rules = Policy::builtin().inbox;
    let mut inbox = Inbox::new(1);
    let mut out = Vec::new();
    let (class, payload) = (Class::P1, &[][..]);
    let push = InboxPush { category: 1, class, kind: 2, payload, ttl_ms: 0 };
    for _ in 0..100 {
        assert_eq!(inbox.push(Millis(0), &rules, push, &mut out).sent_to, 0);
    }
    let window = INBOX_WINDOW as u64;
    let mut sent = |inbox: &mut Inbox<char>, acked| {
        out.clear();
        match acked {
            0 => inbox.device_on(Millis(1), &rules, 7, 'a', &mut out),
            acked => inbox.ack(Millis(1), &rules, 7, 'a', acked, &mut out),
        }
        let seq = |output: &InboxOutput<char>| match output {
            InboxOutput::Send { seq, .. } => Some(*seq),
            _ => None,
        };
        out.iter().filter_map(seq).collect::<Vec<u64>>()
    };
    let range = |first, last| (first..=last).collect::<Vec<u64>>();
    assert_eq!(sent(&mut inbox, 0), range(1, window));
    assert_eq!(sent(&mut inbox, 3), range(window + 1, window + 3));
    assert_eq!(sent(&mut inbox, 2), []);
    assert_eq!(sent(&mut inbox, window + 3), range(window + 4, 2 * window + 3));
    // An ACK from another connection may be ahead of what went out on this one.
    assert_eq!(sent(&mut inbox, 90), range(91, 100));
}

#[test]
fn large_messages_fill_the_window_sooner() {
    let rules = Policy::builtin().inbox;
    let mut inbox = Inbox::new(1);
    let mut out = Vec::new();
    let (class, payload) = (Class::P1, &[0; PAYLOAD_BYTES_MAX][..]);
    let push = InboxPush { category: 1, class, kind: 2, payload, ttl_ms: 0 };
    inbox.device_on(Millis(0), &rules, 7, 'a', &mut out);
    let sent: Vec<usize> =
        (0..9).map(|_| inbox.push(Millis(1), &rules, push, &mut out).sent_to).collect();
    let window = INBOX_WINDOW_BYTES_MAX / PAYLOAD_BYTES_MAX;
    assert_eq!(sent, [1, 1, 1, 1, 1, 1, 1, 0, 0], "{window} would fit without their heads");
    out.clear();
    inbox.ack(Millis(2), &rules, 7, 'a', 2, &mut out);
    let sent = out.iter().filter(|output| matches!(output, InboxOutput::Send { .. }));
    assert_eq!(sent.count(), 2);
}

#[test]
fn what_was_stored_comes_back() {
    let (class, category, kind) = (Class::P0, 4, 5);
    let message = |seq| {
        let (payload, expires) = (vec![seq as u8].into(), Millis(1_000 + seq));
        InboxMessage { seq, category, class, kind, payload, expires }
    };
    let device = |device, acked| InboxDevice { device, acked, until: Millis(500 + device) };
    let mut inbox =
        Inbox::restore(1, [9, 3, 5].map(message), [device(7, 3), device(8, 1), device(0, 1)]);
    assert!(inbox.messages().eq([3, 5, 9].map(message)));
    assert!(inbox.devices().eq([device(8, 1), device(7, 3)]), "a device without a name is none");
    let mut next = |now, step: &str| take(&mut inbox, Millis(now), step);
    assert_eq!(next(1, "on 7 a"), "a5* a9*", "it may have them");
    assert_eq!(next(2, "on 9 b"), "b3 b5 b9", "one that is new cannot");
    assert_eq!(next(3, "push"), "a10 b10");
    let inbox: Inbox<char> = Inbox::restore(70, [3].map(message), []);
    assert_eq!(take(&mut { inbox }, Millis(1), "on 7 a"), "a3");
    let mut inbox: Inbox<char> = Inbox::restore(70, [3].map(message), []);
    take(&mut inbox, Millis(1), "push");
    assert!(inbox.messages().map(|message| message.seq).eq([3, 70]));
}

#[test]
fn an_inbox_is_idle_when_forgetting_it_loses_nothing() {
    let mut inbox = Inbox::new(1);
    let mut check = |now, step: &str, is_idle, is_at_rest| {
        take(&mut inbox, Millis(now), step);
        let is = (inbox.is_idle(), inbox.is_at_rest());
        assert_eq!(is, (is_idle, is_at_rest), "{step}");
        assert_eq!(inbox.due().is_none(), is_idle || inbox.messages().len() == 0 && !is_at_rest);
    };
    check(0, "tick", true, true);
    check(0, "on 7 a", false, false);
    check(1, "push", false, false);
    check(2, "off 7 a", false, false);
    check(3, "on 7 b", false, false);
    check(4, "ack 7 b 1", false, false);
    check(5, "off 7 b", false, true);
    check(1_005, "tick", true, true);
}
