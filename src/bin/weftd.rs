//! The service.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let options = weft::daemon::Options::parse();
    weft::daemon::start_log(options.log_level.into());
    match weft::daemon::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weftd: {error}");
            ExitCode::FAILURE
        }
    }
}
