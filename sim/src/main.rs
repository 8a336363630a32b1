//! `weft-sim`: the mesh in one process, in virtual time, from one seed; and its small-scope model.

mod model;

fn main() {
    model::run();
}
