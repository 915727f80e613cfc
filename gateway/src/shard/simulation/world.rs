//! Shards, their mail, their peers, and a clock, all moved by one seed.

use std::sync::Arc;

use barrage_router::{AppId, HistoryLimits, UserId, UserKey, home_of_user};
use barrage_sys::Waker;

use super::client::{Client, ROOMS};
use super::model::{Target, Truth};
use super::report::Report;
use super::rules::Kind;
use super::upstream::{Listener, Upstream};
use crate::auth::Auth;
use crate::conn::Role;
use crate::fake_ring::{FakeRing, Faults, Random};
use crate::limits::{HISTORY, LINGER_MAX, SEND_STALL_MAX};
use crate::mail;
use crate::policy_file::Rules;
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

/// Connections of a drawn world, and steps in which walks to all of them have ended.
const DRAWN_CONNECTIONS: u32 = 13;
const WAIT_STEPS_MAX: u64 = 4;

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
        rules: Kind::PLAIN.rules(&mut Random(1)),
        unix_ms: 1_700_000_000_000,
        epoch: 1_000_000,
    }
}

/// See the module.
pub struct World {
    random: Random,
    pub now_us: u64,
    pub shards: Vec<Shard<FakeRing>>,
    /// Steps that each shard has taken, and those in a row after which some walk went on.
    steps: Vec<u64>,
    waiting: Vec<u64>,
    pub clients: Vec<Client>,
    pub upstreams: Vec<Upstream>,
    /// Steps of all shards at the moment at which a client's WELCOME was read.
    welcomed: Vec<Vec<u64>>,
    sessions: u64,
    pub truth: Truth,
    /// Rules that shards are still to be given.
    rules: Vec<Option<Arc<Rules>>>,
    pub report: Report,
}

impl World {
    /// So many shards on a network that does nothing wrong, and one upstream on the first; for
    /// scenarios that say themselves what happens.
    pub fn calm(shards: usize, clients: Vec<Client>) -> Self {
        Self::calm_with(shards, clients, Kind::PLAIN)
    }

    /// The same, with rules of this kind.
    pub fn calm_with(shards: usize, clients: Vec<Client>, kind: Kind) -> Self {
        let slots = 8 + clients.len();
        let wakers: Vec<Waker> = (0..shards).map(|_| Waker::new().expect("an eventfd")).collect();
        let shards: Vec<_> = mail::connect(&wakers)
            .into_iter()
            .map(|post| {
                // Few events at a time, so that who reads keeps up with any burst.
                let faults = Faults { events_max: slots, ..Faults::NONE };
                let ring = FakeRing::new(1, 2, slots, faults);
                let config = ShardConfig { rules: kind.rules(&mut Random(1)), ..config() };
                Shard::new(ring, ROLES.to_vec(), config, post)
            })
            .collect();
        let mut upstream = Upstream::new(0, 1, 0, "", Random(1));
        upstream.always_reply();
        let mut world = Self {
            random: Random(1),
            now_us: 1_000_000,
            steps: vec![0; shards.len()],
            waiting: vec![0; shards.len()],
            welcomed: vec![vec![0; shards.len()]; clients.len()],
            rules: vec![None; shards.len()],
            shards,
            clients,
            upstreams: vec![upstream],
            sessions: 0,
            truth: Truth::new(kind),
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
        client.connect(&mut self.shards[client.shard].ring, self.sessions, self.now_us);
    }

    /// Lets time pass; whoever is not deaf reads.
    pub fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_us += 1_000;
            self.truth.now_us = self.now_us;
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
            upstream.say(ring, &mut self.truth, id);
        }
    }

    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let count = random.pick(&[1, 2, 2, 3]);
        let slots = random.pick(&[2, 4, 16]);
        let kind = Kind::draw(&mut random);
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
            rules: kind.rules(&mut random),
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
                // Several are one user's, and some users are never here.
                let user = 1 + seed % (USERS / 2);
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
            waiting: vec![0; count],
            shards,
            welcomed: vec![vec![0; count]; clients.len()],
            clients,
            upstreams,
            sessions: 0,
            truth: Truth::new(kind),
            rules: vec![None; count],
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
            if self.random.percent(1) {
                self.replace_rules();
            }
            let shard = self.random.below(self.shards.len());
            if self.random.percent(20) {
                self.hand_rules(shard);
            }
            self.step(shard);
        }
        (0..self.shards.len()).for_each(|shard| self.hand_rules(shard));
        self.settle();
        self.check_rest();
        if self.truth.kind.inboxes {
            self.check_silence();
        }
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

    /// The operator has changed the policy. Each shard hears of it when it does.
    fn replace_rules(&mut self) {
        let rules = self.truth.kind.rules(&mut self.random);
        self.rules.fill(Some(rules));
        self.report.policies += 1;
    }

    fn hand_rules(&mut self, shard: usize) {
        if let Some(rules) = self.rules[shard].take() {
            self.shards[shard].set_rules(rules);
        }
    }

    fn pass_time(&mut self) {
        self.now_us += match self.random.below(1000) {
            0 => self.random.below(400_000_000) as u64,
            1..4 => self.random.below(12_000_000) as u64,
            4..40 => self.random.below(300_000) as u64,
            _ => self.random.below(2_000) as u64,
        };
        self.truth.now_us = self.now_us;
    }

    pub fn step(&mut self, shard: usize) -> Next {
        self.steps[shard] += 1;
        self.truth.now_us = self.now_us;
        let next = self.shards[shard].step(self.now_us);
        self.check_waits(shard);
        self.report.hash(&(shard, matches!(next, Next::Again)));
        next
    }

    /// However much is said, the few members of a drawn world are walked to in a few steps.
    fn check_waits(&mut self, shard: usize) {
        let waits = self.shards[shard].core.local.walks.any_waits();
        let in_a_row = &mut self.waiting[shard];
        *in_a_row = if waits { *in_a_row + 1 } else { 0 };
        let few = self.shards[shard].core.connections <= DRAWN_CONNECTIONS;
        assert!(!few || *in_a_row <= WAIT_STEPS_MAX, "shard {shard} has walks that do not end");
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
            return client.connect(ring, self.sessions, self.now_us);
        }
        let ring = &mut self.shards[client.shard].ring;
        client.act(ring, &mut self.truth);
        client.deaf = client.deaf.saturating_sub(1);
        if client.deaf == 0 {
            self.hear_client(at);
        }
    }

    pub fn hear_client(&mut self, at: usize) {
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

    /// Whether the home of a client's user knows as many connections as there are: none of them is
    /// about to be closed.
    fn are_all_known(&self, at: usize) -> bool {
        let (app, user) = (self.clients[at].app, self.clients[at].user);
        let live = self.clients.iter().filter(|client| {
            let session = client.session.as_ref();
            (client.app, client.user) == (app, user)
                && session.is_some_and(|session| session.is_live())
        });
        let user = UserKey { app: AppId(app), user: UserId(user) };
        let home = &self.shards[self.home_of(user)].core.homes;
        live.count() == home.users.find(user).count()
    }

    fn home_of(&self, user: UserKey) -> usize {
        let shards = u16::try_from(self.shards.len()).expect("few").try_into().expect("some");
        usize::from(home_of_user(user, shards).0)
    }

    fn hear_upstream(&mut self, at: usize) {
        let upstream = &mut self.upstreams[at];
        let ring = &mut self.shards[upstream.shard].ring;
        let owed = upstream.hear(ring, &mut self.truth, &mut self.report);
        for (listener, id) in owed {
            let (client, number): Listener = listener;
            let all_known = self.truth.is_inboxed(id) && self.are_all_known(client);
            let client = &mut self.clients[client];
            let named = client.device != 0;
            let session = client.session.as_mut();
            if let Some(session) = session.filter(|session| session.number == number) {
                session.owed.insert(id);
                if all_known && named && session.is_live() {
                    session.memory.inbox.owed.insert(id);
                }
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
            self.truth.now_us = self.now_us;
            for at in 0..self.upstreams.len() {
                self.hear_upstream(at);
                let upstream = &mut self.upstreams[at];
                let answers = upstream.answer();
                if let (Some(link), false) = (upstream.link(), answers.is_empty()) {
                    self.shards[upstream.shard].ring.write(link, &answers);
                }
            }
            (0..self.clients.len()).for_each(|at| self.hear_client(at));
            for client in &mut self.clients {
                client.ack_all(&mut self.shards[client.shard].ring);
            }
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
            busy |= self.upstreams.iter().any(|upstream| {
                let ring = &self.shards[upstream.shard].ring;
                upstream.link().is_some_and(|link| ring.is_closed(link))
            });
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet > 3 {
                match self.next_due() {
                    Some(due_us) => (self.now_us, quiet) = (due_us.max(self.now_us), 0),
                    None => return,
                }
            }
        }
        panic!("it never comes to rest");
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
        // What shards tell each other at every tick is read.
        self.settle();
        for shard in &self.shards {
            assert!(shard.is_drained(), "a drain ends in time");
        }
    }

    pub fn pass(&mut self, us: u64) {
        self.settle();
        let until = self.now_us + us;
        while self.now_us < until {
            self.now_us += 50_000;
            self.truth.now_us = self.now_us;
            for at in 0..self.shards.len() {
                self.step(at);
            }
            (0..self.clients.len()).for_each(|at| self.hear_client(at));
            (0..self.upstreams.len()).for_each(|at| self.hear_upstream(at));
        }
    }
}
