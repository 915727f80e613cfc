//! The directory: whose it is, which format it has, and whether it was closed properly.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::engine::ENGINE_DIR;
use crate::error::Error;
use crate::witness::WITNESS_FILE;

const FORMAT: &str = "barrage history 1";
const FORMAT_FILE: &str = "format";
const CLEAN_FILE: &str = "clean";
const LOCK_FILE: &str = "lock";

/// A directory that is ours as long as this lives.
pub(crate) struct Dir {
    path: PathBuf,
    /// The lock goes with the file, so it ends with the process however that ends.
    lock: File,
}

/// How a directory was left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Was {
    /// Nobody has stored anything in it.
    New,
    /// It was closed properly.
    Clean,
    /// It was not.
    Open,
}

impl Drop for Dir {
    fn drop(&mut self) {
        // Closing would do, unless the process has just forked and the child has not closed its
        // copy yet. If it fails, closing is what is left.
        let _ = self.lock.unlock();
    }
}

impl Dir {
    /// Takes the directory, makes it if it is missing. Also how it was left.
    pub(crate) fn take(path: &Path) -> Result<(Self, Was), Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(Error::io("making the directory", path))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(Error::io("opening", &lock_path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::Locked(path.to_owned()),
            TryLockError::Error(error) => Error::io("locking", &lock_path)(error),
        })?;
        let dir = Self { path: path.to_owned(), lock };
        let new = dir.check_format()?;
        let clean = dir.path.join(CLEAN_FILE).exists();
        Ok((
            dir,
            if new {
                Was::New
            } else if clean {
                Was::Clean
            } else {
                Was::Open
            },
        ))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Says that everything was written.
    pub(crate) fn mark_clean(&self) -> Result<(), Error> {
        self.write(CLEAN_FILE, "")
    }

    /// Takes that back, before anything else is written.
    pub(crate) fn remove_clean_mark(&self) -> Result<(), Error> {
        let path = self.path.join(CLEAN_FILE);
        match fs::remove_file(&path) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("removing", &path)(error)),
        }
    }

    /// Moves what is left of an engine out of the way.
    pub(crate) fn set_aside(&self) -> Result<(), Error> {
        let engine = self.path.join(ENGINE_DIR);
        let unused = |number: &u32| !self.path.join(format!("lost-{number}")).exists();
        let number = (1..).find(unused).unwrap_or(u32::MAX);
        match fs::rename(&engine, self.path.join(format!("lost-{number}"))) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("moving", &engine)(error)),
        }
    }

    /// Says that there is an engine in it now. From then on, a directory without one is an error.
    pub(crate) fn mark_format_once(&self) -> Result<(), Error> {
        if self.path.join(FORMAT_FILE).exists() {
            return Ok(());
        }
        self.write(FORMAT_FILE, &format!("{FORMAT}\n"))
    }

    /// Whether nothing was stored yet.
    fn check_format(&self) -> Result<bool, Error> {
        let path = self.path.join(FORMAT_FILE);
        match fs::read_to_string(&path) {
            Ok(found) if found.trim_end() == FORMAT => Ok(false),
            Ok(found) => {
                let (dir, found) = (self.path.clone(), found.trim_end().to_owned());
                Err(Error::Format { dir, found, expected: FORMAT })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check_empty()?;
                Ok(true)
            }
            Err(error) => Err(Error::io("reading", &path)(error)),
        }
    }

    fn check_empty(&self) -> Result<(), Error> {
        const OURS: [&str; 5] = [LOCK_FILE, ENGINE_DIR, WITNESS_FILE, "writing", "lost+found"];
        let entries = fs::read_dir(&self.path).map_err(Error::io("reading", &self.path))?;
        for entry in entries {
            let name = entry.map_err(Error::io("reading", &self.path))?.file_name();
            if !OURS.iter().any(|ours| name == *ours) {
                return Err(Error::Foreign(self.path.clone()));
            }
        }
        Ok(())
    }

    /// A file that is there as a whole or not at all.
    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let (half, path) = (self.path.join("writing"), self.path.join(name));
        fs::write(&half, text)
            .and_then(|()| File::open(&half)?.sync_all())
            .and_then(|()| fs::rename(&half, &path))
            .map_err(Error::io("writing", &path))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), Error> {
        let synced = File::open(&self.path).and_then(|dir| dir.sync_all());
        synced.map_err(Error::io("syncing", &self.path))
    }
}
