//! From the name of a method to the method at work: the one way into the method table.

use std::rc::Rc;

use serde_json::Value;
use serde_json::value::RawValue;

use super::error::RpcError;
use super::method::Running;
use super::methods;
use super::services::Services;

/// Starts the method that `name` names, if the present state allows it.
///
/// # Errors
/// `METHOD_NOT_FOUND`, `INVALID_STATE`, or `INVALID_PARAMS`.
pub(super) fn start(
    services: &Rc<Services>,
    name: &str,
    params: Option<&RawValue>,
) -> Result<Running, RpcError> {
    let Some(method) = methods::find(name) else {
        return Err(RpcError::new(
            RpcError::METHOD_NOT_FOUND,
            format!("Method not found: '{name}' (rpc_get_methods lists those there are)"),
        ));
    };
    let running = services.framework.is_running();
    if !method.states.admit(running) {
        let message = if running {
            "this method sets up what initialization uses, and that is over: start weftd with \
             --wait-for-rpc and call it before framework_start_init"
        } else {
            "this method works on a daemon that is initialized: call framework_start_init first"
        };
        return Err(RpcError::new(RpcError::INVALID_STATE, message));
    }
    (method.run)(services, params)
}

/// Runs a method from within the daemon, as a request would.
///
/// # Errors
/// What the request would be answered with.
pub async fn call(services: &Rc<Services>, name: &str, params: &Value) -> Result<Value, RpcError> {
    let params = match params {
        Value::Null => None,
        params => Some(
            serde_json::value::to_raw_value(params)
                .map_err(|error| RpcError::new(RpcError::INTERNAL_ERROR, error.to_string()))?,
        ),
    };
    start(services, name, params.as_deref())?.await
}
