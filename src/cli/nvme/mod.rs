//! `weft nvme`: the drives of this host, and the controllers of the daemon.

mod attach;
mod bind;
mod format;
mod list;
mod passthrough;
mod smart;

use clap::Subcommand;

use super::session::Session;
use crate::base::{ErrorKind, Result};
use crate::bdev::label;

/// NVMe drives of this host, and NVMe controllers of the daemon.
#[derive(Debug, Subcommand)]
pub enum NvmeCommand {
    List(list::ListCommand),
    Bind(bind::BindCommand),
    Unbind(bind::UnbindCommand),
    Attach(attach::AttachCommand),
    Detach(attach::DetachCommand),
    Reset(attach::ResetCommand),
    Smart(smart::SmartCommand),
    Format(format::FormatCommand),
}

impl NvmeCommand {
    /// Runs it.
    ///
    /// # Errors
    /// What the host or the daemon refused, and why.
    pub fn run(&self, session: &mut Session) -> Result<()> {
        match self {
            NvmeCommand::List(command) => command.run(session),
            NvmeCommand::Bind(command) => command.run(session),
            NvmeCommand::Unbind(command) => command.run(session),
            NvmeCommand::Attach(command) => command.run(session),
            NvmeCommand::Detach(command) => command.run(session),
            NvmeCommand::Reset(command) => command.run(session),
            NvmeCommand::Smart(command) => command.run(session),
            NvmeCommand::Format(command) => command.run(session),
        }
    }
}

/// What of Weft's own stands at the start of a drive.
fn own_label(head: &[u8]) -> Option<String> {
    let copy = |offset: u64| -> Option<&[u8; label::LABEL_BYTES]> {
        head.get(usize::try_from(offset).ok()?..)?.first_chunk()
    };
    let [first, second] = label::COPY_OFFSETS.map(copy);
    match label::newest([first?, second?]) {
        Ok((label, _)) => Some(format!("a leg of Weft mirror '{}'", label.name)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => Some(format!("a Weft label that cannot be read ({error})")),
    }
}
