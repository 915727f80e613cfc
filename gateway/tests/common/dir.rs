//! A directory for one test.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// An empty directory that nobody else uses. It is removed when it is dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(name: &str) -> Self {
        static TAKEN: AtomicU32 = AtomicU32::new(0);
        let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
        let name = format!("barrage-e2e-{name}-{}-{taken}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a directory of its own");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The same as an option's value.
    pub fn text(&self) -> &str {
        self.0.to_str().expect("it was made of text")
    }

    /// Writes a file; its path as an option's value.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("there is space for a small file");
        path.to_str().expect("it was made of text").to_owned()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What is left over is in a directory for what is left over.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
