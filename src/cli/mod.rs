//! The `weft` command line: readable commands over JSON-RPC, and any method by name.

mod bdev;
mod dd;
mod host;
mod iostat;
mod nvme;
mod output;
mod quickstart;
mod raid;
mod reactor;
mod rpc;
mod session;
mod vhost;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::base::Result;
use crate::daemon;
use output::Format;
use session::Session;

/// Software-defined shared NVMe: control of the local weftd
#[derive(Debug, Parser)]
#[command(name = "weft", version, propagate_version = true)]
struct Cli {
    /// RPC socket of the daemon [default: as weftd chooses it]
    #[arg(short, long, global = true, env = "WEFT_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Prints JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the service in the foreground: the same as weftd
    Daemon(daemon::Options),
    Quickstart(quickstart::QuickstartCommand),
    Rpc(rpc::RpcCommand),
    #[command(subcommand)]
    Bdev(bdev::BdevCommand),
    #[command(subcommand)]
    Raid(raid::RaidCommand),
    #[command(subcommand)]
    Nvme(nvme::NvmeCommand),
    #[command(subcommand)]
    Vhost(vhost::VhostCommand),
    #[command(subcommand)]
    Host(host::HostCommand),
    Dd(dd::DdCommand),
    Iostat(iostat::IostatCommand),
    #[command(subcommand)]
    Reactor(reactor::ReactorCommand),
    /// Prints a completion script for a shell: weft completion bash > /etc/bash_completion.d/weft
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let format = if cli.json { Format::Json } else { Format::Text };
    let socket = cli.socket.unwrap_or_else(crate::rpc::default_socket);
    let mut session = Session::new(socket, format);
    match cli.command {
        Command::Daemon(options) => {
            daemon::start_log(options.log_level.into());
            daemon::run(&options)
        }
        Command::Quickstart(command) => command.run(),
        Command::Rpc(command) => command.run(&mut session),
        Command::Bdev(command) => command.run(&mut session),
        Command::Raid(command) => command.run(&mut session),
        Command::Nvme(command) => command.run(&mut session),
        Command::Vhost(command) => command.run(&mut session),
        Command::Host(command) => command.run(&session),
        Command::Dd(command) => command.run(),
        Command::Iostat(command) => command.run(&mut session),
        Command::Reactor(command) => command.run(&mut session),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "weft", &mut std::io::stdout());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
