//! Mutes and bans as services have given them, and when they hold beyond doubt.

/// What an order is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    Ban,
    /// In a room; 0: in the whole app.
    Mute(u64),
}

/// Clocks of shards count milliseconds.
const SLACK_US: u64 = 2_000;

/// An order as it was given.
#[derive(Debug)]
struct Given {
    app: u32,
    user: u64,
    about: About,
    /// 0 lifts it.
    seconds: u32,
    at_us: u64,
    answered_us: Option<u64>,
}

/// See the module.
#[derive(Default)]
pub struct Orders {
    given: Vec<Given>,
}

impl Orders {
    /// Somebody gives an order. Returns its number.
    pub fn give(&mut self, app: u32, user: u64, about: About, seconds: u32, at_us: u64) -> usize {
        self.given.push(Given { app, user, about, seconds, at_us, answered_us: None });
        self.given.len() - 1
    }

    /// It was answered.
    pub fn answered(&mut self, number: usize, now_us: u64) {
        self.given[number].answered_us = Some(now_us);
    }

    /// Whether anybody ever gave such an order.
    pub fn any(&self, app: u32, user: u64, about: About) -> bool {
        self.about(app, user, about).any(|given| given.seconds > 0)
    }

    /// Whether it held all the time from one moment to another, whatever was delayed how long.
    pub fn held(&self, app: u32, user: u64, about: About, from_us: u64, to_us: u64) -> bool {
        self.about(app, user, about).any(|given| {
            let until = match given.seconds {
                u32::MAX => u64::MAX,
                seconds => (given.at_us + u64::from(seconds) * 1_000_000).saturating_sub(SLACK_US),
            };
            let told = given.answered_us.is_some_and(|answered| answered < from_us);
            let others = self.about(app, user, about).filter(|other| !std::ptr::eq(*other, given));
            let mut doubtful =
                others.filter(|it| it.answered_us.is_none_or(|answered| answered >= given.at_us));
            given.seconds > 0 && told && to_us < until && doubtful.next().is_none()
        })
    }

    fn about(&self, app: u32, user: u64, about: About) -> impl Iterator<Item = &Given> {
        let same = move |it: &&Given| (it.app, it.user, it.about) == (app, user, about);
        self.given.iter().filter(same)
    }
}
