//! The error of a JSON-RPC answer.

use std::fmt;

use serde::Serialize;

use crate::base;

/// Code and text of a failed request.
///
/// Codes are those of the JSON-RPC 2.0 specification, section 5.1, and, as SPDK has it, the negative
/// errno of an operation that failed. A client that tells failures apart goes by the code; the text
/// is for people and says more than SPDK's, which repeats the name of the errno.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RpcError {
    /// What went wrong, for programs.
    pub code: i32,
    /// What went wrong, on what, and what to do, for people.
    pub message: String,
}

impl RpcError {
    /// The bytes are no JSON.
    pub const PARSE_ERROR: i32 = -32700;
    /// JSON, but no request.
    pub const INVALID_REQUEST: i32 = -32600;
    /// No such method.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// The parameters do not fit the method. (Some of SPDK's methods answer -32603 here, others
    /// -32602; Weft always says -32602, as the specification has it.)
    pub const INVALID_PARAMS: i32 = -32602;
    /// A fault of the server's own.
    pub const INTERNAL_ERROR: i32 = -32603;
    /// The method exists but not in the present state: before, or after, initialization.
    pub const INVALID_STATE: i32 = -1;

    /// An error with this code.
    pub fn new(code: i32, message: impl Into<String>) -> RpcError {
        RpcError { code, message: message.into() }
    }

    /// Parameters that do not fit.
    pub fn invalid_params(message: impl fmt::Display) -> RpcError {
        RpcError::new(Self::INVALID_PARAMS, format!("Invalid parameters: {message}"))
    }

    /// JSON that is no request.
    pub fn invalid_request(message: impl fmt::Display) -> RpcError {
        RpcError::new(Self::INVALID_REQUEST, format!("Invalid request: {message}"))
    }

    /// Bytes that are no JSON.
    pub fn parse_error(message: impl fmt::Display) -> RpcError {
        RpcError::new(Self::PARSE_ERROR, format!("Parse error: {message}"))
    }
}

impl RpcError {
    /// The kind of error that the code stands for.
    pub fn kind(&self) -> base::ErrorKind {
        match self.code {
            Self::METHOD_NOT_FOUND => base::ErrorKind::Unsupported,
            // -1 is EPERM as well as the state in which a method cannot be called.
            -32768..=-32000 => base::ErrorKind::Invalid,
            errno => base::ErrorKind::from_errno(errno.saturating_neg()),
        }
    }
}

impl From<base::Error> for RpcError {
    fn from(error: base::Error) -> RpcError {
        RpcError::new(-error.errno(), error.to_string())
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

impl std::error::Error for RpcError {}
