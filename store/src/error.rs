//! What can go wrong, in words for whoever has to repair it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why a store could not be opened or closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process, or another store of this one, has the directory.
    #[error("{0} is in use by another gateway: give each gateway a history directory of its own")]
    Locked(PathBuf),
    /// The directory was written by another version of the format, or is no store at all.
    #[error(
        "{dir} holds history of format {found:?}, and this gateway reads and writes {expected:?}: \
         use the gateway that wrote it, or another directory"
    )]
    Format {
        /// The directory.
        dir: PathBuf,
        /// What it says about itself.
        found: String,
        /// What it should say.
        expected: &'static str,
    },
    /// The directory holds files that are not a store's.
    #[error("{0} is not empty and holds no history: choose another directory")]
    Foreign(PathBuf),
    /// The system refused.
    #[error("{what} {path}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it did not work.
        error: io::Error,
    },
    /// There was a history, and it is not there any more.
    #[error(
        "the history in {dir} is not there any more: {why}{}",
        records.map_or_else(String::new, |it| format!("; {it} messages had been stored in it"))
    )]
    Lost {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with what is left.
        why: String,
        /// How many messages had been stored, if that is known.
        records: Option<u64>,
    },
    /// The engine failed; the text says why and what helps.
    #[error("{0}")]
    Engine(String),
    /// The store could not write when it was closed: what was not `Stored` is lost.
    #[error("history was closed while it could not be written: {0}")]
    Failing(String),
}

impl Error {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { what, path: path.to_owned(), error }
    }
}

/// A failure of the engine while it runs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Engine(#[from] fjall::Error),
    /// The sync itself failed: what was written before it may be gone although it reads well.
    #[error(transparent)]
    Sync(fjall::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a row of {0} is damaged")]
    Damaged(&'static str),
    #[error("{0} is missing or empty")]
    Gone(PathBuf),
    #[error("{0} is not what was written")]
    Garbled(PathBuf),
    #[error("history is being opened again")]
    Reopening,
}

impl Fault {
    /// Whether a sync may have failed: our own, or the one that has stopped the engine.
    pub(crate) fn in_sync(&self) -> bool {
        matches!(self, Self::Sync(_) | Self::Engine(fjall::Error::Poisoned))
    }

    /// Whether it says that what is on disk is not what was written.
    pub(crate) fn is_damage(&self) -> bool {
        let file = |error: &io::Error| {
            use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
            matches!(error.kind(), InvalidData | InvalidInput | NotFound | UnexpectedEof)
        };
        match self {
            Self::Damaged(_) | Self::Gone(_) | Self::Garbled(_) => true,
            Self::Engine(fjall::Error::Poisoned | fjall::Error::Locked) => false,
            Self::Engine(_) => self.io_error().is_none_or(file),
            Self::Io(_) | Self::Sync(_) | Self::Reopening => false,
        }
    }

    /// What is wrong, in words: what the engine says is about its own inside.
    pub(crate) fn why(&self) -> String {
        use fjall::Error::{Locked, Poisoned, Storage};
        let words = match self {
            Self::Engine(Poisoned) => "the engine has stopped by itself",
            Self::Engine(Locked) => "another process has its files open",
            Self::Engine(Storage(fjall::LsmError::ChecksumMismatch { .. })) => {
                "a checksum does not match what is in a file"
            }
            Self::Engine(Storage(fjall::LsmError::Unrecoverable)) => "a file is missing or cut",
            Self::Engine(_) if self.is_damage() => "a file is not what was written",
            Self::Engine(_) | Self::Sync(_) | Self::Io(_) => return self.to_string(),
            Self::Damaged(_) | Self::Gone(_) => return self.to_string(),
            Self::Garbled(_) | Self::Reopening => return self.to_string(),
        };
        words.to_owned()
    }

    /// The fault as an operator of `dir` understands it, whose history cannot be written, or opened.
    pub(crate) fn explain(&self, done: &str, dir: &Path) -> String {
        let dir = dir.display();
        let Some(error) = self.io_error().filter(|_| !self.is_damage()) else {
            return format!("history in {dir} cannot be {done}: {}", self.why());
        };
        let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC) => "the disk is full; free space or lower the retention",
            Some(Errno::DQUOT) => "the quota is used up; raise it or lower the retention",
            Some(Errno::FBIG) => "files may not grow further; raise the file size limit",
            Some(Errno::ROFS) => "the file system is read-only; look at the kernel's log",
            Some(Errno::IO) => "the disk reports errors; look at the kernel's log",
            Some(Errno::ACCESS | Errno::PERM) => "permission is denied",
            _ => "the system refused",
        };
        format!("history in {dir} cannot be {done}: {why} ({error})")
    }

    fn io_error(&self) -> Option<&io::Error> {
        use fjall::Error::{Io, Storage};
        match self {
            Self::Io(error) => Some(error),
            Self::Engine(Io(error)) | Self::Sync(Io(error)) => Some(error),
            Self::Engine(Storage(fjall::LsmError::Io(error))) => Some(error),
            Self::Sync(Storage(fjall::LsmError::Io(error))) => Some(error),
            Self::Engine(_) | Self::Sync(_) => None,
            Self::Damaged(_) | Self::Gone(_) | Self::Garbled(_) | Self::Reopening => None,
        }
    }
}
