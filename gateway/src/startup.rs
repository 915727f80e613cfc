//! What is said at the start: what was found, what memory may be used, and what should be changed.

use std::fs;

use barrage_router::ORDERS_MAX;
use barrage_sys::RingConfig;

use crate::config::Config;
use crate::conn::Conn;
use crate::limits::{
    CLIENT_OUTBOX_BYTES_MAX, CONNECTIONS_SPARE, HISTORIES_BYTES_MAX, HISTORY, HISTORY_CACHE_BYTES,
    HISTORY_QUEUE_MAX, IDEMPOTENCY_KEYS_MAX, INBOXES_BYTES_MAX, LOGS_BYTES_MAX, MAIL_QUEUE_MAX,
    QUOTA_USERS_MAX, SEND_BYTES_MAX, SERVICES_PER_SHARD_MAX, UPSTREAM_OUTBOX_BYTES_MAX,
    ring_config,
};
use crate::local_room::Member;
use crate::mail::Mail;

/// Bytes of one remembered idempotency key, its place in the order included.
const SEEN_BYTES: usize = 96;
/// Bytes of a ban or mute, in a table and with its text.
const ORDER_BYTES: usize = 200;
/// Bytes of one user's quota, in a table and a tree.
const QUOTA_BYTES: usize = 96;
/// Bytes of a frame of usual size on its way to the disk.
const STORED_BYTES: usize = 1024;
/// Bytes of a connection's slot in its ring, wheel and directory entry.
const CONN_BOOKS_BYTES: usize = 24 + 8 + 2 * 29 + 2 * 5;

/// Terms of the most memory that the gateway's own limits allow, beside what rooms remember.
pub fn memory_terms(config: &Config, open_files: u64) -> Vec<(String, usize)> {
    let shards = config.cores.len();
    let per_shard = connections_per_shard(config);
    let ring = ring_config(per_shard, open_files);
    let connections = shards * (per_shard + SERVICES_PER_SHARD_MAX) as usize;
    let rings = shards * (per_shard + CONNECTIONS_SPARE).div_ceil(ring.slots) as usize;
    let conn = size_of::<Conn>() + CONN_BOOKS_BYTES + 2 * 2 * size_of::<Member>();
    let mib = |bytes: usize| bytes >> 20;
    let ring_kib = ring.ring_bytes() >> 10;
    let log_mib = mib(LOGS_BYTES_MAX);
    let mut terms = vec![
        (format!("{connections} connections of {conn} B, in two rooms each"), connections * conn),
        (format!("{rings} data rings of {ring_kib} KiB"), rings * ring.ring_bytes()),
        // Over it, a log keeps its newest piece only.
        (format!("room logs, {log_mib} MiB per shard"), shards * LOGS_BYTES_MAX),
        (
            format!("mail, {shards} x {shards} queues of {MAIL_QUEUE_MAX}"),
            shards * shards * MAIL_QUEUE_MAX * size_of::<Mail>(),
        ),
        (
            format!("idempotency keys, {IDEMPOTENCY_KEYS_MAX} per shard"),
            shards * IDEMPOTENCY_KEYS_MAX * SEEN_BYTES,
        ),
        (format!("inboxes, {} MiB per shard", mib(INBOXES_BYTES_MAX)), shards * INBOXES_BYTES_MAX),
        (
            format!("what rooms remember, {} MiB per shard", mib(HISTORIES_BYTES_MAX)),
            shards * HISTORIES_BYTES_MAX,
        ),
        (format!("{ORDERS_MAX} bans and mutes, on each shard"), shards * ORDERS_MAX * ORDER_BYTES),
        (
            format!("quotas of {QUOTA_USERS_MAX} users per shard"),
            shards * QUOTA_USERS_MAX * QUOTA_BYTES,
        ),
    ];
    if config.data.is_some() {
        terms.push((
            format!("{shards} queues of {HISTORY_QUEUE_MAX} frames for the disk, of 1 KiB each"),
            shards * HISTORY_QUEUE_MAX * STORED_BYTES,
        ));
        terms.push(("messages on disk, kept for who comes back".into(), HISTORY_CACHE_BYTES));
    }
    terms
}

/// Connections that one shard may hold: an equal part, so that all of them together stay under the
/// limit. The kernel spreads connections by hash, so of many each shard gets about as many.
pub fn connections_per_shard(config: &Config) -> u32 {
    (config.connections / config.cores.len() as u32).max(1)
}

/// Logs the memory bound and the limits.
pub fn report(config: &Config, open_files: u64) {
    let terms = memory_terms(config, open_files);
    let total: usize = terms.iter().map(|(_, bytes)| bytes).sum();
    for (term, bytes) in &terms {
        tracing::info!("memory: at most {:>6} MiB for {term}", bytes >> 20);
    }
    tracing::info!(
        "memory: at most {} MiB in all, and besides for each slow reader up to {} KiB that wait and \
         what it has missed, for each upstream that does not read {} MiB; rooms remember up to \
         {} KiB each",
        total >> 20,
        (2 * CLIENT_OUTBOX_BYTES_MAX + SEND_BYTES_MAX) >> 10,
        (2 * UPSTREAM_OUTBOX_BYTES_MAX) >> 20,
        HISTORY.bytes_max >> 10,
    );
    for warning in warnings(config, open_files) {
        tracing::warn!("{warning}");
    }
}

/// What is too low, and the line that mends it.
fn warnings(config: &Config, open_files: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    let ring = ring_config(connections_per_shard(config), open_files);
    let slots = RingConfig::slots_under(open_files);
    if ring.slots < 1024 {
        warnings.push(format!(
            "only {slots} open files are allowed, so every {slots} connections need a data ring \
             of their own: set `LimitNOFILE=1048576` in the service file, or `ulimit -n 1048576`"
        ));
    }
    let low = |path: &str, needed: u64, name: &str| {
        let found: u64 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
        (found < needed).then(|| {
            format!(
                "{name} is {found}: `sysctl -w {name}={needed}` for {} connections",
                config.connections
            )
        })
    };
    let connections = u64::from(config.connections);
    warnings.extend(low("/proc/sys/fs/file-max", connections + 65_536, "fs.file-max"));
    warnings.extend(low("/proc/sys/net/core/somaxconn", 4096, "net.core.somaxconn"));
    warnings
}
