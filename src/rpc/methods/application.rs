//! The daemon itself: its version, its methods, its end.

use std::rc::Rc;

use serde_json::json;

use crate::rpc::error::RpcError;
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::{NoParams, param_enum, params};
use crate::rpc::services::Services;

methods! {
    /// Tells the version of the daemon.
    Any fn spdk_get_version(NoParams)
        -> "`version`, and its parts in `fields`: `major`, `minor`, `patch`, `suffix`.";
    /// Lists the methods.
    Any fn rpc_get_methods(GetMethods) -> "an array of names.";
    /// Does what a signal asks for. SIGINT, SIGTERM, SIGQUIT and SIGHUP end the daemon in good order,
    /// SIGKILL at once; SIGUSR1 does nothing.
    Runtime fn spdk_kill_instance(KillInstance) -> "`true`.";
}

async fn spdk_get_version(_services: Rc<Services>, _params: NoParams) -> Outcome {
    let number = |text: &str| text.parse::<u32>().unwrap_or_default();
    let suffix = match env!("CARGO_PKG_VERSION_PRE") {
        "" => String::new(),
        pre => format!("-{pre}"),
    };
    Ok(json!({
        "version": concat!("Weft v", env!("CARGO_PKG_VERSION")),
        "fields": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "patch": number(env!("CARGO_PKG_VERSION_PATCH")),
            "suffix": suffix,
        },
    }))
}

params! {
    /// Of `rpc_get_methods`.
    struct GetMethods {
        /// Only those that can be called in the present state.
        current: bool = false,
        /// Also the former names of methods. Weft has none.
        include_aliases: bool = false,
    }
}

async fn rpc_get_methods(services: Rc<Services>, params: GetMethods) -> Outcome {
    // No method has another name: the lists with and without them are the same.
    let _same = params.include_aliases;
    let current = params.current;
    let running = current.then(|| services.framework.is_running());
    Ok(json!((services.method_names)(running)))
}

param_enum! {
    /// The signals that can be sent.
    enum KillSignal {
        /// Interrupt.
        Interrupt = "SIGINT",
        /// Terminate.
        Terminate = "SIGTERM",
        /// Quit.
        Quit = "SIGQUIT",
        /// Hang-up.
        HangUp = "SIGHUP",
        /// Kill.
        Kill = "SIGKILL",
        /// User-defined.
        User1 = "SIGUSR1",
    }
}

params! {
    /// Of `spdk_kill_instance`.
    struct KillInstance {
        /// The signal.
        sig_name: KillSignal,
    }
}

async fn spdk_kill_instance(services: Rc<Services>, params: KillInstance) -> Outcome {
    match params.sig_name {
        KillSignal::Interrupt | KillSignal::Terminate | KillSignal::Quit | KillSignal::HangUp => {
            services.reactors.request_shutdown()
        }
        KillSignal::Kill => {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).map_err(|error| {
                RpcError::new(-error.raw_os_error(), format!("SIGKILL: {error}"))
            })?;
        }
        KillSignal::User1 => {}
    }
    Ok(json!(true))
}
