//! `weft-sim`: the mesh in one process, in virtual time, from one seed; and its small-scope model.
#![allow(dead_code)]

mod check;
mod model;
mod payload;
mod plan;
mod random;
mod run;
mod story;
mod watch;
mod world;

fn main() -> std::process::ExitCode {
    let given = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    model::run(given("--quick"), given("--traces"))
}
