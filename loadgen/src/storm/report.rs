//! What a storm has come to, held against what was published.

use serde::Serialize;

use crate::network::Outcome;
use crate::report::{Lines, grouped};
use crate::storm::publisher::{Stormed, Told};
use crate::watch::Watch;

/// What one room's first member has seen of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RoomFrames {
    /// The room.
    pub room: u64,
    /// Messages that were published to it.
    pub published: u64,
    /// Numbered frames that each member was to get.
    pub frames: u64,
    /// `Message` frames that the first member has seen.
    pub messages: u64,
    /// `Combo` frames.
    pub combos: u64,
    /// `State` frames.
    pub states: u64,
}

/// What `storm` reports beside what all runs do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StormReport {
    /// Pairs of rooms.
    pub pairs: u32,
    /// Members who give, in each room.
    pub senders: u32,
    /// The storm.
    pub seed: u64,
    /// The categories of gifts, scores and chat.
    pub categories: [u16; 3],
    /// Gifts.
    pub taps: Told,
    /// Scores.
    pub states: Told,
    /// Chat.
    pub chats: Told,
    /// Messages published to all rooms.
    pub messages_in: u64,
    /// Numbered frames of all rooms, without the one that ends each: what one member of every room
    /// would get.
    pub frames_out: u64,
    /// Of these, `Message` frames that the first members have seen.
    pub messages_out: u64,
    /// `Combo` frames.
    pub combos_out: u64,
    /// `State` frames.
    pub states_out: u64,
    /// Messages in for each frame out.
    pub in_per_out: Option<f64>,
    /// Bytes that the gateway has sent to all clients from the beginning of the storm.
    pub bytes_out: u64,
    /// Each room.
    pub rooms: Vec<RoomFrames>,
    /// Rooms whose first member has missed nothing, so that its totals can be checked.
    pub checked: u64,
    /// Of these, rooms in which it has counted other than so many taps as were let in.
    pub totals_wrong: u64,
    /// Of these, rooms in which the last score that it has is not the last that was let in.
    pub states_wrong: u64,
    /// Taps that were answered `Ok` or `Merged`.
    pub taps_let_in: u64,
    /// Taps that first members have counted.
    pub taps_counted: u64,
}

impl StormReport {
    /// Holds what members have seen against what was let in. `room` is the first one's id.
    pub fn new(stormed: &Stormed, outcome: &Outcome, room: u64) -> Self {
        let world = &outcome.world;
        let [taps, states, chats] = stormed.told;
        let messages_in = stormed.all().published;
        let bytes_before = outcome.marks[0].received_bytes;
        let bytes_out = world.received_bytes - bytes_before;
        let mut this = Self { taps, states, chats, messages_in, bytes_out, ..Self::default() };
        let rooms = stormed.rooms.iter().zip(&world.rooms).zip(world.watches.values());
        for (number, ((place, book), watch)) in (room..).zip(rooms) {
            let whole = place.last_seq.saturating_sub(book.head);
            let Watch { messages, combos, states, .. } = *watch;
            // The message that ends the room is no part of the storm.
            let frames = whole.saturating_sub(1);
            let published = place.published;
            this.rooms.push(RoomFrames {
                room: number,
                published,
                frames,
                messages,
                combos,
                states,
            });
            this.frames_out += frames;
            this.messages_out += messages;
            this.combos_out += combos;
            this.states_out += states;
            this.taps_let_in += place.taps;
            this.taps_counted += watch.taps;
            if watch.ended && watch.frames() == whole {
                this.checked += 1;
                this.totals_wrong += u64::from(watch.taps != place.taps);
                this.states_wrong += u64::from(watch.last_state != place.last_state);
            }
        }
        this.in_per_out =
            (this.frames_out > 0).then(|| messages_in as f64 / this.frames_out as f64);
        this
    }

    /// Rooms that were told something wrong.
    pub fn wrong(&self) -> u64 {
        self.totals_wrong + self.states_wrong
    }

    /// Lines for people.
    pub fn put(&self, lines: &mut Lines) {
        let count = |number: u64| grouped(number as f64);
        lines.put("pairs", format!("{}, {} senders a room", self.pairs, self.senders));
        for (name, told) in [("taps", self.taps), ("scores", self.states), ("chat", self.chats)] {
            let Told { published, ok, merged, limited, refused, .. } = told;
            let mut text = format!("{} in: {} ok", count(published), count(ok));
            for (number, what) in [(merged, "merged"), (limited, "limited"), (refused, "refused")] {
                if number > 0 {
                    text += &format!(", {} {what}", count(number));
                }
            }
            lines.put(name, text);
        }
        lines.put(
            "frames out",
            format!(
                "{} of {} rooms for {} messages in: {} Message, {} Combo, {} State",
                count(self.frames_out),
                self.rooms.len(),
                count(self.messages_in),
                count(self.messages_out),
                count(self.combos_out),
                count(self.states_out)
            ),
        );
        if let Some(ratio) = self.in_per_out {
            lines.put("in / out", format!("{ratio:.2}"));
        }
        lines.put("bytes out", count(self.bytes_out));
        lines.put(
            "totals",
            format!(
                "{} of {} rooms checked, {} wrong in gifts, {} in scores",
                self.checked,
                self.rooms.len(),
                self.totals_wrong,
                self.states_wrong
            ),
        );
    }
}
