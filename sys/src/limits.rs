//! Limits that the kernel puts on the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many descriptors one table of this process may have (and so one data ring).
pub fn open_files_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the soft limit to the hard one and returns what is in force.
pub fn raise_open_files_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // When it is refused the old limit stays in force, and that one is returned.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    open_files_limit()
}

/// The kernel's release, such as `6.18.1`.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}
