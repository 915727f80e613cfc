//! Puts the parts together: listeners, shards, control thread; starts them and ends them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use barrage_sys::{KernelRing, Listener, Waker};

use crate::asks::Handle;
use crate::auth::Auth;
use crate::clock::StepWatch;
use crate::config::{Config, UpstreamAddr};
use crate::conn::Role;
use crate::control::{Heard, Plane};
use crate::limits::{HISTORY, control_requests_max, ring_config};
use crate::policy_file::Rules;
use crate::room_log::Transport;
use crate::rules::RulesInForce;
use crate::shard::{Shard, ShardConfig};
use crate::stored::Stored;
use crate::{control, host, mail, startup, stored};

/// How often the control thread looks whether it was told to end.
const SIGNAL_CHECK: Duration = Duration::from_millis(20);

/// How long a port may still be in use when a gateway is restarted.
const RESTART_MAX: Duration = Duration::from_secs(2);
const RESTART_RETRY: Duration = Duration::from_millis(10);

/// What the process was told from outside.
pub struct Signals {
    /// To end.
    pub stop: Arc<AtomicBool>,
    /// To read the policy again.
    pub reload: Arc<AtomicBool>,
}

/// Runs a gateway until it is told to stop; calls `ready` when all listeners accept.
pub fn run(config: &Config, signals: Signals, ready: impl FnOnce()) -> Result<()> {
    let open_files = barrage_sys::raise_open_files_limit();
    let rules = RulesInForce::load(config.policy.clone())?;
    startup::report(config, open_files);
    let http = bind_when_free(config.http)
        .with_context(|| format!("--http {}: cannot listen there", config.http))?;
    let wakers = config.cores.iter().map(|_| Waker::new()).collect::<Result<Vec<_>, _>>()?;
    let listeners = Listeners::open(config)?;
    let (mut stored, keeper) = stored::open(config, &rules.rules(), &wakers)?;
    let settings = shard_config(config, open_files, rules.rules(), &stored);
    let (clock, epoch) = (stored.clock, stored.clock.started());
    let mut running = Vec::new();
    let mut handles = Vec::new();
    for (index, post) in mail::connect(&wakers).into_iter().enumerate() {
        let (core, waker) = (config.cores[index], wakers[index].clone());
        let (handle, asks) = Handle::new(core, waker.clone());
        let mine = listeners.for_shard(config, index)?;
        let (settings, mut mine_stored) = (settings.clone(), stored.shards.pop_front());
        running.push(host::spawn(core, epoch, asks, move || {
            let ring = ring_config(settings.connections, open_files);
            let mut ring = KernelRing::new(ring, waker)?;
            let mut roles = Vec::new();
            for (role, listener) in mine {
                ring.listen(listener);
                roles.push(role);
            }
            let mut shard = Shard::new(ring, roles, settings, post);
            if let Some((history, restored)) = mine_stored.take() {
                shard.restore(history, restored);
            }
            Ok(shard)
        })?);
        handles.push(handle);
    }
    let unix_path = listeners.into_path();
    tracing::info!(
        "kernel: Linux {} has what is needed of io_uring: {}",
        barrage_sys::kernel_release(),
        barrage_sys::FEATURES,
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the control thread's runtime")?;
    ready();
    let plane = Arc::new(Plane { rules, history: keeper, clock_ahead_ms: AtomicI64::new(0) });
    let (watching, mut watch) =
        (Arc::clone(&plane), StepWatch::new(clock.system_ahead_ms().unwrap_or(0)));
    let hear = async move || loop {
        watching.look_at_clock(clock, &mut watch);
        if signals.stop.load(Ordering::Relaxed) {
            tracing::info!("draining: clients are told, and what is queued is flushed");
            if let Some(path) = &unix_path {
                // Before the listener goes: the next gateway may put its own there. A file that
                // somebody else has removed is gone as well.
                let _ = std::fs::remove_file(path);
            }
            return Heard::Stop;
        }
        if signals.reload.swap(false, Ordering::Relaxed) {
            return Heard::Reload;
        }
        tokio::time::sleep(SIGNAL_CHECK).await;
    };
    let (has_ended, ended) = tokio::sync::oneshot::channel();
    let joiner = std::thread::spawn(move || {
        let result = running.into_iter().try_for_each(host::Running::join);
        // Nobody waits for it when HTTP has failed.
        let _ = has_ended.send(());
        result
    });
    let requests_max = control_requests_max(open_files);
    runtime.block_on(control::run(
        http,
        requests_max,
        handles,
        Arc::clone(&plane),
        hear,
        async {
            let _ = ended.await;
        },
    ))?;
    // Requests that were being answered end with it.
    drop(runtime);
    joiner.join().map_err(|_| anyhow::anyhow!("waiting for the shards has failed"))??;
    if let Some(keeper) = Arc::into_inner(plane).and_then(|plane| plane.history) {
        // Everybody was told what is not stored, so the end is in order for all that.
        if let Err(error) = keeper.close() {
            tracing::error!("{error}: the next start begins another epoch in every room");
        }
    }
    tracing::info!("ended");
    Ok(())
}

fn shard_config(
    config: &Config,
    open_files: u64,
    rules: Arc<Rules>,
    stored: &Stored,
) -> ShardConfig {
    let connections = startup::connections_per_shard(config);
    let unix_ms = stored.clock.start_ms();
    ShardConfig {
        connections,
        slots_per_ring: ring_config(connections, open_files).slots,
        client_frames_per_second: config.client_frames_per_second,
        frames_per_send: config.frames_per_send,
        pace_percent: config.pace_percent,
        history: HISTORY,
        auth: Auth::Open,
        rules,
        unix_ms,
        // In microseconds: a gateway does not make more than a million rooms in every second of its
        // life, so a later start has higher epochs. Whatever the clock says now, they are higher than
        // any in the history.
        epoch: unix_ms.saturating_mul(1000).max(stored.epoch_max),
    }
}

/// The listeners of the first shard; TCP ones of the others are bound beside them.
struct Listeners {
    upstream_unix: Option<(Listener, PathBuf)>,
}

impl Listeners {
    fn open(config: &Config) -> Result<Self> {
        let upstream_unix = match &config.upstream {
            UpstreamAddr::Tcp(_) => None,
            UpstreamAddr::Unix(path) => {
                let listener = Listener::unix(path).with_context(|| {
                    format!("--upstream unix:{}: cannot listen there", path.display())
                })?;
                Some((listener, path.clone()))
            }
        };
        Ok(Self { upstream_unix })
    }

    fn for_shard(&self, config: &Config, index: usize) -> Result<Vec<(Role, Listener)>> {
        let tcp = |flag, address| {
            // Other shards share the port; another program must not, and the kernel would let it
            // when both run as one user.
            let free = if index == 0 { bind_when_free(address).map(drop) } else { Ok(()) };
            free.and_then(|()| Listener::tcp(address))
                .with_context(|| format!("{flag} {address}: cannot listen there"))
        };
        let upstream = match (&self.upstream_unix, &config.upstream) {
            (Some((listener, _)), _) => listener.share()?,
            (None, UpstreamAddr::Tcp(address)) => tcp("--upstream", *address)?,
            (None, UpstreamAddr::Unix(_)) => unreachable!("a path was opened"),
        };
        Ok(vec![
            (Role::Client(Transport::Tcp), tcp("--tcp", config.tcp)?),
            (Role::Client(Transport::WebSocket), tcp("--ws", config.ws)?),
            (Role::Upstream, upstream),
        ])
    }

    /// The path that services come by; the shards listen on it from here on.
    fn into_path(self) -> Option<PathBuf> {
        self.upstream_unix.map(|(_, path)| path)
    }
}

/// Listens on `address` as soon as nobody else does. A gateway that was told to end may still answer
/// there, and the kernel winds up the rings of one that has just ended, and the listeners with them, a
/// moment after the process is gone.
fn bind_when_free(address: SocketAddr) -> io::Result<TcpListener> {
    let until = Instant::now() + RESTART_MAX;
    let mut said = false;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                if !std::mem::replace(&mut said, true) {
                    tracing::info!("{address} is in use: waiting {RESTART_MAX:?} for whoever ends");
                }
                std::thread::sleep(RESTART_RETRY);
            }
            result => return result,
        }
    }
}
