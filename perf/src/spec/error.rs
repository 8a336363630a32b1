//! What is wrong with a spec, and where.

use std::fmt;

/// An error at a position of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError {
    /// The whole spec.
    pub text: String,
    /// Byte position of the fault.
    pub at: usize,
    /// What was expected, and what to do.
    pub what: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = self.text[..self.at].chars().count();
        write!(f, "{}\n  {}\n  {:column$}^ at character {}", self.what, self.text, "", column + 1)
    }
}

impl std::error::Error for SpecError {}
