//! Every capacity of the store, by name.

use std::time::Duration;

/// Idempotency keys that are kept, the newest of the whole store.
pub const KEYS_MAX: usize = 65_536;
/// Bytes of a note's key.
pub const NOTE_KEY_BYTES_MAX: usize = 256;
/// Bytes of a note's value.
pub const NOTE_VALUE_BYTES_MAX: usize = 1 << 20;

/// Commands that share one sync.
pub(crate) const BATCH_COMMANDS_MAX: usize = 1024;
/// Frame and note bytes that share one sync; the command that goes over it is the last.
pub(crate) const BATCH_BYTES_MAX: usize = 4 << 20;
/// Records that one index row of a category names.
pub(crate) const CHUNK_RECORDS_MAX: usize = 256;
/// Records that retention takes away in one step, which is a part of one batch.
pub(crate) const RETIRE_RECORDS_MAX: usize = 1024;
/// Empty rooms that one idle step looks at.
pub(crate) const FORGET_ROOMS_MAX: usize = 64;
/// A room without records is forgotten when it has been silent for this long.
pub(crate) const ROOM_FORGET_MS: u64 = 7 * 24 * 3600 * 1000;
/// Epochs that are remembered of a room.
pub(crate) const EPOCHS_MAX: usize = 16;
/// Times that a clock was behind that are remembered.
pub(crate) const CLOCK_STEPS_MAX: usize = 16;
/// Changes of notes that wait for a disk that fails.
pub(crate) const NOTES_PENDING_MAX: usize = 65_536;
/// Rooms whose holes are written down in one commit when a disk has recovered.
pub(crate) const HOLES_BATCH_MAX: usize = 4096;
/// Stored batches on their way to the cache; more are left out of it.
pub(crate) const WRITTEN_MAX: usize = 64;
/// Commands of the keeper that may wait.
pub(crate) const CONTROL_MAX: usize = 16;
/// What must fit on a disk before a store that failed tries again.
pub(crate) const PROBE_BYTES: usize = 2 * BATCH_BYTES_MAX;
/// How long a store that failed waits before it tries again.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// How long the writer sleeps when nothing comes; then it looks after retention.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Blocks that the engine keeps in memory.
pub(crate) const BLOCK_CACHE_BYTES: u64 = 32 << 20;
/// A record's bytes beside its frame and its key: retention by bytes counts them.
pub(crate) const RECORD_HEADER_BYTES: usize = 12;

const _: () = assert!(RETIRE_RECORDS_MAX >= BATCH_COMMANDS_MAX, "retention keeps up with writing");
const _: () = assert!(PROBE_BYTES > BATCH_BYTES_MAX, "a batch fits where the probe did");
