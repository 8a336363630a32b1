//! `weft-sim`: the mesh in one process, in virtual time, from one seed; and its small-scope model.
//!
//! | part | job |
//! | --- | --- |
//! | [`world`] | hosts, clocks, stores, drives, network: virtual time, all faults |
//! | [`plan`] | what a run is made of, drawn from a seed or written by hand |
//! | [`run`] | the director: makes the mesh, plays clients and operator, lets it recover |
//! | [`check`] | judges of what clients saw, of what drives hold, of what daemons acted on |
//! | [`story`] | what happened, for people |
//! | [`scenario`] | runs written by hand |
//! | [`model`] | the core of the protocol, explored exhaustively at small scope |

mod check;
mod cli;
mod commands;
mod jobs;
mod model;
mod payload;
mod plan;
mod random;
mod run;
mod scenario;
mod story;
mod tally;
mod watch;
mod world;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    commands::execute(cli::Cli::parse().command)
}
