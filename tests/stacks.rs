//! Random stacks of virtual bdevs against a plain in-memory model.
//!
//! Every request completes exactly once, with the ticket it had, and touches no memory but its
//! payload; what is read is what was written, wherever no fault was injected into the write; nothing
//! fails without a cause; and when a device of the stack is removed under load, everything over it goes and
//! every request ends.

mod support;

use proptest::prelude::*;
use support::drive::{Driver, Step, quiet_steps, rough_steps};
use support::tree::{Tree, any_tree, build};
use weft::base::BlockSize;
use weft::bdev::Registry;
use weft::memory::{HugePages, PoolOptions, Registry as Regions};
use weft::reactor::Context;

fn run(
    tree: &Tree,
    block_size: BlockSize,
    depths: &[u32],
    steps: &[Step],
) -> Result<(), TestCaseError> {
    let pool = PoolOptions { huge_pages: HugePages::Never, ..PoolOptions::default() };
    let cx = Context::detached(Regions::new(), pool);
    let registry = Registry::new(&cx);
    let built = build(&registry, tree, block_size);
    Driver::new(&cx, &registry, built, depths).run(steps)
}

/// How many stacks a run tries: as many as `PROPTEST_CASES` says, or what takes some seconds.
fn cases() -> u32 {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default().cases,
        None => 64,
    }
}

fn any_block_size() -> impl Strategy<Value = BlockSize> {
    prop_oneof![Just(BlockSize::B512), Just(BlockSize::B4096)]
}

fn any_depths() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![1_u32..4, 1_u32..40], 1..=2)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        // A request that never completes takes its time to show, each time anew.
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_healthy_stack_is_a_plain_device(
        tree in any_tree(4),
        block_size in any_block_size(),
        depths in any_depths(),
        steps in quiet_steps(),
    ) {
        run(&tree, block_size, &depths, &steps)?;
    }

    #[test]
    fn faults_and_removals_end_every_request_once(
        tree in any_tree(4),
        block_size in any_block_size(),
        depths in any_depths(),
        steps in rough_steps(),
    ) {
        run(&tree, block_size, &depths, &steps)?;
    }
}
