//! Everything at once, with a `kill -9` in the middle: services that publish into limits, members
//! that come and go and some that hardly read. In the end nothing that was promised is missing,
//! nothing came twice, and what was left out was declared, exactly.
//!
//! The plan follows from a seed, which is printed; `SEED=n` replays it. What the machine makes of
//! the plan differs from run to run.

#[path = "../common/mod.rs"]
mod common;

mod follower;
mod member;
mod oracle;
mod publisher;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{OnceLock, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Gateway, Random, SOON, TempDir};

const ROOMS: u64 = 3;
const PUBLISHERS: u64 = 3;
const MEMBERS: u64 = 36;
/// One of so many members hardly reads.
const SLOW_EVERY: u64 = 10;
/// The room with large messages, which those who hardly read are in: they have to fall behind what
/// sockets hold.
const LOUD: u64 = 1;
/// How long one publisher hears no answers before the gateway is killed.
const DEAF: Duration = Duration::from_millis(200);
/// How long everything may take.
const RUN_MAX: Duration = Duration::from_secs(60);

const GIFT: u16 = 1;
const TAP: u16 = 3;
const CHAT: u16 = 4;
const STATE: u16 = 6;
const STREAM: u16 = 7;

/// Times are short, so that much happens in a few seconds.
const POLICY: &str = r#"
[merge]
combo-gap = "400ms"
combo-every = "150ms"
state-every = "150ms"
[[category]]
id = 1
name = "gift"
class = "P1"
never-drop = true
[[category]]
id = 3
name = "tap"
class = "P2"
aggregation = "combo"
limits = ["40/s", "40/s", "40/s", "40/s"]
[[category]]
id = 4
name = "chat"
class = "P3"
limits = ["120/s", "120/s", "120/s", "120/s"]
[[category]]
id = 6
name = "state"
class = "P3"
aggregation = "latest"
limits = ["30/s", "30/s", "30/s", "30/s"]
[[category]]
id = 7
name = "stream"
class = "P3"
limits = ["30/s", "30/s", "30/s", "30/s"]
history = "memory"
"#;

/// A place in a room: epoch and number.
type Place = (u64, u64);

/// What all threads share.
struct World {
    /// Whoever connects holds it, so that nobody is killed in the middle of a greeting.
    gateway: RwLock<Gateway>,
    /// How plain gifts are. Frilly ones are soon more than a room keeps for a slow reader, who is
    /// then closed; plain ones come although all else is left out.
    plain: usize,
    /// How many gateways there were before this one.
    generation: AtomicU64,
    /// Publishes that were answered.
    answered: AtomicU64,
    /// One publisher speaks and does not hear, until there is another gateway. The others hear what
    /// they are promised up to the end.
    deaf: AtomicBool,
    /// Publishers say no more.
    enough: AtomicBool,
    /// Where each room is when all have said what they had to say.
    targets: OnceLock<BTreeMap<u64, Place>>,
    ends: Instant,
    /// Somebody has found a fault: the others need not go on.
    failed: AtomicBool,
}

/// Tells the others when its thread panics.
struct Alarm<'a>(&'a World);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::Relaxed);
        }
    }
}

impl World {
    fn gateway(&self) -> std::sync::RwLockReadGuard<'_, Gateway> {
        self.gateway.read().expect("nobody panics while it is replaced")
    }

    fn until_answered(&self, count: u64) {
        while self.answered.load(Ordering::Relaxed) < count {
            self.assert_in_time("the publishers are stuck");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn assert_in_time(&self, what: &str) {
        assert!(!self.failed.load(Ordering::Relaxed), "another has failed");
        assert!(Instant::now() < self.ends, "{what}");
    }
}

#[test]
fn nothing_that_was_promised_is_lost() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(seed);
    println!("SEED={seed}");
    let mut random = Random(seed);
    let (data, files) = (TempDir::new("chaos"), TempDir::new("chaos-policy"));
    let policy = files.file("policy.toml", POLICY);
    let options = ["--policy", policy.as_str()];
    let world = World {
        gateway: RwLock::new(Gateway::start_in(&data, "0-1", &options)),
        plain: [6, 60][random.below(2)],
        generation: AtomicU64::new(0),
        answered: AtomicU64::new(0),
        deaf: AtomicBool::new(false),
        enough: AtomicBool::new(false),
        targets: OnceLock::new(),
        ends: Instant::now() + RUN_MAX,
        failed: AtomicBool::new(false),
    };
    let gate = std::sync::Barrier::new((MEMBERS + PUBLISHERS) as usize);
    std::thread::scope(|scope| {
        let _alarm = Alarm(&world);
        let members: Vec<_> = (0..MEMBERS)
            .map(|index| {
                let (random, world, gate) = (Random(random.next()), &world, &gate);
                scope.spawn(move || member::run(index, random, world, gate))
            })
            .collect();
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|index| {
                let (random, world, gate) = (Random(random.next()), &world, &gate);
                scope.spawn(move || publisher::run(index, random, world, gate))
            })
            .collect();

        world.until_answered(8_000 + random.below(4_000) as u64);
        world.deaf.store(true, Ordering::Relaxed);
        std::thread::sleep(DEAF);
        let mut gateway = world.gateway.write().expect("nobody panics while it is replaced");
        gateway.kill_now();
        *gateway = Gateway::start_in(&data, "0-1", &options);
        world.deaf.store(false, Ordering::Relaxed);
        world.generation.fetch_add(1, Ordering::Relaxed);
        drop(gateway);
        let before = world.answered.load(Ordering::Relaxed);
        world.until_answered(before + 8_000 + random.below(4_000) as u64);
        world.enough.store(true, Ordering::Relaxed);

        let publishers = publishers.into_iter().map(|it| it.join().expect("a publisher's panic"));
        let said: Vec<_> = publishers.collect();
        let truth = oracle::read(&world.gateway());
        let targets = truth.iter().map(|(&room, past)| (room, past.head)).collect();
        world.targets.set(targets).expect("they are set once");
        let members = members.into_iter().map(|it| it.join().expect("a member's panic"));
        let members: Vec<_> = members.collect();
        oracle::check_said(&truth, &said);
        for member in &members {
            oracle::check_member(&truth, &said, member);
        }
        println!("{}", oracle::summary(&truth, &said, &members, &world.gateway()));
    });
    assert!(Instant::now() < world.ends + SOON, "it takes too long");
}

fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    now.as_micros() as u64 % 1_000_000
}
