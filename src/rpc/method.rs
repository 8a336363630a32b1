//! The shape of the method table: a row holds all there is to know about a method, so that the
//! dispatcher, `rpc_get_methods`, the reference page and the client's help cannot disagree.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use serde_json::Value;
use serde_json::value::RawValue;

use super::error::RpcError;
use super::params::Field;
use super::services::Services;

/// What comes of a request.
pub type Outcome = Result<Value, RpcError>;

/// A method at work.
pub type Running = Pin<Box<dyn Future<Output = Outcome>>>;

/// When a method can be called: before initialization, after it, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum States {
    /// Only before `framework_start_init` has run.
    Startup,
    /// Only after.
    Runtime,
    /// At any time.
    Any,
}

/// A row of the method table.
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// When it can be called.
    pub states: States,
    /// What it does: the lines of its doc comment.
    pub doc: &'static [&'static str],
    /// Its parameters.
    pub fields: &'static [Field],
    /// What its result is.
    pub result: &'static str,
    /// Reads the parameters and starts it.
    pub run: fn(&Rc<Services>, Option<&RawValue>) -> Result<Running, RpcError>,
}

/// Declares rows of the method table. The function of the same name is the handler; its parameter
/// type brings the descriptions of the parameters along.
macro_rules! methods {
    ($($(#[doc = $doc:literal])+ $states:ident fn $name:ident($params:ty) -> $result:literal;)*) => {
        /// The rows of this subsystem.
        pub(super) const METHODS: &[$crate::rpc::method::Method] = &[
            $($crate::rpc::method::Method {
                name: stringify!($name),
                states: $crate::rpc::method::States::$states,
                doc: &[$($doc),+],
                fields: <$params as $crate::rpc::params::Params>::FIELDS,
                result: $result,
                run: |services, params| {
                    let params = <$params as $crate::rpc::params::Params>::read(params)?;
                    Ok(Box::pin($name(std::rc::Rc::clone(services), params)))
                },
            }),*
        ];
    };
}
pub(super) use methods;

impl States {
    /// Whether a method of these can be called while `running` (after initialization) or not.
    pub fn admit(self, running: bool) -> bool {
        match self {
            States::Startup => !running,
            States::Runtime => running,
            States::Any => true,
        }
    }
}
