//! QEMU's monitor (QMP), for one thing: memory of ours becomes a module of the machine's, where its devices find it.

use std::os::fd::AsRawFd;

use serde_json::{Value, json};

use super::dialogue::Dialogue;
use crate::base::{Error, ErrorKind, Result};
use crate::memory::Region;
use crate::reactor::Context;

/// Whether a line answers a command; greetings and events do not.
pub(super) fn is_answer(line: &str) -> bool {
    let message: Value = serde_json::from_str(line).unwrap_or(Value::Null);
    message.get("return").is_some() || message.get("error").is_some()
}

pub(super) async fn execute(
    cx: &Context,
    dialogue: &Dialogue,
    command: &str,
    arguments: Value,
) -> Result<Value> {
    let request = json!({ "execute": command, "arguments": arguments });
    let answer = dialogue.ask(cx, &[format_args!("{request}")]).await?;
    let mut answer: Value = serde_json::from_str(&answer).unwrap_or(Value::Null);
    match answer.get_mut("return") {
        Some(returned) => Ok(returned.take()),
        None => {
            let why = answer["error"]["desc"].as_str().unwrap_or("no reason given");
            let what = format!("{}: QEMU refused {command}: {why}", dialogue.name());
            Err(Error::new(ErrorKind::Io, what))
        }
    }
}

/// Plugs the region in as memory module `number`; where in the machine's memory it is.
pub(super) async fn plug(
    cx: &Context,
    dialogue: &Dialogue,
    region: &Region,
    number: usize,
) -> Result<u64> {
    let Some(backing) = region.backing() else {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{}: no file is behind the memory, so that QEMU cannot be given it (allocate it shared)",
                dialogue.name()
            ),
        ));
    };
    let (memory, module) = (format!("weft-memory-{number}"), format!("weft-module-{number}"));
    // QEMU opens the file while the descriptor is ours: the region is borrowed until it answers.
    let path = format!("/proc/{}/fd/{}", std::process::id(), backing.file().as_raw_fd());
    let mut arguments = json!({
        "qom-type": "memory-backend-file",
        "id": memory,
        "size": region.len(),
        "mem-path": path,
        "share": true,
    });
    if backing.offset() != 0 {
        arguments["offset"] = backing.offset().into();
    }
    execute(cx, dialogue, "object-add", arguments).await?;
    let arguments = json!({ "driver": "pc-dimm", "id": module, "memdev": memory });
    execute(cx, dialogue, "device_add", arguments).await?;
    let devices = execute(cx, dialogue, "query-memory-devices", json!({})).await?;
    let address = devices.as_array().into_iter().flatten().find_map(|device| {
        (device["data"]["id"] == module.as_str()).then(|| device["data"]["addr"].as_u64())?
    });
    address.ok_or_else(|| {
        let what = format!("{}: QEMU does not know memory module {module}", dialogue.name());
        Error::new(ErrorKind::Io, what)
    })
}
