//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::plan::draw::Theme;

/// The mesh in one process, in virtual time, from one seed.
#[derive(Parser)]
#[command(name = "weft-sim", version, about)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Runs many seeds, and prints those that go wrong. The last line is a JSON object.
    Run(Many),
    /// Runs one seed again.
    Replay {
        /// The seed.
        seed: u64,
        #[command(flatten)]
        shape: Shape,
        #[command(flatten)]
        show: Show,
        /// Break this rule, such as S8.
        #[arg(long)]
        rule: Option<String>,
        /// Leave out these acts, by their numbers in the plan.
        #[arg(long, value_delimiter = ',')]
        without: Vec<usize>,
        /// Leave out all other acts.
        #[arg(long, value_delimiter = ',')]
        only: Vec<usize>,
        /// Look for acts that can be left out, and print what remains.
        #[arg(long)]
        shrink: bool,
    },
    /// Breaks each rule in turn, and looks whether that is noticed. Fails unless all are.
    Mutations {
        /// Only this rule, such as S8.
        #[arg(long)]
        rule: Option<String>,
        /// Seeds to try for each rule at most.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Threads; as many as there are cores if not given.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Explores the small-scope model.
    Model {
        /// Only what is small enough for every push.
        #[arg(long)]
        quick: bool,
        /// Print the trace of each counter-example.
        #[arg(long)]
        traces: bool,
    },
    /// Plays a scenario, and tells its story. Without a name, lists all.
    Scenario {
        /// Its name, or "list", or "all".
        name: Option<String>,
        #[command(flatten)]
        show: Show,
        /// The seed of all chance in it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Break this rule, such as S8.
        #[arg(long)]
        rule: Option<String>,
    },
    /// Runs fresh seeds for a time.
    Soak {
        /// Hours of real time.
        #[arg(long)]
        hours: f64,
        #[command(flatten)]
        shape: Shape,
        /// Threads; as many as there are cores if not given.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Measures how long I/O stalls when something fails.
    Failover {
        /// Runs of each kind.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// Threads; as many as there are cores if not given.
        #[arg(long)]
        jobs: Option<usize>,
    },
}

/// Many seeds.
#[derive(Args)]
pub struct Many {
    /// How many.
    #[arg(long, default_value_t = 1000)]
    pub seeds: u64,
    /// The first; fresh ones if not given.
    #[arg(long)]
    pub from: Option<u64>,
    #[command(flatten)]
    pub shape: Shape,
    /// Threads; as many as there are cores if not given.
    #[arg(long)]
    pub jobs: Option<usize>,
}

/// What is not left to the seed.
#[derive(Args, Clone, Copy)]
pub struct Shape {
    /// Nodes of each mesh.
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=9))]
    pub nodes: Option<u64>,
    /// Seconds for which each mesh is busy.
    #[arg(long)]
    pub seconds: Option<u64>,
    /// The mix of faults; drawn from the seed if not given.
    #[arg(long, value_enum)]
    pub theme: Option<Theme>,
}

/// How a run is shown.
#[derive(Args)]
pub struct Show {
    /// Tell what happens, line by line.
    #[arg(long)]
    pub story: bool,
    /// Tell of all messages as well.
    #[arg(long)]
    pub messages: bool,
    /// Write a page with a space-time diagram.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}
