//! Tests of scenario files.

use std::time::Duration;

use super::{load, parse};
use crate::dialect::Protocol;
use crate::scenario::{
    Ack, Arrival, Churn, Disconnect, Mischief, PhaseKind, Rate, Scenario, Spread, StreamKind, To,
};

const SMALL: &str = r#"name = "small"
[clients]
count = 10
[streams.chat]
messages_per_s = 5
[[phases]]
name = "connect"
kind = "ramp"
[[phases]]
name = "steady"
secs = 20
"#;

fn read(text: &str, settings: &[&str]) -> Result<Scenario, String> {
    let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
    let loaded = parse(text, "f.toml", &settings).map_err(|error| error.to_string())?;
    Ok(loaded.scenario)
}

fn set(settings: &[&str]) -> Scenario {
    read(SMALL, settings).unwrap()
}

/// The problems of the small scenario with more behind it, in lines.
#[track_caller]
fn refused(text: &str, settings: &[&str], expected: &[&str]) {
    let said = read(text, settings).expect_err("something is wrong");
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

fn ns(seconds: f64) -> u64 {
    Duration::from_secs_f64(seconds).as_nanos() as u64
}

#[test]
fn what_is_not_said_has_its_default() {
    let scenario = set(&[]);
    let target = &scenario.target;
    let address = |port: u16| Some(([127, 0, 0, 1], port).into());
    assert_eq!(
        (target.tcp, target.ws, target.metrics),
        (address(7400), address(7401), address(7403))
    );
    assert_eq!(target.upstream.as_ref().unwrap().to_string(), "127.0.0.1:7402");
    assert_eq!((target.protocol, target.app, scenario.seed), (Protocol::Barrage, 1, 1));
    assert_eq!((scenario.clients.token.as_str(), scenario.rooms.count), ("open:{user}", 1));
    let chat = &scenario.streams[0];
    assert_eq!(
        (&chat.categories[..], chat.size, chat.ack),
        (&[(7, 1.0)][..], (128, 128), Ack::Accepted)
    );
    assert_eq!(scenario.phases[0].kind, PhaseKind::Ramp { to: 10, per_s: 0.0 });
    let steady = &scenario.phases[1];
    assert_eq!((steady.ns, steady.warmup_ns, &steady.streams[..]), (ns(20.0), ns(2.0), &[0][..]));
    assert_eq!((scenario.validity.busy_percent, scenario.validity.lag_p99_ms), (95.0, 5.0));
    assert_eq!((scenario.slo.failed_percent, scenario.slo.p99_ms), (0.0, None));
}

#[test]
fn everything_can_be_said() {
    let text = r#"
        name = "all"
        about = "Everything."
        seed = 9
        [target]
        host = "10.0.0.7"
        upstream = "unix:/run/barrage"
        metrics = "none"
        pid = 123
        app = 3
        [clients]
        count = 400
        ws_percent = 12.5
        source = ["10.0.0.1", "10.0.1.0/30"]
        token = "t-{user}"
        slow = { count = 2, bytes_per_s = 100, buffer_bytes = 2048 }
        misbehaving = { count = 3, acts_per_s = 0.5, kinds = ["garbage", "join-flood"] }
        [rooms]
        first = 100
        count = 40
        spread = "zipf"
        exponent = 1.2
        hot_percent = 10
        [streams.mixed]
        deliveries_per_s = 1000
        arrival = "poisson"
        to = "members"
        categories = [{ id = 4, weight = 3 }, { id = 5 }]
        size = [64, 256]
        ack = "stored"
        [streams.fast]
        window = 50
        to = "hot"
        [streams.bar]
        kind = "states"
        updates_per_s = 2.5
        keys = 3
        [streams.gifts]
        kind = "gifts"
        givers_per_room = 4
        burst_s = 0.5
        [[phases]]
        name = "up"
        kind = "ramp"
        clients = 200
        clients_per_s = 50
        secs = 30
        [[phases]]
        name = "rain"
        kind = "storm"
        secs = 8
        warmup_s = 1.5
        streams = ["bar", "mixed"]
        rate_factor = 2
        churn = { clients_per_s = 5, away_s = 3, resume = false, abrupt_percent = 50 }
        [[phases]]
        name = "flash"
        secs = 5
        streams = ["fast"]
        disconnect = { percent = 25, away_s = 0.5, clients_per_s = 20 }
        [slo]
        p999_ms = 40.5
        reconnect_s = 3
        lost_percent = 1
        [abort]
        p99_ms = 900
        intervals = 5
        [generator]
        workers = 1
        cores = [3, 4]
        publisher_core = 2
    "#;
    let scenario = read(text, &[]).unwrap();
    let target = &scenario.target;
    assert_eq!((target.tcp, target.metrics), (Some(([10, 0, 0, 7], 7400).into()), None));
    assert_eq!(target.upstream.as_ref().unwrap().to_string(), "unix:/run/barrage");
    assert_eq!(scenario.clients.sources.len(), 3);
    assert_eq!(scenario.clients.slow.unwrap().buffer_bytes, 2048);
    let kinds = scenario.clients.misbehaving.unwrap().kinds;
    assert_eq!(kinds, [Mischief::Garbage, Mischief::JoinFlood]);
    assert_eq!(scenario.rooms.spread, Spread::Zipf { exponent: 1.2 });
    let names: Vec<&str> = scenario.streams.iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!(names, ["mixed", "fast", "bar", "gifts"], "in the order of the file");
    let (rate, arrival, to) = (Rate::Deliveries(1000.0), Arrival::Poisson, To::Members);
    assert_eq!(scenario.streams[0].kind, StreamKind::Messages { rate, arrival, to });
    assert_eq!(scenario.streams[0].categories, [(4, 3.0), (5, 1.0)]);
    assert_eq!((scenario.streams[0].size, scenario.streams[0].ack), ((64, 256), Ack::Stored));
    assert_eq!(scenario.streams[2].kind, StreamKind::States { per_s: 2.5, keys: 3 });
    assert_eq!(scenario.streams[3].categories, [(3, 1.0)]);
    let [up, rain, flash] = &scenario.phases[..] else { panic!("three phases") };
    assert_eq!((up.kind, up.ns), (PhaseKind::Ramp { to: 200, per_s: 50.0 }, ns(30.0)));
    assert_eq!(
        (rain.kind, rain.warmup_ns, &rain.streams[..]),
        (PhaseKind::Storm, ns(1.5), &[2, 0][..])
    );
    let churn = Churn { clients_per_s: 5.0, away_ns: ns(3.0), resume: false, abrupt_percent: 50.0 };
    assert_eq!(rain.churn, Some(churn));
    let disconnect = Disconnect { percent: 25.0, away_ns: ns(0.5), resume: true, per_s: 20.0 };
    assert_eq!(flash.disconnect, Some(disconnect));
    assert_eq!((scenario.slo.p999_ms, scenario.abort.intervals), (Some(40.5), 5));
    assert_eq!(
        (scenario.generator.cores, scenario.generator.publisher_core),
        (vec![3, 4], Some(2))
    );
}

#[test]
fn settings_stand_as_if_in_the_file() {
    let scenario = set(&[
        "clients.count=100",
        "streams.chat.messages_per_s = 2.5",
        "phases.steady.secs=3",
        "phases.2.warmup_s=1",
        "slo.p99_ms=15",
        "target.tcp=127.0.0.1:99",
        "clients.slow.count=4",
        "clients.source=10.0.0.0/30",
        "about=in a few words",
        "name=\"quoted\"",
        "streams.chat.size=[16, 32]",
    ]);
    assert_eq!((scenario.clients.count, scenario.clients.slow.unwrap().count), (100, 4));
    assert!(matches!(
        scenario.streams[0].kind,
        StreamKind::Messages { rate: Rate::Messages(2.5), .. }
    ));
    assert_eq!((scenario.phases[1].ns, scenario.phases[1].warmup_ns), (ns(3.0), ns(1.0)));
    assert_eq!((scenario.slo.p99_ms, scenario.streams[0].size), (Some(15.0), (16, 32)));
    assert_eq!((scenario.name.as_str(), scenario.about.as_str()), ("quoted", "in a few words"));
    assert_eq!(scenario.clients.sources.len(), 2);
}

#[test]
fn every_mistake_is_said_with_its_line() {
    let text = r#"nam = "x"
seed = -1
[clients]
cuont = 5
ws_percent = 101
[streams.chat]
messages_per_s = "many"
size = 15
[streams.odd]
messages_per_s = 1
window = 3
colour = "red"
[[phases]]
name = "a"
kind = "rampe"
[phases.churn]
[[phases]]
secs = 5
streams = ["chta", 7]
[slo]
p99_ms = true
"#;
    let said = read(text, &[]).unwrap_err();
    let expected = [
        "f.toml:1: name: missing; it has no default",
        "f.toml:1: nam: no such field; did you mean `name`?",
        "f.toml:2: seed: -1 is out of range; 0 to 9223372036854775807 is allowed",
        "f.toml:3: clients.count: missing; it has no default",
        "f.toml:4: clients.cuont: no such field; did you mean `count`?",
        "f.toml:5: clients.ws_percent: 101 is out of range; 0 to 100 is allowed",
        "f.toml:7: streams.chat.messages_per_s: \"many\" is not a number",
        "f.toml:8: streams.chat.size: 15 is out of range; 16 to 16384 is allowed",
        "f.toml:10: streams.odd.messages_per_s: give exactly one of messages_per_s, \
         deliveries_per_s and window",
        "f.toml:12: streams.odd.colour: no such field here; there are `kind`, `messages_per_s`, \
         `deliveries_per_s`, `window`, `arrival`, `to`, `category`, `categories`, `size`, `ack`",
        "f.toml:13: phases.a: nobody is connected yet: the first phase is one of kind = \"ramp\"",
        "f.toml:13: phases.a.secs: missing; it has no default",
        "f.toml:15: phases.a.kind: \"rampe\" is not a kind; say \"ramp\", \"steady\" or \"storm\"",
        "f.toml:16: phases.a.churn.clients_per_s: missing; it has no default",
        "f.toml:17: phases.2.name: missing; it has no default",
        "f.toml:19: phases.2.streams: no stream \"chta\"; did you mean `chat`?",
        "f.toml:19: phases.2.streams: no stream 7; there are `chat`, `odd`",
        "f.toml:21: slo.p99_ms: true is not a number",
    ];
    let mut said: Vec<&str> = said.lines().collect();
    let mut expected = expected.to_vec();
    said.sort_unstable();
    expected.sort_unstable();
    assert_eq!(said, expected);
}

#[test]
fn a_wrong_setting_is_named() {
    refused(
        SMALL,
        &["clients.cuont=1", "phases.staedy.secs=2", "clients.count", "streams.caht.window=1"],
        &[
            "--set phases.staedy.secs=2: there is no phase `staedy`; did you mean `steady`?",
            "--set clients.count: give key=value, such as clients.count=100",
            "--set streams.caht.window=1: there is no stream `caht`; did you mean `chat`?",
            "--set clients.cuont=1: clients.cuont: no such field; did you mean `count`?",
        ],
    );
    refused(
        SMALL,
        &["phases.steady.secs=long", "seed.x=1", "slo={ p50_ms = -1 }"],
        &[
            "--set phases.steady.secs=long: phases.steady.secs: \"long\" is not a number",
            "--set seed.x=1: seed: a table is not a whole number",
            "--set slo={ p50_ms = -1 }: slo.p50_ms: -1 is out of range; 0 to 600000 is allowed",
        ],
    );
    refused(
        SMALL,
        &["seed=1\nname=\"x\""],
        &["--set seed=1", "name=\"x\": it is more than one value"],
    );
}

#[test]
fn what_does_not_go_together_is_refused() {
    let says = |settings: &[&str], part: &str| {
        let said = read(SMALL, settings).expect_err(part);
        assert!(said.contains(part) && said.lines().count() == 1, "{said}");
    };
    says(&["rooms.per_client=2"], "rooms.per_client: a client joins different rooms");
    says(&["rooms.count=11"], "rooms.count: 11 rooms are more than 10 memberships can fill");
    says(&["rooms.exponent=2"], "rooms.exponent: it needs spread = \"zipf\"");
    says(&["rooms.per_client=65"], "65 is out of range; 1 to 64 is allowed");
    says(&["streams.chat.category=1", "streams.chat.categories=[{ id = 2 }]"], "not both");
    says(&["phases.connect.clients=11"], "phases.connect.clients: there are only 10 clients");
    let falls = "phases=[{ name = \"a\", kind = \"ramp\" }, \
                 { name = \"b\", kind = \"ramp\", clients = 5 }]";
    says(&[falls], "10 are connected by then, and a ramp only rises");
    assert_eq!(set(&["phases.steady.secs=100"]).phases[1].warmup_ns, ns(2.0));
    says(&["phases.steady.warmup_s=20"], "must leave something to measure");
    says(&["phases.steady.name=connect"], "another phase has the same name");
    says(&["phases.steady.streams=[]", "slo.p99_ms=5"], "slo.p99_ms: no phase publishes anything");
    says(&["slo.reconnect_s=5"], "no phase has a `disconnect`");
    says(
        &["slo.target_cpu_percent=50", "target.metrics=none"],
        "give target.metrics or target.pid",
    );
    says(&["abort.intervals=5"], "it goes with p99_ms");
    says(&["generator.workers=3", "generator.cores=[1]"], "3 workers need a core each");
    says(&["clients.misbehaving={ count = 1, kinds = [] }"], "name at least one");
    let states = "streams.chat={ kind = \"states\" }";
    says(&[states, "rooms.count=4", "rooms.per_client=2"], "rooms.per_client = 1 only");
    let gifts = "streams.chat={ kind = \"gifts\", givers_per_room = 20 }";
    says(&[gifts], "givers are members, and a room has about 10");
    let crowd = "streams={ a = { kind = \"gifts\", givers_per_room = 4000000 }, \
                 b = { kind = \"gifts\", givers_per_room = 4000000 } }";
    says(&[crowd, "clients.count=4000000"], "8000000 givers in all its rooms");
    let stored = "streams.chat={ kind = \"states\", ack = \"stored\" }";
    says(&[stored], "what is merged is not stored");
    let two = format!("{SMALL}[streams.other]\nwindow = 3\n");
    let said = read(&two, &[]).unwrap_err();
    assert!(
        said.contains("phases.steady.streams: a stream with a window leaves nothing"),
        "{said}"
    );
}

#[test]
fn other_protocols_get_their_ports_and_no_more_than_they_can_do() {
    for (protocol, port) in [("mqtt", 1883), ("nats", 4222), ("redis", 6379), ("ws-raw", 80)] {
        let scenario = set(&[&format!("target.protocol={protocol}")]);
        let target = scenario.target;
        assert_eq!(target.tcp, Some(([127, 0, 0, 1], port).into()));
        assert_eq!(target.upstream.unwrap().to_string(), format!("127.0.0.1:{port}"));
        assert_eq!((target.ws, target.metrics), (None, None));
    }
    let says = |settings: &[&str], part: &str| {
        let said = read(SMALL, &[&["target.protocol=mqtt"], settings].concat()).expect_err(part);
        assert!(said.contains(part) && said.contains("only \"barrage\" can"), "{said}");
    };
    says(&["target.ws=127.0.0.1:1"], "target.ws");
    says(&["clients.ws_percent=5"], "clients.ws_percent");
    says(&["clients.slow.count=1"], "clients.slow");
    says(&["clients.misbehaving.count=1"], "clients.misbehaving");
    says(&["rooms.count=2", "rooms.per_client=2"], "rooms.per_client");
    says(&["streams.chat={ kind = \"states\" }"], "streams.chat.kind");
    says(&["streams.chat.ack=stored"], "streams.chat.ack");
    says(
        &["phases.steady.churn={ clients_per_s = 1, resume = true }"],
        "phases.steady.churn.resume",
    );
    let fine = set(&["target.protocol=mqtt", "phases.steady.churn={ clients_per_s = 1 }"]);
    assert!(!fine.phases[1].churn.unwrap().resume);
    let raw = ["target.protocol=ws-raw", "rooms.count=2", "target.publish_path=/pub"];
    let said = read(SMALL, &raw).unwrap_err();
    assert!(said.contains("target.publish_path: there are several rooms, and no {room}"), "{said}");
}

#[test]
fn what_is_no_scenario_is_said() {
    let said = |text: &str| read(text, &[]).unwrap_err();
    let twice = said("name = \n[clients");
    let lines: Vec<&str> = twice.lines().map(|line| line.split_at(24).0).collect();
    assert_eq!(lines, ["f.toml:1: this is not TO", "f.toml:2: this is not TO"], "{twice}");
    assert!(said("").contains("phases: missing"), "{}", said(""));
    let loaded = |name: &str| load(name, &[]).unwrap_err().to_string();
    assert_eq!(
        loaded("headline-30k"),
        "there is no scenario `headline-30k`; did you mean `headline-300k`?"
    );
    assert!(loaded("zzz").contains("give the path of a file, or one of headline-300k, "));
    assert!(loaded("./nothing.toml").starts_with("./nothing.toml: cannot be read"));
}

#[test]
fn no_bytes_make_it_panic() {
    let text = include_str!("../../../scenarios/class-replay.toml");
    let mut random = crate::random::Random::new(5);
    for _ in 0..3000 {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes[at] = random.next() as u8 & 0x7f,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"[]{}=.\"\n9-"[random.below(10) as usize]),
            }
        }
        // Whatever comes of it, it is a scenario or a list of lines.
        if let Err(said) = read(str::from_utf8(&bytes).unwrap(), &[]) {
            assert!(said.lines().all(|line| line.starts_with("f.toml:") || !line.is_empty()));
        }
    }
}

/// The reference: its example works, and it has every key.
#[test]
fn the_reference_is_complete() {
    let reference = include_str!("../../../SCENARIOS.md");
    let (_, example) = reference.split_once("```toml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let scenario = read(example, &[]).unwrap();
    assert_eq!((scenario.name.as_str(), scenario.phases.len()), ("evening", 3));
    for ready in crate::scenario::library::READY {
        assert!(reference.contains(&format!("| `{}` |", ready.name)), "{}", ready.name);
    }
    // Every table says what may be in it when something else is: so the keys are known.
    let kinds = [
        "streams.chat={ kind = \"gifts\", zz9zzz = 1 }",
        "streams.chat={ kind = \"states\", zz9zzz = 1 }",
    ];
    let tables = [
        "",
        "target.",
        "clients.",
        "clients.slow.",
        "clients.misbehaving.",
        "rooms.",
        "streams.chat.",
        "phases.connect.",
        "phases.steady.",
        "phases.steady.churn.",
        "phases.steady.disconnect.",
        "slo.",
        "validity.",
        "abort.",
        "generator.",
    ];
    let settings = tables.iter().map(|table| format!("{table}zz9zzz=1"));
    let mut keys = 0;
    for setting in settings.chain(kinds.map(str::to_owned)) {
        let said = read(SMALL, &[&setting]).expect_err("there is no such key");
        let line = said.lines().find(|line| line.contains("zz9zzz: no such")).unwrap();
        let (_, known) = line.split_once("there are ").unwrap();
        for key in known.split(", ") {
            keys += 1;
            let inline = key.trim_matches('`');
            let section = format!("[{inline}]");
            let mut cells = reference.lines().filter_map(|line| line.split('|').nth(1));
            let named = cells.any(|cell| cell.contains(key))
                || reference.contains(&section)
                || reference.contains(&format!(".{inline}]"))
                || reference.contains(&format!("[{inline}."));
            assert!(named, "{key} of {setting}");
        }
    }
    assert!(keys > 80, "{keys}");
}
