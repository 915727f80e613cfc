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
    #[error("{0} is gone")]
    Gone(PathBuf),
    #[error("history is being opened again")]
    Reopening,
}

impl Fault {
    /// Whether a sync may have failed: our own, or the one that has stopped the engine.
    pub(crate) fn in_sync(&self) -> bool {
        matches!(self, Self::Sync(_) | Self::Engine(fjall::Error::Poisoned))
    }

    /// The fault as an operator of `dir` understands it.
    pub(crate) fn explain(&self, dir: &Path) -> String {
        let dir = dir.display();
        if matches!(self, Self::Engine(fjall::Error::Poisoned)) {
            return format!("history in {dir} cannot be written: the engine has stopped by itself");
        }
        let Some(error) = self.io_error() else {
            return format!("history in {dir} cannot be written: {self}");
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
        format!("history in {dir} cannot be written: {why} ({error})")
    }

    fn io_error(&self) -> Option<&io::Error> {
        use fjall::Error::{Io, Storage};
        match self {
            Self::Io(error) => Some(error),
            Self::Engine(Io(error)) | Self::Sync(Io(error)) => Some(error),
            Self::Engine(Storage(fjall::LsmError::Io(error))) => Some(error),
            Self::Sync(Storage(fjall::LsmError::Io(error))) => Some(error),
            Self::Engine(_) | Self::Sync(_) => None,
            Self::Damaged(_) | Self::Gone(_) | Self::Reopening => None,
        }
    }
}
