//! What a leader and an agent say to each other over TCP. Each word is a JSON object behind its
//! length. Moments are of the leader's clock, but those of a `Pong`.

use serde::{Deserialize, Serialize};

use crate::agent::carried::Carried;
use crate::orders::{Books, Order};
use crate::scenario::{Churn, Disconnect};

/// The version of these words. Both sides must have the same.
pub const VERSION: u32 = 2;
/// Bytes of an agent's name at most.
pub const NAME_BYTES_MAX: usize = 96;
/// Bytes of the name of one of its workers at most.
pub const SOURCE_BYTES_MAX: usize = NAME_BYTES_MAX + 16;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;

/// A nonce.
pub type Nonce = [u8; NONCE_BYTES];

/// One word.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Agent: who I am. The first word of a connection.
    Hello(Hello),
    /// Agent: another campaign is being served.
    Busy,
    /// Leader: who I am, proved.
    Greet {
        /// The leader's version.
        version: u32,
        /// What the agent is to prove itself with.
        nonce: Nonce,
        /// See [`super::greet`].
        proof: Vec<u8>,
    },
    /// Agent: the token is not the same.
    Refused,
    /// Agent: who I am, proved.
    Welcome {
        /// See [`super::greet`].
        proof: Vec<u8>,
    },
    /// Leader: what time is it? It is heard at least every [`super::PING_EVERY`].
    Ping {
        /// When it was sent.
        sent_ns: u64,
    },
    /// Agent: the answer.
    Pong {
        /// From the `Ping`.
        sent_ns: u64,
        /// When that came, by the agent's clock.
        heard_ns: u64,
        /// When the answer went, by the agent's clock.
        answered_ns: u64,
    },
    /// Leader: the campaign, and the agent's part of it.
    Begin(Box<Begin>),
    /// Agent: the workers are there. The answer to a `Begin` that can be done.
    Begun,
    /// Agent: the target cannot be reached from here. The answer to a `Begin`.
    Unreachable(String),
    /// Leader: do that.
    Order(Told),
    /// Agent: what was seen.
    Interval(Box<Carried>),
    /// Agent: all workers have ramped.
    Ramped,
    /// Agent: to all workers everybody has returned.
    Returned,
    /// Agent: all workers' books. Nothing but `Pong` follows.
    Finished(Box<Books>),
    /// Agent: the target has gone.
    Lost(String),
    /// Agent: it did not work.
    Broken(String),
    /// Leader: that was all.
    End,
}

/// Who an agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The agent's version.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// The cores that it works on.
    pub cores: u32,
    /// What the leader is to prove itself with.
    pub nonce: Nonce,
}

/// A campaign, and an agent's part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The scenario's text.
    pub text: String,
    /// Where that is from.
    pub origin: String,
    /// Settings beside it.
    pub settings: Vec<String>,
    /// What stands before the names of the agent's workers.
    pub source: String,
    /// The first client.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// What is to be added to a moment of the leader's clock to get one of the agent's.
    pub clock_offset_ns: i64,
}

/// An [`Order`] as it is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of orders and of the scenario")]
pub enum Told {
    /// `Order::Connect`.
    Connect { clients: u32, per_s: f64 },
    /// `Order::Phase`.
    Phase { index: usize, from_ns: u64, to_ns: u64 },
    /// `Order::Churn` with something.
    Churn { clients_per_s: f64, away_ns: u64, resume: bool, abrupt_percent: f64 },
    /// `Order::Churn` with nothing.
    Calm,
    /// `Order::Disconnect`.
    Disconnect { percent: f64, away_ns: u64, resume: bool, per_s: f64 },
    /// `Order::Drain`.
    Drain { last_seqs: Vec<u64>, until_ns: u64 },
    /// `Order::Stop`.
    Stop,
}

impl From<Order> for Told {
    fn from(order: Order) -> Self {
        match order {
            Order::Connect { clients, per_s } => Self::Connect { clients, per_s },
            Order::Phase { index, from_ns, to_ns } => Self::Phase { index, from_ns, to_ns },
            Order::Churn(None) => Self::Calm,
            Order::Churn(Some(Churn { clients_per_s, away_ns, resume, abrupt_percent })) => {
                Self::Churn { clients_per_s, away_ns, resume, abrupt_percent }
            }
            Order::Disconnect(Disconnect { percent, away_ns, resume, per_s }) => {
                Self::Disconnect { percent, away_ns, resume, per_s }
            }
            Order::Drain { last_seqs, until_ns } => Self::Drain { last_seqs, until_ns },
            Order::Stop => Self::Stop,
        }
    }
}

impl From<Told> for Order {
    fn from(told: Told) -> Self {
        match told {
            Told::Connect { clients, per_s } => Self::Connect { clients, per_s },
            Told::Phase { index, from_ns, to_ns } => Self::Phase { index, from_ns, to_ns },
            Told::Calm => Self::Churn(None),
            Told::Churn { clients_per_s, away_ns, resume, abrupt_percent } => {
                Self::Churn(Some(Churn { clients_per_s, away_ns, resume, abrupt_percent }))
            }
            Told::Disconnect { percent, away_ns, resume, per_s } => {
                Self::Disconnect(Disconnect { percent, away_ns, resume, per_s })
            }
            Told::Drain { last_seqs, until_ns } => Self::Drain { last_seqs, until_ns },
            Told::Stop => Self::Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(told: &Told) {
        let text = serde_json::to_string(told).expect("words can be written");
        let read: Told = serde_json::from_str(&text).expect("and read");
        assert_eq!(&read, told, "{text}");
        assert_eq!(&Told::from(Order::from(read)), told, "an order says all that was told");
    }

    #[test]
    fn an_order_arrives_as_it_was_given() {
        check(&Told::Connect { clients: 7, per_s: 0.1 });
        check(&Told::Phase { index: 2, from_ns: u64::MAX, to_ns: 0 });
        check(&Told::Churn { clients_per_s: 1.5, away_ns: 9, resume: true, abrupt_percent: 12.5 });
        check(&Told::Calm);
        check(&Told::Disconnect { percent: 100.0, away_ns: 1, resume: false, per_s: 0.0 });
        check(&Told::Drain { last_seqs: vec![0, u64::MAX], until_ns: 5 });
        check(&Told::Stop);
    }
}
