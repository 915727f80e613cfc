//! What the process says when it ends, and what a command leaves to be printed.

use std::fmt;
use std::process::ExitCode;

/// What came of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Everything is as it should be.
    Pass,
    /// An objective of the scenario was missed.
    Missed,
    /// What was asked makes no sense, or cannot be done here.
    Usage,
    /// Messages are missing without explanation, or came twice or out of order, or totals are wrong.
    Faulty,
    /// The figures say more about the generator than about the target.
    Invalid,
    /// Worse than the baseline.
    Regression,
    /// The target could not be reached, or has gone.
    TargetLost,
    /// What is planned needs more than this machine has.
    DoesNotFit,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Missed => 1,
            Self::Usage => 2,
            Self::Faulty => 3,
            Self::Invalid => 4,
            Self::Regression => 5,
            Self::TargetLost => 6,
            Self::DoesNotFit => 7,
        }
    }

    /// What an error that ended a command says: a target that is not there, or else that the
    /// command could not be done as it was asked.
    pub fn of_error(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<TargetLost>() {
            Some(_) => Self::TargetLost,
            None => Self::Usage,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// The target cannot be reached, or has gone: an error that may be told by its type wherever in a
/// chain of contexts it is.
#[derive(Clone, Debug)]
pub struct TargetLost(pub String);

impl fmt::Display for TargetLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TargetLost {}

/// A command that has come to its end.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What is left to be printed on stdout, with its line ends.
    pub text: String,
    /// What the process says.
    pub exit: Exit,
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn a_lost_target_is_known_behind_any_context() {
        let lost: anyhow::Result<()> = Err(TargetLost("gone".to_owned()).into());
        let error = lost.context("while measuring").expect_err("it was lost");
        assert_eq!(Exit::of_error(&error), Exit::TargetLost);
        assert_eq!(Exit::of_error(&anyhow!("anything else")), Exit::Usage);
    }
}
