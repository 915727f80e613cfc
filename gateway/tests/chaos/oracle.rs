//! What has to be true in the end.

use std::collections::BTreeMap;

use barrage_wire::UpstreamFrame;
use barrage_wire::server::Code;

use crate::common::{Gateway, Told};
use crate::follower::{Follower, Numbered, Shed};
use crate::member::Member;
use crate::publisher::Said;
use crate::{GIFT, Place, ROOMS, STATE, STREAM, TAP};

/// Everything of a room that is on disk.
pub struct Past {
    pub said: BTreeMap<Place, Numbered>,
    pub head: Place,
}

/// By room.
pub type Truth = BTreeMap<u64, Past>;

/// Reads the whole history.
pub fn read(gateway: &Gateway) -> Truth {
    let mut upstream = gateway.upstream();
    let mut truth = Truth::new();
    for room in 1..=ROOMS {
        let mut past = Past { said: BTreeMap::new(), head: (0, 0) };
        let (mut epoch, mut from, mut first) = (0, 0, true);
        while std::mem::take(&mut first) || epoch != 0 {
            let request = upstream.next_request();
            let (since_ms, count) = (0, u16::MAX);
            upstream.send(&UpstreamFrame::History { request, room, epoch, from, since_ms, count });
            loop {
                match upstream.hear() {
                    Told::Past {
                        epoch,
                        seq,
                        frame,
                        category,
                        flags,
                        sender,
                        key,
                        count,
                        total,
                        payload,
                        ..
                    } => {
                        let numbered =
                            Numbered { frame, category, flags, sender, key, count, total, payload };
                        let before = past.said.insert((epoch, seq), numbered);
                        assert_eq!(before, None, "room {room}: pages overlap at {seq}");
                    }
                    Told::PastEnd { code, epoch: now, head, next, .. } => {
                        assert_eq!(code, Code::Ok, "room {room}");
                        past.head = (now, head);
                        (epoch, from) = next;
                        break;
                    }
                    other => panic!("not a part of a page: {other:?}"),
                }
            }
        }
        truth.insert(room, past);
    }
    truth
}

/// What was answered as stored is stored, once, and in order.
pub fn check_said(truth: &Truth, said: &[Said]) {
    for (publisher, said) in said.iter().enumerate() {
        let mut found = 0;
        for (room, past) in truth {
            let mut last = 0;
            let gifts = past.said.iter().filter(|(_, it)| it.category == GIFT);
            let own = format!(" of {publisher} in {room}").into_bytes();
            for (place, gift) in gifts.filter(|(_, gift)| gift.payload.ends_with(&own)) {
                let what = || format!("room {room}, {place:?}: {}", text(&gift.payload));
                let answered = said.gifts.get(&gift.payload);
                let &(to, seq, order) = answered.unwrap_or_else(|| panic!("{}", what()));
                assert_eq!((to, seq), (*room, place.1), "{}: another was answered", what());
                assert!(order > last, "{}: behind what was sent after it, or twice", what());
                last = order;
                found += 1;
            }
        }
        assert_eq!(found, said.gifts.len(), "publisher {publisher}: gifts that were stored");
    }
    let given = given(said);
    for (&room, past) in truth {
        check_taps(&format!("the history of room {room}"), room, past.said.values(), &given);
    }
}

fn given(said: &[Said]) -> BTreeMap<(u64, u64, u64), u64> {
    let mut given = BTreeMap::new();
    for (&gift, &count) in said.iter().flat_map(|said| &said.taps) {
        *given.entry(gift).or_default() += count;
    }
    given
}

fn check_taps<'a>(
    name: &str,
    room: u64,
    said: impl Iterator<Item = &'a Numbered>,
    given: &BTreeMap<(u64, u64, u64), u64>,
) {
    let mut got: BTreeMap<_, u64> = BTreeMap::new();
    for combo in said.filter(|it| it.category == TAP) {
        *got.entry((room, combo.sender, combo.key)).or_default() += u64::from(combo.count);
    }
    let given = given.iter().filter(|(gift, count)| gift.0 == room && **count > 0);
    let given: BTreeMap<_, _> = given.map(|(gift, count)| (*gift, *count)).collect();
    assert_eq!(got, given, "{name}: room, sender, gift and how many");
}

/// A member has everything, or was told what it has not.
pub fn check_member(truth: &Truth, said: &[Said], member: &Member) {
    for room in &member.rooms {
        let past = &truth[&room.room];
        check_owed(past, room, member.is_slow);
        check_came(past, room);
        room.sheds.iter().for_each(|shed| check_shed(past, room, shed, member.is_slow));
        if !member.is_slow {
            let came = room.came.iter().filter(|(place, _)| past.said.contains_key(place));
            check_taps(&room.name, room.room, came.map(|(_, it)| it), &given(said));
        }
        for (&(of, key), value) in said.iter().flat_map(|said| &said.states) {
            let got = room.states.get(&key).map(|(_, value)| text(value));
            let is = of != room.room || got == Some(text(value));
            assert!(is, "{}: key {key} is {got:?}, not {}", room.name, text(value));
        }
    }
}

fn check_owed(past: &Past, room: &Follower, is_slow: bool) {
    for (&place, said) in past.said.range(..=past.head).filter(|(place, _)| **place > room.since) {
        let what = || format!("{}: {place:?}, category {}", room.name, said.category);
        match room.came.get(&place) {
            Some(came) => assert_eq!(came, said, "{}: something else came", what()),
            None => {
                let declared = room.sheds.iter().any(|shed| shed.covers(place));
                assert!(declared, "{}: lost, and nobody said so", what());
                assert_ne!(said.category, GIFT, "{}: may not be dropped", what());
                assert!(is_slow, "{}: dropped for somebody who reads", what());
            }
        }
    }
}

fn check_came(past: &Past, room: &Follower) {
    for (&place, came) in &room.came {
        let stored_up_to = past.said.range((place.0, 0)..=(place.0, u64::MAX)).next_back();
        let is_lost = place.0 != past.head.0 && stored_up_to.is_none_or(|it| *it.0 < place);
        let is_said = past.said.contains_key(&place) || came.category == STREAM;
        let is_later = place > past.head;
        assert!(is_said || is_lost || is_later, "{}: {place:?} was never said", room.name);
    }
}

/// What was declared is what is missing.
fn check_shed(past: &Past, room: &Follower, shed: &Shed, is_slow: bool) {
    let &Shed { epoch, first, last, counts, is_cut } = shed;
    let mut missing = [0; 4];
    for seq in (first..=last).filter(|&seq| !room.came.contains_key(&(epoch, seq))) {
        // What is not on disk is of the one category that is not kept there.
        let category = past.said.get(&(epoch, seq)).map_or(STREAM, |said| said.category);
        missing[class(category)] += 1;
    }
    let exact = if is_cut { (0..4).all(|it| missing[it] <= counts[it]) } else { missing == counts };
    // Who comes back from an epoch whose end was lost has seen what is not there any more.
    let is_there = (epoch, last) <= past.head;
    assert!(exact || !is_there, "{}: {shed:?}, but missing are {missing:?}", room.name);
    let only_stream = counts[..3] == [0; 3];
    assert!(is_slow || only_stream, "{}: {shed:?} for somebody who reads", room.name);
}

fn class(category: u16) -> usize {
    match category {
        GIFT => 1,
        TAP => 2,
        _ => 3,
    }
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// What there was of it all.
pub fn summary(truth: &Truth, said: &[Said], members: &[Member], gateway: &Gateway) -> String {
    let stored: usize = truth.values().map(|past| past.said.len()).sum();
    let rooms = || members.iter().flat_map(|member| &member.rooms);
    let came: usize = rooms().map(|room| room.came.len()).sum();
    let gaps: usize = rooms().map(|room| room.gaps.len()).sum();
    let live = |room: &&Follower| room.sheds.iter().filter(|shed| shed.counts[2] > 0).count();
    let slow = members.iter().filter(|member| member.is_slow);
    let sheds: usize = slow.flat_map(|member| &member.rooms).map(|room| live(&room)).sum();
    let connections: u32 = members.iter().map(|member| member.connections).sum();
    let refused: u32 = members.iter().map(|member| member.refused).sum();
    let from_disk = gateway.metric("resumed_from_disk_total");
    let states = truth.values().flat_map(|past| past.said.values());
    let states = states.filter(|said| said.category == STATE).count();
    let sum = |of: fn(&Said) -> u64| said.iter().map(of).sum::<u64>();
    let [limited, repeated, duplicates] =
        [sum(|it| it.limited), sum(|it| it.repeated), sum(|it| it.duplicates)];
    format!(
        "{limited} publishes were over a limit, {repeated} were repeated, {duplicates} of those \
         were known; {stored} messages on disk ({states} states) came {came} times over \
         {connections} connections; {from_disk} resumed from disk, {gaps} were reset, slow readers \
         had {sheds} ranges with combos left out, {refused} times one was closed"
    )
}
