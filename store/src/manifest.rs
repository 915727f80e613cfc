//! Whether the engine's directory is whole, as far as that shows without reading what is in it.
//!
//! Where one of its small files is missing, the engine begins anew and removes what it does not know;
//! where the one is wrong that names the newest list of tables, it takes an older list, and removes
//! the tables that are not in that. Both would be silent, so these files are looked at first. Their
//! format is that of the engine's version, which the workspace pins.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use crate::error::Fault;

/// In each keyspace: which version of the list of its tables is the newest, and that file's checksum.
const CURRENT: &str = "current";
/// Number, checksum, kind of checksum.
const CURRENT_BYTES: usize = 8 + 16 + 1;
/// The engine's own keyspace, which names the others.
const NAMES: &str = "0";

/// Checks the directory of an engine that somebody has used.
pub(crate) fn check(engine_dir: &Path) -> Result<(), Fault> {
    let version = engine_dir.join("version");
    if !version.metadata().is_ok_and(|file| file.len() > 0) {
        return Err(Fault::Gone(version));
    }
    let logs = entries(engine_dir).filter(|path| path.extension().is_some_and(|end| end == "jnl"));
    if logs.count() == 0 {
        return Err(Fault::Gone(engine_dir.join("*.jnl")));
    }
    let keyspaces = engine_dir.join("keyspaces");
    check_keyspace(&keyspaces.join(NAMES))?;
    let ours: Vec<PathBuf> = entries(&keyspaces).filter(|path| !path.ends_with(NAMES)).collect();
    if ours.is_empty() {
        return Err(Fault::Gone(keyspaces));
    }
    ours.iter().try_for_each(|keyspace| check_keyspace(keyspace))
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    // A directory that cannot be read holds nothing that could be opened.
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.flatten().map(|entry| entry.path())
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Gone(path.to_owned()),
        _ => Fault::Io(error),
    })
}

fn check_keyspace(dir: &Path) -> Result<(), Fault> {
    let current = dir.join(CURRENT);
    let bytes = read(&current)?;
    let said: [u8; CURRENT_BYTES] =
        bytes.try_into().map_err(|_| Fault::Garbled(current.clone()))?;
    let number = said.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let checksum = said[8..].first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes));
    let list = dir.join(format!("v{number}"));
    let bytes = read(&list)?;
    if xxh3_128(&bytes) == checksum { Ok(()) } else { Err(Fault::Garbled(list)) }
}
