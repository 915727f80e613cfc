//! The policy file: what is wrong with it is said, it is replaced while everybody stays, and its
//! word lists are looked into.

mod common;

use barrage_wire::server::Code;
use barrage_wire::upstream::{AckMode, PublishHead, events};

use common::gateway::run;
use common::{
    APP, CHAT, Client, Gateway, Said, TempDir, Told, Upstream, Via, on_one_and_two_shards,
};

const USER: u64 = 1;
const CHANNEL: u16 = 3;

/// A policy with one category, in which so many a second may be said.
fn chat(limit: &str) -> String {
    format!(
        "[[category]]\nid = 4\nname = \"chat\"\nclass = \"P3\"\nlimits = [{0}, {0}, {0}, {0}]\n",
        format_args!("\"{limit}\"")
    )
}

/// Two problems, in lines 2 and 5.
const BAD: &str = "[inbox]\ntries = 0\n\n[devices]\nwbe = 1\n";
const PROBLEMS: [&str; 2] = [":2: ", ":5: "];

#[test]
fn a_bad_file_is_refused_with_every_problem_and_its_line() {
    let dir = TempDir::new("bad-policy");
    let policy = dir.file("policy.toml", BAD);
    let (status, stdout, stderr) = run(&["--policy", &policy]);
    assert!(!status.success());
    assert!(!stdout.contains("ready"));
    for line in PROBLEMS {
        let says = format!("{policy}{line}");
        assert!(stderr.contains(&says), "{says:?} is not in {stderr:?}");
    }
    for name in ["tries", "wbe", "web"] {
        assert!(stderr.contains(name), "{name} is not in {stderr:?}");
    }
}

#[test]
fn the_policy_that_is_printed_is_one_to_begin_with() {
    let (status, printed, _) = run(&["--print-policy"]);
    assert!(status.success());
    let dir = TempDir::new("printed-policy");
    let policy = dir.file("policy.toml", &printed);
    let gateway = Gateway::start("0", &["--policy", &policy]);
    let mut client = gateway.client(Via::Tcp, USER);
    let room = client.join(7);
    let request = client.publish(room.alias, CHAT, b"hello");
    assert_eq!(client.reply(request).0, Code::Ok);
    assert_eq!(gateway.category_metric("admitted", "chat"), 1, "categories have their names");
}

/// How often something is said before it is too often; three times at most.
fn says(client: &mut Client, alias: u32) -> Vec<Code> {
    let requests: Vec<u32> = (0..3).map(|_| client.publish(alias, CHAT, b"again")).collect();
    requests.into_iter().map(|request| client.reply(request).0).collect()
}

const FREE: [Code; 3] = [Code::Ok; 3];

#[test]
fn a_policy_is_replaced_while_everybody_stays() {
    for cores in ["0", "0-1"] {
        let dir = TempDir::new("reload");
        let policy = dir.file("policy.toml", &chat("unlimited"));
        let mut gateway = Gateway::start(cores, &["--policy", &policy]);
        let mut clients: Vec<_> = (0..8).map(|n| gateway.client(Via::BOTH[n % 2], USER)).collect();
        let rooms: Vec<_> = (1..).zip(&mut clients).map(|(id, it)| it.join(id)).collect();
        let mut all_say = |expected: &[Code]| {
            for (client, room) in clients.iter_mut().zip(&rooms) {
                assert_eq!(says(client, room.alias), expected, "room {}", room.room);
            }
        };
        all_say(&FREE);
        dir.file("policy.toml", &chat("1/s"));
        assert_eq!(gateway.post("/policy/reload"), (200, "the policy is in force\n".to_owned()));
        // It holds everywhere when it is answered.
        all_say(&[Code::Ok, Code::Limited, Code::Limited]);

        dir.file("policy.toml", BAD);
        let (status, text) = gateway.post("/policy/reload");
        assert_eq!(status, 422);
        for line in PROBLEMS {
            assert!(text.contains(&format!("{policy}{line}")), "{text:?}");
        }
        gateway.hang_up();
        gateway.until_metric("policy_refused_total", |refused| refused == 2);
        assert_eq!(gateway.metric("policy_reloads_total"), 1);
        // The one before is in force: nobody may say three things in one moment.
        let mut newcomer = gateway.client(Via::Tcp, USER);
        let alias = newcomer.join(99).alias;
        assert_eq!(says(&mut newcomer, alias), [Code::Ok, Code::Limited, Code::Limited]);

        dir.file("policy.toml", &chat("unlimited"));
        gateway.hang_up();
        gateway.until_metric("policy_reloads_total", |reloads| reloads == 2);
        // A shard that was asked for numbers has done what it was asked before.
        gateway.metrics();
        all_say(&FREE);

        // A category that is gone.
        dir.file("policy.toml", &chat("unlimited").replace("id = 4", "id = 9"));
        assert_eq!(gateway.post("/policy/reload").0, 200);
        all_say(&[Code::UnknownCategory; 3]);
        assert_eq!(gateway.page("/policy/reload").map(|(status, _)| status), Some(405));
        assert_eq!(gateway.metric("clients"), 9, "everybody has stayed");

        gateway.terminate();
        drop((clients, newcomer));
        assert!(gateway.wait(std::time::Instant::now() + 2 * common::SOON).success());
        let log = gateway.end_of_log();
        let refused = log.lines().filter(|line| line.contains("ERROR"));
        assert_eq!(refused.count(), 2, "{log}");
        for says in ["the policy stays what it was", ":2: ", ":5: ", "is in force"] {
            assert!(log.contains(says), "{says:?} is not in {log}");
        }
    }
}

#[test]
fn without_a_file_there_is_nothing_to_be_read_again() {
    let mut gateway = Gateway::start("0", &[]);
    let (status, text) = gateway.post("/policy/reload");
    assert_eq!(status, 409);
    assert!(text.contains("--policy"), "{text:?}");
    gateway.hang_up();
    assert!(gateway.client(Via::Tcp, USER).ping().is_empty());
    gateway.assert_alive();
}

/// How much of the history is kept is part of the policy.
#[test]
fn what_is_kept_of_the_history_follows_the_policy() {
    const MESSAGES: u64 = 40;
    let dir = TempDir::new("retention");
    let data = TempDir::new("retention-data");
    let policy = dir.file("policy.toml", &chat("unlimited"));
    let gateway = Gateway::start_in(&data, "0-1", &["--policy", &policy]);
    let mut upstream = gateway.upstream();
    let say = |upstream: &mut Upstream| {
        let head = PublishHead { ack: AckMode::Stored, ..upstream.head() };
        assert_eq!(upstream.publish_to_room(head, 7, b"for later").0, Code::Ok);
    };
    (0..MESSAGES).for_each(|_| say(&mut upstream));
    assert_eq!(gateway.metric("history_records"), MESSAGES);
    dir.file("policy.toml", &format!("{}keep-count = 5\n", chat("unlimited")));
    assert_eq!(gateway.post("/policy/reload").0, 200);
    gateway.until_metric("history_records", |records| records <= 5);
    assert_eq!(upstream.say_to_room(7, b"numbers go on"), (Code::Ok, MESSAGES + 1));
}

/// The list of each action, for the tests' app and, with other words, for another one.
fn words(action: &str) -> String {
    format!(
        "[[filter]]\napp = {APP}\nwords = [\"darn\", \"heck\"]\n\
         action = \"{action}\"\nuplinks = true\n\
         [[filter]]\napp = {}\nwords = [\"fine\"]\naction = \"reject\"\n",
        APP + 1
    )
}

/// What a member hears and a service is told when a client says something.
struct Listeners {
    speaker: Client,
    alias: u32,
    member: Client,
    member_alias: u32,
    service: Upstream,
}

impl Listeners {
    fn new(gateway: &Gateway) -> Self {
        let mut speaker = gateway.client(Via::Tcp, USER);
        let mut member = gateway.client(Via::WebSocket, USER + 1);
        let (alias, member_alias) = (speaker.join(7).alias, member.join(7).alias);
        let mut service = gateway.upstream();
        service.subscribe(events::FLAGGED, "", &[CHANNEL]);
        Self { speaker, alias, member, member_alias, service }
    }

    /// Says it in a room: what it is answered, and what the member hears.
    fn publish(&mut self, text: &[u8]) -> (Code, Option<Vec<u8>>) {
        let request = self.speaker.publish(self.alias, CHAT, text);
        let code = self.speaker.reply(request).0;
        let heard = (code == Code::Ok).then(|| self.member.message(self.member_alias).1);
        (code, heard)
    }
}

#[test]
fn words_are_masked_or_refused() {
    let dir = TempDir::new("words");
    let policy = dir.file("policy.toml", &words("mask"));
    for cores in ["0", "0-1"] {
        dir.file("policy.toml", &words("mask"));
        let gateway = Gateway::start(cores, &["--policy", &policy]);
        let mut at = Listeners::new(&gateway);
        let ok = |text: &[u8]| (Code::Ok, Some(text.to_vec()));
        assert_eq!(at.publish(b"that is fine"), ok(b"that is fine"));
        assert_eq!(at.publish(b"what the HECK, darn"), ok(b"what the ****, ****"));
        at.speaker.uplink(CHANNEL, 1, b"oh heck");
        assert_eq!(at.service.uplink().payload, b"oh ****");
        assert_eq!(gateway.metric("words_masked_total"), 2);
        // What services say is theirs.
        assert_eq!(at.service.say_to_room(7, b"heck").0, Code::Ok);
        assert_eq!(at.member.message(at.member_alias).1, b"heck");

        dir.file("policy.toml", &words("reject"));
        assert_eq!(gateway.post("/policy/reload").0, 200);
        assert_eq!(at.publish(b"that is fine"), ok(b"that is fine"));
        assert_eq!(at.publish(b"heck"), (Code::Refused, None));
        let request = at.speaker.uplink(CHANNEL, 1, b"Darn");
        assert_eq!(at.speaker.reply(request).0, Code::Refused);
        assert_eq!(at.service.ping(), [], "the service is not asked");
        assert_eq!(gateway.metric("words_rejected_total"), 2);
        let heard = at.member.ping();
        assert!(!heard.iter().any(|said| matches!(said, Said::Message { .. })), "{heard:?}");

        // Another app has other words.
        let mut other = Client::connect(gateway.tcp, Via::Tcp);
        other.hello_as(APP + 1, USER, &[]);
        let alias = other.join(7).alias;
        for (text, code) in [(&b"heck"[..], Code::Ok), (b"fine", Code::Refused)] {
            let request = other.publish(alias, CHAT, text);
            assert_eq!(other.reply(request).0, code);
        }

        dir.file("policy.toml", "");
        assert_eq!(gateway.post("/policy/reload").0, 200);
        assert_eq!(at.publish(b"heck"), ok(b"heck"));
    }
}

#[test]
fn what_is_flagged_goes_out_and_services_are_told() {
    let dir = TempDir::new("flags");
    let policy = dir.file("policy.toml", &words("flag"));
    for cores in ["0", "0-1"] {
        let gateway = Gateway::start(cores, &["--policy", &policy]);
        let mut at = Listeners::new(&gateway);
        let mut deaf = gateway.upstream();
        deaf.subscribe(events::JOIN, "", &[]);
        assert_eq!(at.publish(b"fine"), (Code::Ok, Some(b"fine".to_vec())));
        assert_eq!(at.publish(b"oh heck"), (Code::Ok, Some(b"oh heck".to_vec())));
        let payload = b"oh heck".to_vec();
        let flagged = Told::Flagged { user: USER, room: 7, channel: 0, category: CHAT, payload };
        assert_eq!(at.service.hear(), flagged);
        let request = at.speaker.uplink(CHANNEL, 1, b"darn");
        let payload = b"darn".to_vec();
        let flagged = Told::Flagged { user: USER, room: 0, channel: CHANNEL, category: 0, payload };
        let told = [at.service.hear(), at.service.hear()];
        assert!(told.contains(&flagged), "{told:?}");
        let uplink = told.iter().find_map(|told| match told {
            Told::Uplink(uplink) => Some(uplink.ticket),
            _ => None,
        });
        at.service.answer(uplink.expect("it went out"), Code::Ok, b"");
        assert_eq!(at.speaker.reply(request).0, Code::Ok);
        assert_eq!(gateway.metric("words_flagged_total"), 2);
        assert_eq!(deaf.ping(), [], "who has not asked for it is not told");
    }
}

/// Nothing is looked for where there are no lists.
#[test]
fn without_lists_every_word_passes() {
    on_one_and_two_shards(|gateway| {
        let mut at = Listeners::new(gateway);
        assert_eq!(at.publish(b"darn"), (Code::Ok, Some(b"darn".to_vec())));
        assert_eq!(gateway.metric("words_flagged_total"), 0);
    });
}
