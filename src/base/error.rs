//! The error of control work: what kind, what was tried and on what, and the cause.
//! (An I/O does not end with one of these but with a [`Status`](super::Status).)

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// Result of control work.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of thing went wrong. Each kind has one errno, which JSON-RPC answers carry negated,
/// as SPDK's do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No such device (ENODEV).
    NoDevice,
    /// No such entry (ENOENT).
    NotFound,
    /// The name is taken (EEXIST).
    Exists,
    /// In use: claimed, or an operation on it is running (EBUSY).
    Busy,
    /// Not permitted: another holds a claim that excludes this (EPERM).
    NotPermitted,
    /// The system denied access (EACCES).
    AccessDenied,
    /// A parameter or the input is invalid (EINVAL).
    Invalid,
    /// Not supported by this device or system (EOPNOTSUPP).
    Unsupported,
    /// Out of memory (ENOMEM).
    NoMemory,
    /// No space left (ENOSPC).
    NoSpace,
    /// Stored data are damaged (EILSEQ).
    Corrupt,
    /// Took too long (ETIMEDOUT).
    TimedOut,
    /// Stopped before its end (ECANCELED).
    Canceled,
    /// An I/O error (EIO).
    Io,
}

impl ErrorKind {
    /// The Linux errno of this kind (positive).
    pub const fn errno(self) -> i32 {
        match self {
            ErrorKind::NotPermitted => 1,
            ErrorKind::NotFound => 2,
            ErrorKind::Io => 5,
            ErrorKind::NoMemory => 12,
            ErrorKind::AccessDenied => 13,
            ErrorKind::Busy => 16,
            ErrorKind::Exists => 17,
            ErrorKind::NoDevice => 19,
            ErrorKind::Invalid => 22,
            ErrorKind::NoSpace => 28,
            ErrorKind::Corrupt => 84,
            ErrorKind::Unsupported => 95,
            ErrorKind::TimedOut => 110,
            ErrorKind::Canceled => 125,
        }
    }
}

impl ErrorKind {
    /// The kind that has this errno (positive); an errno that no kind has is an I/O error.
    pub fn from_errno(errno: i32) -> ErrorKind {
        const ALL: [ErrorKind; 14] = [
            ErrorKind::NoDevice,
            ErrorKind::NotFound,
            ErrorKind::Exists,
            ErrorKind::Busy,
            ErrorKind::NotPermitted,
            ErrorKind::AccessDenied,
            ErrorKind::Invalid,
            ErrorKind::Unsupported,
            ErrorKind::NoMemory,
            ErrorKind::NoSpace,
            ErrorKind::Corrupt,
            ErrorKind::TimedOut,
            ErrorKind::Canceled,
            ErrorKind::Io,
        ];
        ALL.into_iter().find(|kind| kind.errno() == errno).unwrap_or(ErrorKind::Io)
    }
}

/// An error of control work.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    what: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `what` names what was tried, on what, and what to do about it.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, what: what.into(), source: None }))
    }

    /// Shorthand for the most frequent kind.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, what)
    }

    /// An error of the operating system while doing `what`.
    pub fn os(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::AccessDenied,
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            io::ErrorKind::OutOfMemory => ErrorKind::NoMemory,
            io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            io::ErrorKind::InvalidInput => ErrorKind::Invalid,
            io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            io::ErrorKind::ResourceBusy | io::ErrorKind::AddrInUse => ErrorKind::Busy,
            io::ErrorKind::TimedOut => ErrorKind::TimedOut,
            _ => ErrorKind::Io,
        };
        Self::new(kind, what).because(source)
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts what was being done in front of the text; kind and cause stay.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.0.what = format!("{doing}: {}", self.0.what);
        self
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The kind's errno, positive.
    pub fn errno(&self) -> i32 {
        self.0.kind.errno()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
