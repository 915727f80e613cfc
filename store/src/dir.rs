//! The directory: whose it is, which format it has, and whether it was closed properly.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

const FORMAT: &str = "barrage history 1";
const FORMAT_FILE: &str = "format";
const CLEAN_FILE: &str = "clean";
const LOCK_FILE: &str = "lock";

/// A directory that is ours as long as this lives.
pub(crate) struct Dir {
    path: PathBuf,
    /// The lock goes with the file, so it ends with the process however that ends.
    _lock: File,
}

impl Dir {
    /// Takes the directory, makes it if it is missing, and takes its clean mark away. Also whether
    /// nothing is missing there.
    pub(crate) fn take(path: &Path) -> Result<(Self, bool), Error> {
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
        let dir = Self { path: path.to_owned(), _lock: lock };
        let new = dir.check_format()?;
        let clean = dir.remove_clean_mark()? || new;
        Ok((dir, clean))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Says that everything was written. The next `take` takes it back.
    pub(crate) fn mark_clean(&self) -> Result<(), Error> {
        self.write(CLEAN_FILE, "")
    }

    /// Writes the format where nothing was stored yet; whether that was so.
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
                // The mark comes first: a crash between the two leaves a directory that is new.
                self.write(CLEAN_FILE, "")?;
                self.write(FORMAT_FILE, &format!("{FORMAT}\n"))?;
                Ok(true)
            }
            Err(error) => Err(Error::io("reading", &path)(error)),
        }
    }

    fn check_empty(&self) -> Result<(), Error> {
        const OURS: [&str; 4] = [LOCK_FILE, CLEAN_FILE, "writing", "lost+found"];
        let entries = fs::read_dir(&self.path).map_err(Error::io("reading", &self.path))?;
        for entry in entries {
            let name = entry.map_err(Error::io("reading", &self.path))?.file_name();
            if !OURS.iter().any(|ours| name == *ours) {
                return Err(Error::Foreign(self.path.clone()));
            }
        }
        Ok(())
    }

    fn remove_clean_mark(&self) -> Result<bool, Error> {
        let path = self.path.join(CLEAN_FILE);
        match fs::remove_file(&path) {
            Ok(()) => self.sync().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("removing", &path)(error)),
        }
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
