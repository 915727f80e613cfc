//! Shards, their mail, their peers, and a clock, all moved by one seed.

use std::sync::Arc;

use barrage_router::{
    Aggregation, AppId, Category, HistoryLimits, Policy, Rate, UserId, UserKey, home_of_user,
};
use barrage_sys::Waker;

use super::client::{Client, ROOMS};
use super::model::{Target, Truth};
use super::report::Report;
use super::upstream::{Listener, Upstream};
use crate::auth::Auth;
use crate::conn::Role;
use crate::fake_ring::{FakeRing, Faults, Random};
use crate::limits::{HISTORY, LINGER_MAX, SEND_STALL_MAX};
use crate::mail;
use crate::policy_file::{self, Rules};
use crate::room_log::Transport;
use crate::shard::{Next, Shard, ShardConfig, TICK_US};

pub const USERS: u64 = 6;
/// What the three listeners of every shard are for.
pub const ROLES: [Role; 3] =
    [Role::Client(Transport::Tcp), Role::Client(Transport::WebSocket), Role::Upstream];
/// Turns of a run.
const TURNS: usize = 500;
/// Turns without which a gateway that is left alone has come to rest.
const REST_TURNS_MAX: usize = 20_000;

/// A configuration for a small gateway.
pub fn config() -> ShardConfig {
    ShardConfig {
        connections: 1000,
        slots_per_ring: 8,
        client_frames_per_second: 1000,
        frames_per_send: 64,
        pace_percent: 100,
        history: HISTORY,
        auth: Auth::Open,
        rules: Arc::new(rules()),
        unix_ms: 1_700_000_000_000,
        epoch: 1_000_000,
    }
}

/// See the module.
pub struct World {
    random: Random,
    pub now_us: u64,
    pub shards: Vec<Shard<FakeRing>>,
    /// Steps that each shard has taken.
    steps: Vec<u64>,
    pub clients: Vec<Client>,
    pub upstreams: Vec<Upstream>,
    /// Steps of all shards at the moment at which a client's WELCOME was read.
    welcomed: Vec<Vec<u64>>,
    sessions: u64,
    pub truth: Truth,
    pub report: Report,
}

impl World {
    /// So many shards on a network that does nothing wrong, and one upstream on the first; for
    /// scenarios that say themselves what happens.
    pub fn calm(shards: usize, clients: Vec<Client>) -> Self {
        let slots = 8 + clients.len();
        let wakers: Vec<Waker> = (0..shards).map(|_| Waker::new().expect("an eventfd")).collect();
        let shards: Vec<_> = mail::connect(&wakers)
            .into_iter()
            .map(|post| {
                // Few events at a time, so that who reads keeps up with any burst.
                let faults = Faults { events_max: slots, ..Faults::NONE };
                let ring = FakeRing::new(1, 2, slots, faults);
                Shard::new(ring, ROLES.to_vec(), config(), post)
            })
            .collect();
        let mut upstream = Upstream::new(0, 1, 0, "", Random(1));
        upstream.always_reply();
        let mut world = Self {
            random: Random(1),
            now_us: 1_000_000,
            steps: vec![0; shards.len()],
            welcomed: vec![vec![0; shards.len()]; clients.len()],
            shards,
            clients,
            upstreams: vec![upstream],
            sessions: 0,
            truth: Truth::new(),
            report: Report::default(),
        };
        world.upstreams[0].connect(&mut world.shards[0].ring);
        for at in 0..world.clients.len() {
            world.connect(at);
        }
        world.run_ms(10);
        world
    }

    /// A client connects to its shard.
    pub fn connect(&mut self, at: usize) {
        self.sessions += 1;
        let client = &mut self.clients[at];
        client.connect(&mut self.shards[client.shard].ring, self.sessions);
    }

    /// Lets time pass; whoever is not deaf reads.
    pub fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_us += 1_000;
            for at in 0..self.shards.len() {
                self.step(at);
            }
            for at in 0..self.clients.len() {
                if self.clients[at].deaf == 0 {
                    self.hear_client(at);
                }
            }
            for at in 0..self.upstreams.len() {
                self.hear_upstream(at);
            }
        }
    }

    /// A client says what `frames` makes.
    pub fn say(&mut self, at: usize, frames: impl FnOnce(&mut Client, &mut Truth) -> Vec<Vec<u8>>) {
        let client = &mut self.clients[at];
        let frames = frames(client, &mut self.truth);
        client.say(&mut self.shards[client.shard].ring, &frames);
    }

    /// The upstream publishes a message for each category, of so many bytes.
    pub fn publish(&mut self, target: &Target, categories: &[u16], bytes: usize) {
        let upstream = &mut self.upstreams[0];
        let ring = &mut self.shards[upstream.shard].ring;
        for &category in categories {
            let id = self.truth.say(upstream.app, target.clone(), category, bytes);
            upstream.say(ring, &self.truth, id);
        }
    }

    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let count = random.pick(&[1, 2, 2, 3]);
        let slots = random.pick(&[2, 4, 16]);
        let config = ShardConfig {
            slots_per_ring: slots as u32,
            connections: random.pick(&[1000, 1000, 5]),
            client_frames_per_second: random.pick(&[1000, 1000, 20]),
            frames_per_send: random.pick(&[1, 3, 64]),
            pace_percent: random.pick(&[100, 50]),
            history: random.pick(&[
                HISTORY,
                HistoryLimits { frames_max: 5, bytes_max: 10_000 },
                HistoryLimits { frames_max: 0, bytes_max: 0 },
            ]),
            ..config()
        };
        let faults = Faults {
            late: random.pick(&[0, 30, 70]),
            short: random.pick(&[0, 30, 80]),
            split: random.pick(&[0, 30, 80]),
            events_max: random.pick(&[3, 20, 1000]),
        };
        let wakers: Vec<Waker> = (0..count).map(|_| Waker::new().expect("an eventfd")).collect();
        let shards: Vec<_> = mail::connect(&wakers)
            .into_iter()
            .map(|post| {
                let ring = FakeRing::new(random.next(), 16 / slots, slots, faults);
                Shard::new(ring, ROLES.to_vec(), config.clone(), post)
            })
            .collect();
        let group = random.pick(&["", "workers"]);
        let mut own = |name: usize| (name, 1 + name as u32 % 2, random.below(count), random.next());
        let clients: Vec<_> = (0..10)
            .map(|name| {
                let (name, app, shard, seed) = own(name);
                let user = 1 + seed % USERS;
                Client::new(name, app, user, shard, Random(seed))
            })
            .collect();
        let upstreams = (0..3)
            .map(|name| {
                let (name, app, shard, seed) = own(name);
                Upstream::new(name, app, shard, group, Random(seed))
            })
            .collect();
        Self {
            random,
            now_us: 1_000_000,
            steps: vec![0; count],
            shards,
            welcomed: vec![vec![0; count]; clients.len()],
            clients,
            upstreams,
            sessions: 0,
            truth: Truth::new(),
            report: Report::default(),
        }
    }

    pub fn run(mut self) -> Report {
        let flooded = self.random.percent(5);
        for turn in 0..TURNS {
            self.pass_time();
            for _ in 0..self.random.below(4) {
                self.act();
            }
            if flooded && turn % 100 == 50 {
                self.flood();
            }
            let shard = self.random.below(self.shards.len());
            self.step(shard);
        }
        self.settle();
        self.check_rest();
        assert!(flooded || self.report.sheds == 0, "all of a room's messages fit the window");
        if self.random.percent(50) {
            self.drain();
        } else {
            self.leave();
        }
        self.check_empty();
        for shard in &mut self.shards {
            let ring = &mut shard.ring;
            self.report.short_sends += ring.short_sends;
            self.report.failed_sends += ring.failed_sends;
            self.report.cut_sends += ring.cut_sends;
        }
        self.report
    }

    fn pass_time(&mut self) {
        self.now_us += match self.random.below(1000) {
            0 => self.random.below(400_000_000) as u64,
            1..4 => self.random.below(12_000_000) as u64,
            4..40 => self.random.below(300_000) as u64,
            _ => self.random.below(2_000) as u64,
        };
    }

    pub fn step(&mut self, shard: usize) -> Next {
        self.steps[shard] += 1;
        let next = self.shards[shard].step(self.now_us);
        self.report.hash(&(shard, matches!(next, Next::Again)));
        next
    }

    /// Some peer does something.
    fn act(&mut self) {
        if self.random.percent(25) {
            let at = self.random.below(self.upstreams.len());
            return self.act_upstream(at);
        }
        let at = self.random.below(self.clients.len());
        let client = &mut self.clients[at];
        if client.session.is_none() {
            client.shard = self.random.below(self.shards.len());
            self.sessions += 1;
            let ring = &mut self.shards[client.shard].ring;
            return client.connect(ring, self.sessions);
        }
        let ring = &mut self.shards[client.shard].ring;
        client.act(ring, &mut self.truth);
        client.deaf = client.deaf.saturating_sub(1);
        if client.deaf == 0 {
            self.hear_client(at);
        }
    }

    fn hear_client(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let ring = &mut self.shards[client.shard].ring;
        if client.hear(ring, &mut self.truth, &mut self.report) {
            self.welcomed[at] = self.steps.clone();
        }
    }

    fn act_upstream(&mut self, at: usize) {
        let upstream = &mut self.upstreams[at];
        if upstream.link().is_none() {
            upstream.shard = self.random.below(self.shards.len());
            return upstream.connect(&mut self.shards[upstream.shard].ring);
        }
        let ring = &mut self.shards[upstream.shard].ring;
        let app = upstream.app;
        let (clients, steps, welcomed) = (&self.clients, &self.steps, &self.welcomed);
        upstream.act(ring, &mut self.truth, |target| {
            let mut there = Vec::new();
            for (at, client) in clients.iter().enumerate() {
                let Some(session) = client.session.as_ref().filter(|session| session.is_live())
                else {
                    continue;
                };
                let user = UserKey { app: AppId(app), user: UserId(client.user) };
                let shards = u16::try_from(steps.len()).expect("few").try_into().expect("some");
                let home = usize::from(home_of_user(user, shards).0);
                // The user's home has read its mail since the client was welcomed.
                let known = steps[home] > welcomed[at][home];
                let is_meant = client.app == app
                    && match target {
                        Target::Users(users) => users.contains(&client.user) && known,
                        Target::App => true,
                        Target::Room(_) => false,
                    };
                if is_meant {
                    there.push((at, session.number));
                }
            }
            there
        });
        let upstream = &mut self.upstreams[at];
        upstream.deaf = upstream.deaf.saturating_sub(1);
        if upstream.deaf == 0 {
            self.hear_upstream(at);
        }
    }

    fn hear_upstream(&mut self, at: usize) {
        let upstream = &mut self.upstreams[at];
        let ring = &mut self.shards[upstream.shard].ring;
        for (listener, id) in upstream.hear(ring, &mut self.truth, &mut self.report) {
            let (client, number): Listener = listener;
            let session = self.clients[client].session.as_mut();
            if let Some(session) = session.filter(|session| session.number == number) {
                session.owed.insert(id);
            }
        }
    }

    /// More than a window of large messages, while whoever is deaf stays so.
    fn flood(&mut self) {
        let at = self.random.below(self.upstreams.len());
        let room = 1 + self.random.below(ROOMS as usize) as u64;
        let upstream = &mut self.upstreams[at];
        upstream.flood(&mut self.shards[upstream.shard].ring, &mut self.truth, room, 90);
    }

    /// Everybody reads, nothing goes wrong any more, and nobody asks for more.
    pub fn settle(&mut self) {
        for shard in &mut self.shards {
            shard.ring.calm();
        }
        let mut quiet = 0;
        for _ in 0..REST_TURNS_MAX {
            self.now_us += 1_000;
            for at in 0..self.upstreams.len() {
                self.hear_upstream(at);
                let upstream = &mut self.upstreams[at];
                let answers = upstream.answer();
                if let (Some(link), false) = (upstream.link(), answers.is_empty()) {
                    self.shards[upstream.shard].ring.write(link, &answers);
                }
            }
            (0..self.clients.len()).for_each(|at| self.hear_client(at));
            let mut busy = false;
            for at in 0..self.shards.len() {
                // A tick is work, too, and comes for ever.
                let tick = self.now_us / TICK_US != (self.now_us - 1_000) / TICK_US;
                busy |= self.step(at) == Next::Again && !tick;
                busy |= self.is_busy(at);
            }
            // What came before the end is still to be read.
            busy |= self.clients.iter().any(|client| {
                let ring = &self.shards[client.shard].ring;
                client.session.as_ref().is_some_and(|session| ring.is_closed(session.link))
            });
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet > 3 {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn is_busy(&mut self, at: usize) -> bool {
        let shard = &mut self.shards[at];
        !shard.core.post.is_empty()
            || !shard.ring.is_quiet()
            || !shard.core.local.resting.is_empty()
    }

    /// Everybody goes.
    pub fn leave(&mut self) {
        for client in &mut self.clients {
            let errno = self.random.pick(&[0, crate::fake_ring::ECONNRESET]);
            client.hang_up(&mut self.shards[client.shard].ring, errno);
        }
        for upstream in &mut self.upstreams {
            upstream.hang_up(&mut self.shards[upstream.shard].ring, 0);
        }
        self.pass(SEND_STALL_MAX.as_micros() as u64);
    }

    /// The gateway goes. Peers that read hear why; those that do not are cut.
    pub fn drain(&mut self) {
        for shard in &mut self.shards {
            shard.drain();
        }
        // Once to say it, once to wait for the peer, and some ticks.
        self.pass(2 * LINGER_MAX.as_micros() as u64 + 1_000_000);
        for shard in &self.shards {
            assert!(shard.is_drained(), "a drain ends in time");
        }
    }

    pub fn pass(&mut self, us: u64) {
        self.settle();
        let until = self.now_us + us;
        while self.now_us < until {
            self.now_us += 50_000;
            for at in 0..self.shards.len() {
                self.step(at);
            }
            (0..self.clients.len()).for_each(|at| self.hear_client(at));
            (0..self.upstreams.len()).for_each(|at| self.hear_upstream(at));
        }
    }
}

/// Every message is sent as it is: what merges and limits is the router's own simulation's to try.
fn rules() -> Rules {
    let mut rules = policy_file::builtin();
    let builtin = Policy::builtin();
    for &category in builtin.categories() {
        let (aggregation, limits) = (Aggregation::None, [Rate::UNLIMITED; 4]);
        let name = builtin.name(category.id);
        rules.policy.insert(name, Category { aggregation, limits, inbox: false, ..category });
    }
    rules
}
