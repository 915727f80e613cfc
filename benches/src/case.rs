//! What is run: sets of cases, and each case's arguments for both programs.

use clap::ValueEnum;

/// A group of figures that are measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Set {
    /// One send per delivery: the gateway against a bare send loop.
    Ceiling,
    /// As fast as it goes.
    Batched,
    /// 2,000 members at 150 messages a second: TCP, WebSocket, and paced.
    Headline,
    /// The headline's TCP run without a policy's limits, with those that are built in, and with
    /// everything that a policy can say.
    Policy,
    /// Gifts, scores and chat in PK rooms, merged and as they are.
    Storm,
    /// A million connections and one broadcast to all of them.
    Million,
    /// A million rooms of one member each.
    Rooms,
    /// What connections cost that say nothing.
    Idle,
    /// Client to upstream and back.
    Uplink,
    /// Publishes that are answered when they are on disk, against those that need not be.
    History,
    /// All of the above.
    All,
}

impl Set {
    /// Every set that has cases of its own.
    pub const EACH: [Self; 10] = [
        Self::Ceiling,
        Self::Batched,
        Self::Headline,
        Self::Policy,
        Self::Storm,
        Self::Million,
        Self::Rooms,
        Self::Idle,
        Self::Uplink,
        Self::History,
    ];

    /// The sets that `asked` stands for: each once, in the order of `EACH`; nothing asks for all.
    pub fn chosen(asked: &[Self]) -> Vec<Self> {
        let all = asked.is_empty() || asked.contains(&Self::All);
        Self::EACH.into_iter().filter(|set| all || asked.contains(set)).collect()
    }

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling",
            Self::Batched => "batched",
            Self::Headline => "headline",
            Self::Policy => "policy",
            Self::Storm => "storm",
            Self::Million => "million",
            Self::Rooms => "rooms",
            Self::Idle => "idle",
            Self::Uplink => "uplink",
            Self::History => "history",
            Self::All => "all",
        }
    }
}

/// A policy in which nothing is left out and nothing is reached.
const POLICY_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/policy.toml");

/// How big the cases are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Members of the room.
    pub members: u32,
    /// Clients that send uplinks.
    pub clients: u32,
    /// Seconds that are measured.
    pub secs: f64,
    /// Connections of `million`.
    pub million: u32,
    /// Seconds that they are held.
    pub million_hold_s: f64,
    /// Connections of `idle`.
    pub idle: u32,
    /// Seconds that they are held.
    pub idle_hold_s: f64,
    /// Pairs of rooms of `storm`, members of each room, and those of them who give.
    pub storm: [u32; 3],
    /// Clients of `rooms`, and rooms that each joins.
    pub rooms: [u32; 2],
    /// Seconds that they are held.
    pub rooms_hold_s: f64,
    /// Rooms of `history`, where it is not one.
    pub history_rooms: u32,
}

impl Scale {
    /// The sizes that the figures are promised for.
    pub const FULL: Self = Self {
        members: 2_000,
        clients: 200,
        secs: 8.0,
        million: 1_000_000,
        million_hold_s: 60.0,
        idle: 100_000,
        idle_hold_s: 40.0,
        storm: [5, 1_000, 100],
        rooms: [20_000, 50],
        rooms_hold_s: 20.0,
        history_rooms: 1_000,
    };

    /// Runs in seconds; its figures mean nothing.
    pub const SMALL: Self = Self {
        members: 50,
        clients: 10,
        secs: 1.0,
        million: 200,
        million_hold_s: 2.0,
        idle: 200,
        idle_hold_s: 4.0,
        storm: [1, 10, 3],
        rooms: [20, 5],
        rooms_hold_s: 0.4,
        history_rooms: 20,
    };
}

/// How clients reach the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Frames on a TCP connection.
    Tcp,
    /// Frames in WebSocket messages.
    Ws,
}

/// The gateway that a case needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// What it is started with, beside its addresses, cores and directory.
    pub options: &'static [&'static str],
    /// How many cores it may use, if the machine has them.
    pub cores: usize,
    /// Whether it has a directory for what is to be kept: a new one, in the temporary directory.
    pub data: bool,
    /// How clients reach it.
    pub transport: Transport,
    /// Whether the load generator is also its upstream.
    pub upstream: bool,
}

/// One run of the load generator.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// What it belongs to.
    pub set: Set,
    /// Its name within the set.
    pub name: &'static str,
    /// None: the load generator runs alone.
    pub target: Option<Target>,
    /// The load generator's arguments, without addresses.
    pub load: Vec<String>,
    /// The gateway's processor share is taken in the middle of a hold of so many seconds.
    pub hold_s: Option<f64>,
}

/// The cases of a set, in the order in which every repeat runs them.
pub fn cases(set: Set, scale: &Scale) -> Vec<Case> {
    let Scale { members, clients, secs, .. } = scale;
    let room =
        |rate: u32| format!("room --members {members} --size 128 --secs {secs} --rate {rate}");
    let case = |name, target, load: String| Case {
        set,
        name,
        target,
        load: load.split_whitespace().map(str::to_owned).collect(),
        hold_s: None,
    };
    match set {
        Set::Ceiling => vec![
            case("limit", None, format!("limit --members {members} --size 128 --secs {secs}")),
            case(
                "gateway",
                tcp(&["--frames-per-send", "1"], true),
                format!("{} --window 512", room(0)),
            ),
        ],
        Set::Batched => vec![case("room", tcp(&[], true), room(0))],
        Set::Headline => vec![
            case("tcp", tcp(&[], true), room(150)),
            case(
                "ws",
                tcp(&[], true).map(|target| Target { transport: Transport::Ws, ..target }),
                room(150),
            ),
            case("paced", tcp(&["--pace", "0.5"], true), room(150)),
        ],
        Set::Policy => vec![
            case("stream", tcp(&[], true), format!("{} --category 7", room(150))),
            case("chat", tcp(&[], true), format!("{} --category 4", room(150))),
            case(
                "all",
                tcp(&["--policy", POLICY_FILE], true),
                format!("{} --category 4", room(150)),
            ),
        ],
        Set::Storm => storm(scale),
        Set::Rooms => {
            let ([clients, rooms], hold_s) = (scale.rooms, scale.rooms_hold_s);
            let load = format!("connect --count {clients} --rooms-per-client {rooms}");
            let target = tcp(&[], false).map(|target| Target { cores: 2, ..target });
            vec![case("join", target, format!("{load} --hold {hold_s}"))]
        }
        Set::History => history(scale),
        Set::Million => {
            let (count, hold_s) = (scale.million, scale.million_hold_s);
            let load = format!("connect --count {count} --hold {hold_s} --one-room");
            vec![case("connect", tcp(&[], true), format!("{load} --then-broadcast"))]
        }
        Set::Idle => {
            let (count, hold_s) = (scale.idle, scale.idle_hold_s);
            let load = format!("connect --count {count} --hold {hold_s}");
            vec![Case { hold_s: Some(hold_s), ..case("hold", tcp(&[], false), load) }]
        }
        Set::Uplink => vec![case(
            "uplink",
            tcp(&["--client-frames-per-second", "60000"], true),
            format!("uplink --clients {clients} --window 4 --size 128 --secs {secs}"),
        )],
        Set::All => Vec::new(),
    }
}

/// The same storm twice: its seed makes the same publishes at the same times.
fn storm(scale: &Scale) -> Vec<Case> {
    let Scale { storm: [pairs, members, senders], secs, .. } = scale;
    let case = |name, options: &str| {
        let load = format!("storm --rooms {pairs} --members {members} --senders {senders}");
        let load = format!("{load} --size 128 --secs {secs} {options}");
        let load = load.split_whitespace().map(str::to_owned).collect();
        Case { set: Set::Storm, name, target: tcp(&[], true), load, hold_s: None }
    };
    vec![case("merged", ""), case("plain", "--no-merge")]
}

/// Chat, which the built-in policy keeps on disk, to rooms of one member each. As fast as a window
/// of unanswered publishes allows, and at a rate that leaves the disk time.
fn history(scale: &Scale) -> Vec<Case> {
    let Scale { secs, history_rooms, .. } = scale;
    let pace = "--rate 1000";
    let full = "--rate 0 --window 512";
    let case = |name, rooms: u32, pace: &str, ack: &str| {
        let load = format!("room --members {rooms} --rooms {rooms} --size 128 --secs {secs}");
        let load = format!("{load} --category 4 {pace} --ack {ack}");
        Case {
            set: Set::History,
            name,
            target: tcp(&[], true).map(|target| Target { data: true, ..target }),
            load: load.split_whitespace().map(str::to_owned).collect(),
            hold_s: None,
        }
    };
    vec![
        case("accepted", 1, full, "accepted"),
        case("stored", 1, full, "stored"),
        case("accepted-rooms", *history_rooms, full, "accepted"),
        case("stored-rooms", *history_rooms, full, "stored"),
        case("accepted-paced", 1, pace, "accepted"),
        case("stored-paced", 1, pace, "stored"),
    ]
}

fn tcp(options: &'static [&'static str], upstream: bool) -> Option<Target> {
    Some(Target { options, cores: 1, data: false, transport: Transport::Tcp, upstream })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_chosen_once_and_in_order() {
        let check = |asked: &[Set], chosen: &[Set]| assert_eq!(Set::chosen(asked), chosen);
        check(&[], &Set::EACH);
        check(&[Set::Idle, Set::All], &Set::EACH);
        check(&[Set::Uplink, Set::Idle, Set::Uplink], &[Set::Idle, Set::Uplink]);
    }

    #[test]
    fn every_set_has_cases_with_names_of_their_own() {
        for set in Set::EACH {
            let cases = cases(set, &Scale::FULL);
            assert!(!cases.is_empty(), "{}", set.name());
            for (at, case) in cases.iter().enumerate() {
                assert!(cases[..at].iter().all(|other| other.name != case.name));
            }
        }
    }

    #[test]
    fn a_case_is_spelled_as_the_load_generator_expects() {
        let cases = cases(Set::Ceiling, &Scale::FULL);
        assert_eq!(cases[0].load.join(" "), "limit --members 2000 --size 128 --secs 8");
        let room = "room --members 2000 --size 128 --secs 8 --rate 0 --window 512";
        assert_eq!(cases[1].load.join(" "), room);
    }
}
