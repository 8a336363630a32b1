//! `weft-perf`: drives bdevs in this process and reports what they do.
//!
//! A run is planned (`arguments`, `plan`, `spec`), staffed (`crew`: a `worker` for each job, device and
//! core, with a `load` to ask for), driven on pinned reactors (`session`, `core`), and told about
//! (`measure`, `report`). docs/perf-tool.md is the manual.

#[cfg(test)]
mod allocations;
mod arguments;
mod core;
mod crew;
mod empty;
mod findings;
mod host;
mod load;
mod measure;
mod payload;
mod plan;
mod progress;
mod report;
mod session;
mod shape;
mod spec;
mod verify;
mod worker;

use std::process::ExitCode;

use arguments::Arguments;
use report::Run;
use weft::base::Error;

/// I/O failed, blocks were not as written, or requests never completed.
const EXIT_FAILED: u8 = 1;
/// The run could not be done at all.
const EXIT_REFUSED: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::from_command_line();
    match session::run(&arguments).and_then(|run| publish(&arguments, &run).map(|()| run)) {
        Ok(run) => {
            let errors_matter = !arguments.allow_errors && run.total().1.errors > 0;
            if errors_matter || !run.verified() || run.lost() > 0 {
                ExitCode::from(EXIT_FAILED)
            } else {
                ExitCode::SUCCESS
            }
        }
        Err(error) => {
            eprintln!("weft-perf: {error}");
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

fn publish(arguments: &Arguments, run: &Run) -> weft::base::Result<()> {
    if let Some(path) = &arguments.html {
        std::fs::write(path, report::html(run))
            .map_err(|error| Error::os(format!("cannot write {}", path.display()), error))?;
    }
    if arguments.json {
        println!("{}", report::json(run));
    } else {
        print!("{}", report::text(run));
    }
    Ok(())
}
