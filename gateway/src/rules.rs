//! The rules in force, at the control thread: where they come from, and how they are replaced.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::asks::Handle;
use crate::policy_file::{self, PolicyError, Rules};

/// See the module.
pub struct RulesInForce {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

struct State {
    rules: Arc<Rules>,
    reloads: u64,
    failures: u64,
}

/// Why rules were not read again.
pub enum NotReloaded {
    /// There is no file: the built-in rules are in force.
    NoFile,
    /// The file has problems; the rules are what they were.
    Problems(PolicyError),
}

impl RulesInForce {
    /// From the operator's file, or else built in.
    pub fn load(path: Option<PathBuf>) -> Result<Self, PolicyError> {
        let rules =
            path.as_deref().map_or_else(|| Ok(policy_file::builtin()), policy_file::load)?;
        let state = State { rules: Arc::new(rules), reloads: 0, failures: 0 };
        Ok(Self { path, state: Mutex::new(state) })
    }

    /// The rules.
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.state().rules)
    }

    /// How often they were replaced, and how often a file was refused.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.reloads, state.failures)
    }

    /// Reads the file again. What it says is in force on every shard as soon as each looks.
    pub fn reload(&self, shards: &[Handle]) -> Result<Arc<Rules>, NotReloaded> {
        let path = self.path.as_ref().ok_or(NotReloaded::NoFile)?;
        match policy_file::load(path) {
            Ok(rules) => {
                let rules = Arc::new(rules);
                shards.iter().for_each(|shard| shard.set_rules(&rules));
                let mut state = self.state();
                state.rules = Arc::clone(&rules);
                state.reloads += 1;
                tracing::info!("the policy {} is in force", path.display());
                Ok(rules)
            }
            Err(error) => {
                self.state().failures += 1;
                tracing::error!("the policy stays what it was: {error}");
                Err(NotReloaded::Problems(error))
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing that holds it can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
