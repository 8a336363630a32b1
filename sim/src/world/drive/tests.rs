use std::collections::BTreeSet;

use super::*;

fn drive(seed: u64) -> Drive {
    Drive::new(Uuid::from_u128(1), 1024, Speed::GOOD, Random::new(seed))
}

fn write(value: u64, stable: bool) -> DiskOperation<Blocks> {
    DiskOperation::Write { block: 8, payload: Blocks::new([value; 4]), stable }
}

fn run(drive: &mut Drive, operation: DiskOperation<Blocks>) -> DiskResult<Blocks> {
    let (work, _) = drive.begin(Ticket(1), operation);
    drive.end(work).expect("it ends").1
}

fn held(drive: &Drive) -> Vec<u64> {
    (8..12).map(|block| drive.medium.value(block)).collect()
}

#[test]
fn a_loss_of_power_tears_what_is_in_hand_and_keeps_what_was_stable() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let mut drive = drive(seed);
        assert_eq!(run(&mut drive, write(1, true)), DiskResult::Done);
        let (work, _) = drive.begin(Ticket(2), write(2, true));
        drive.lose_power();
        assert!(drive.end(work).is_none(), "an operation from before the reset ended");
        let held = held(&drive);
        assert!(held.iter().all(|value| [1, 2].contains(value)), "{held:?}");
        seen.insert(held);
    }
    assert!(seen.contains(&vec![1; 4]) && seen.contains(&vec![2; 4]));
    assert!(seen.len() > 4, "torn writes: {seen:?}");
}

#[test]
fn a_volatile_write_is_promised_only_by_a_flush_that_began_after_it() {
    let mut lost = 0;
    for seed in 0..100 {
        let mut drive = drive(seed);
        run(&mut drive, write(1, false));
        assert_eq!(run(&mut drive, DiskOperation::Flush), DiskResult::Done);
        let (flush, _) = drive.begin(Ticket(3), DiskOperation::Flush);
        run(&mut drive, write(2, false));
        drive.end(flush);
        drive.lose_power();
        let held = held(&drive);
        assert!(held.iter().all(|value| [1, 2].contains(value)), "{held:?}");
        lost += u32::from(held.contains(&1));
    }
    assert!(lost > 50);
}

#[test]
fn reads_of_spoilt_blocks_fail_until_they_are_written() {
    let mut drive = drive(1);
    run(&mut drive, write(1, true));
    run(&mut drive, DiskOperation::Poison { block: 9, blocks: 1 });
    let read = DiskOperation::Read { block: 8, blocks: 4 };
    assert_eq!(run(&mut drive, read.clone()), DiskResult::Unreadable);
    run(&mut drive, write(2, true));
    assert_eq!(run(&mut drive, read), DiskResult::Data(Blocks::new([2; 4])));
}

#[test]
fn a_full_drive_can_be_read_and_a_failing_one_cannot() {
    let mut drive = drive(1);
    run(&mut drive, write(1, true));
    drive.ailment.full = true;
    assert_eq!(run(&mut drive, write(2, true)), DiskResult::Failed);
    let read = DiskOperation::Read { block: 8, blocks: 4 };
    assert_eq!(run(&mut drive, read.clone()), DiskResult::Data(Blocks::new([1; 4])));
    drive.ailment.failing = true;
    assert_eq!(run(&mut drive, read), DiskResult::Failed);
    let outside = DiskOperation::Read { block: 1020, blocks: 8 };
    drive.ailment = Ailment::default();
    assert_eq!(run(&mut drive, outside), DiskResult::Failed);
}

#[test]
fn metadata_reads_back_as_bytes_and_as_zeroes_where_there_is_none() {
    let mut drive = drive(1);
    let bytes: Arc<[u8]> = (0..2 * BLOCK_BYTES).map(|at| (at / 100) as u8).collect();
    run(&mut drive, DiskOperation::WriteMeta { block: 100, bytes: Arc::clone(&bytes) });
    let read = |drive: &mut Drive, block| run(drive, DiskOperation::ReadMeta { block, blocks: 2 });
    assert_eq!(read(&mut drive, 100), DiskResult::Meta(bytes));
    assert_eq!(read(&mut drive, 200), DiskResult::Meta(vec![0; 2 * BLOCK_BYTES].into()));
}
