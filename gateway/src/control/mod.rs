//! The control plane: one ordinary thread that serves health and metrics and hears signals. It asks
//! shards by mail and never touches their memory.

mod requests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State as Given;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use barrage_store::{Keeper, State, Stats, UnixClock};
use tokio::net::TcpListener;

use self::requests::Requests;
use crate::asks::Handle;
use crate::clock::StepWatch;
use crate::limits::{STUCK_END_MAX, TURN_LATE_MIN};
use crate::metrics::{self, Metrics};
use crate::rules::{NotReloaded, RulesInForce};
use crate::stored;

/// How long a shard may take to answer; one that does not even turn is not asked.
const ANSWER_MAX: Duration = TURN_LATE_MIN;

/// How often it is looked whether the end waits for a shard that is stuck.
const STUCK_CHECK: Duration = Duration::from_millis(100);

/// What pages are made of.
#[derive(Clone)]
struct Pages {
    shards: Arc<[Handle]>,
    draining: Arc<AtomicBool>,
    plane: Arc<Plane>,
}

/// What the control thread has beside the shards.
pub struct Plane {
    /// The rules in force.
    pub rules: RulesInForce,
    /// The durable history, if there is one.
    pub history: Option<Keeper>,
    /// By how many milliseconds the system's clock is ahead of the gateway's time.
    pub clock_ahead_ms: AtomicI64,
}

impl Plane {
    /// Looks whether the system's clock was set; if so, says so, and the history remembers what it was
    /// off.
    pub fn look_at_clock(&self, clock: UnixClock, watch: &mut StepWatch) {
        let Some(said) = clock.system_ahead_ms().and_then(|ahead_ms| watch.look(ahead_ms)) else {
            return;
        };
        tracing::warn!("{said}");
        self.clock_ahead_ms.store(watch.ahead_ms(), Ordering::Relaxed);
        if let Some(history) = &self.history {
            history.set_clock_ahead(watch.ahead_ms().try_into().unwrap_or(0));
        }
    }

    /// Reads the policy again: for the shards, and for how long the history is kept.
    fn reload(&self, shards: &[Handle]) -> Result<(), NotReloaded> {
        let rules = self.rules.reload(shards)?;
        if let Some(history) = &self.history {
            history.set_retention(stored::retention(&rules));
        }
        Ok(())
    }
}

/// What signals ask for.
pub enum Heard {
    /// To end.
    Stop,
    /// To read the policy again.
    Reload,
}

/// Serves HTTP on `listener` and does what signals ask for. When they ask to end, tells the shards to
/// say goodbye; ends when they have ended.
pub async fn run(
    listener: std::net::TcpListener,
    requests_max: usize,
    shards: Vec<Handle>,
    plane: Arc<Plane>,
    mut hear: impl AsyncFnMut() -> Heard,
    ended: impl Future<Output = ()>,
) -> Result<()> {
    listener.set_nonblocking(true).context("the HTTP listener")?;
    let listener = TcpListener::from_std(listener).context("the HTTP listener")?;
    let pages = Pages { shards: shards.into(), draining: Arc::default(), plane };
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics_page))
        .route("/policy/reload", post(reload_policy))
        .layer(map_response(last_answer))
        .with_state(pages.clone());
    let shards_end = async {
        while let Heard::Reload = hear().await {
            // What is wrong with the file is in the log.
            let _ = pages.plane.reload(&pages.shards);
        }
        pages.draining.store(true, Ordering::Relaxed);
        pages.shards.iter().for_each(Handle::drain);
        tokio::select! {
            () = ended => Ok(()),
            error = stuck_at_the_end(&pages.shards) => Err(error),
        }
    };
    tokio::select! {
        served = async { axum::serve(Requests::new(listener, requests_max), router).await } => served.context("serving HTTP"),
        result = shards_end => result,
    }
}

/// Waits for as long as a drain may take, and then until a shard is found that does not turn.
async fn stuck_at_the_end(shards: &[Handle]) -> anyhow::Error {
    tokio::time::sleep(STUCK_END_MAX).await;
    loop {
        if let Some(text) = stuck(shards) {
            return anyhow::anyhow!("{text}: this is the end without it");
        }
        tokio::time::sleep(STUCK_CHECK).await;
    }
}

/// Which shards do not turn, in words.
fn stuck(shards: &[Handle]) -> Option<String> {
    let all = shards.iter().filter_map(|shard| {
        let seconds = shard.stuck_for()?.as_secs();
        Some(format!("core {} has not turned for {seconds} s", shard.core))
    });
    let all: Vec<String> = all.collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// A connection is for one request: nobody keeps one, and its time-out is the request's.
async fn last_answer(mut answer: Response) -> Response {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

async fn healthz(Given(pages): Given<Pages>) -> impl IntoResponse {
    if pages.draining.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
    }
    if let Some(text) = stuck(&pages.shards) {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n"));
    }
    let stats = pages.plane.history.as_ref().map(Keeper::stats);
    (StatusCode::OK, stats.map_or_else(|| "ok\n".to_owned(), |stats| history_health(&stats)))
}

/// It serves all the same: what is refused is what would have to be stored.
fn history_health(stats: &Stats) -> String {
    let damage = stats.damage.iter().map(|damage| damage.what.clone());
    let failing = match &stats.state {
        State::Failing { why } => Some(format!("the history is failing: {why}")),
        State::Ok => None,
    };
    let troubles: Vec<String> = failing.into_iter().chain(damage).collect();
    if troubles.is_empty() {
        "ok\n".to_owned()
    } else {
        format!("ok, but {}\n", troubles.join("; "))
    }
}

async fn metrics_page(Given(pages): Given<Pages>) -> impl IntoResponse {
    let shards = ask_all(&pages.shards).await;
    let content = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    let rules = pages.plane.rules.rules();
    let name_of = |id| match rules.policy.name(id) {
        "" => id.to_string(),
        name => name.to_owned(),
    };
    let mut text = metrics::render(&shards, name_of);
    let (reloads, failures) = pages.plane.rules.counts();
    metrics::render_plane(reloads, failures, pages.plane.history.as_ref(), &mut text);
    metrics::render_clock(pages.plane.clock_ahead_ms.load(Ordering::Relaxed), &mut text);
    metrics::render_process(&mut text);
    (content, text)
}

async fn reload_policy(Given(pages): Given<Pages>) -> impl IntoResponse {
    match pages.plane.reload(&pages.shards) {
        Ok(()) => {
            // Shards do what they are asked in order: who answers has the rules.
            let (asked, answered) = (pages.shards.len(), ask_all(&pages.shards).await.len());
            let text = match asked - answered {
                0 => "the policy is in force\n".to_owned(),
                late => format!("the policy is read, but {late} of {asked} shards do not answer\n"),
            };
            (StatusCode::OK, text)
        }
        Err(NotReloaded::NoFile) => {
            let text =
                "there is no policy file to read again: start the gateway with --policy FILE\n";
            (StatusCode::CONFLICT, text.to_owned())
        }
        Err(NotReloaded::Problems(error)) => {
            let text = format!("the policy stays what it was:\n{error}\n");
            (StatusCode::UNPROCESSABLE_ENTITY, text)
        }
    }
}

/// The numbers of all shards that answer in time.
async fn ask_all(shards: &[Handle]) -> Vec<(usize, Metrics)> {
    let turning = shards.iter().filter(|shard| shard.stuck_for().is_none());
    // All are asked before one is waited for.
    let answers: Vec<_> =
        turning.filter_map(|shard| shard.look().map(|answer| (shard.core, answer))).collect();
    let until = tokio::time::Instant::now() + ANSWER_MAX;
    let mut all = Vec::new();
    for (core, answer) in answers {
        if let Ok(Ok(metrics)) = tokio::time::timeout_at(until, answer).await {
            all.push((core, metrics));
        }
    }
    all
}
