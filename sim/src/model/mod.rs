//! A small-scope model of the core of the mesh protocol: leases, epochs, writes and rounds, in every
//! order in which they can happen.
//!
//! It is an abstraction with its own small structures, not the code that runs: one group with one
//! block, which is also one region of the intent map; two or three replicas; two clients in
//! exclusive mode, of which the second may preempt the first. Stateright explores every state of a
//! [`scope::Scope`]. A rule can be left out ([`scope::Mutations`]), and then a counter-example must
//! turn up: a model that finds nothing proves nothing.
//!
//! Time is the one thing that it has none of. That W has passed since an eviction is a step that can
//! happen at any time; what it means is that from then on a target serves nothing unless it has
//! applied that eviction, which is exactly what leases promise.
//!
//! Not modelled: `shared-write` and `shared-read`, several blocks in a region, several groups, the
//! quorum that decides the log, media errors, volatile caches, relays, liveness.

mod check;
mod history;
mod picture;
mod properties;
mod rules;
mod scope;
mod state;
mod step;
mod story;
mod suite;

pub use suite::run;

#[cfg(test)]
mod tests;
