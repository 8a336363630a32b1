//! Devices that do as they should: every command, every way to describe memory, queues that wrap, power that fails.

use weft::base::Status;
use weft::nvme::model::{ModelOptions, NamespaceOptions};
use weft::nvme::spec::{IoOpcode, LbaFormat, NSID_ALL, SubmissionEntry};
use weft::nvme::{ControllerOptions, Notice, State};

use crate::rig::{Rig, block_command, patient, pattern, read, write};

/// Write, read back and compare, in many sizes and cuts.
fn exercise(rig: &mut Rig, nsid: u32, block: usize) {
    let mut seed = 1;
    for (blocks, offset) in [(1, 0_u64), (3, 5), (8, 16), (64, 100), (256, 512), (400, 4096)] {
        let bytes = blocks as usize * block;
        if bytes > rig.controller.transfer_max() as usize {
            continue;
        }
        seed += 1;
        let mut data = pattern(seed, bytes);
        let io = &mut rig.io;
        assert!(
            io.run(block_command(IoOpcode::WRITE, nsid, offset, blocks), &mut data).is_success()
        );
        let cuts: Vec<u32> = match bytes {
            512 => vec![],
            // On dwords, as segments of PRPs cannot be; and on pages, as they can.
            bytes if bytes < 1 << 16 => vec![512, 512],
            _ => vec![4096; 7],
        };
        let cuts = if rig.controller.takes_sgl() { cuts } else { vec![] };
        let tag = io.submit_cut(
            block_command(IoOpcode::READ, nsid, offset, blocks),
            &vec![0; bytes],
            &cuts,
        );
        let (status, back) = io.wait(tag);
        assert!(status.is_success() && back[..bytes] == data, "{status}, {blocks} blocks");
        let compare = block_command(IoOpcode::COMPARE, nsid, offset, blocks);
        assert_eq!(io.run(compare, &mut data), Status::SUCCESS);
        data[bytes - 1] ^= 1;
        assert_eq!(io.run(compare, &mut data), Status::COMPARE_FAILURE);
    }
}

#[test]
fn every_shape_of_controller_serves_io() {
    let plain = ModelOptions::default();
    let shapes = [
        plain.clone(),
        ModelOptions { sgl: false, ..plain.clone() },
        ModelOptions { sgl: false, scattered: true, ..plain.clone() },
        ModelOptions { scattered: true, ..plain.clone() },
        ModelOptions { shadow_doorbells: true, ..plain.clone() },
        ModelOptions { shadow_doorbells: true, doorbell_stride_log2: 3, ..plain.clone() },
        ModelOptions { reorder: Some(5), ..plain.clone() },
        ModelOptions { queue_entries_max: 2, ..plain.clone() },
        ModelOptions { queue_entries_max: 7, doorbell_stride_log2: 1, ..plain.clone() },
        ModelOptions { mdts: 1, ready_after_reads: 0, ..plain.clone() },
        ModelOptions { mdts: 0, io_queues: 1, abort_limit: 1, async_event_limit: 1, ..plain },
    ];
    for mut options in shapes {
        options.namespaces =
            vec![NamespaceOptions::small_blocks(1, 9000), NamespaceOptions::large_blocks(7, 9000)];
        let mut rig = Rig::new(options);
        let namespaces = rig.controller.namespaces();
        assert_eq!(namespaces.iter().map(|ns| ns.nsid).collect::<Vec<_>>(), [1, 7]);
        assert_eq!(namespaces[1].geometry.block_size.bytes(), 4096);
        exercise(&mut rig, 1, 512);
        exercise(&mut rig, 7, 4096);
        rig.finish();
    }
}

#[test]
fn many_commands_at_once_wrap_the_rings() {
    for (entries, shadow, reorder) in
        [(8, false, None), (8, true, None), (32, true, Some(1)), (64, false, Some(9))]
    {
        let options = ModelOptions {
            queue_entries_max: entries,
            shadow_doorbells: shadow,
            reorder,
            ..ModelOptions::default()
        };
        let mut rig = Rig::new(options);
        let mut tags = Vec::new();
        for lba in 0..300_u64 {
            tags.push(rig.io.submit(write(lba, 1), &pattern(lba, 512)));
        }
        for tag in tags {
            assert!(rig.io.wait(tag).0.is_success());
        }
        let tags: Vec<_> = (0..300).map(|lba| rig.io.submit(read(lba, 1), &[0; 512])).collect();
        for (lba, tag) in (0..).zip(tags) {
            assert_eq!(rig.io.wait(tag).1[..512], pattern(lba, 512));
        }
        rig.finish();
    }
}

#[test]
fn commands_without_data_do_what_they_say() {
    let mut rig = Rig::new(ModelOptions::default());
    let io = &mut rig.io;
    assert!(io.run(write(0, 64), &mut pattern(1, 64 * 512)).is_success());
    assert_eq!(io.run_bare(block_command(IoOpcode::WRITE_ZEROES, 1, 0, 8)), Status::SUCCESS);
    assert_eq!(io.deallocate(1, 8, 8), Status::SUCCESS);
    assert_eq!(io.run_bare(block_command(IoOpcode::VERIFY, 1, 0, 64)), Status::SUCCESS);
    let mut data = vec![1; 64 * 512];
    assert!(io.run(read(0, 64), &mut data).is_success());
    assert!(data[..16 * 512].iter().all(|&byte| byte == 0));
    assert_eq!(data[16 * 512..], pattern(1, 64 * 512)[16 * 512..]);

    let bad = block_command(IoOpcode::WRITE_UNCORRECTABLE, 1, 20, 2);
    assert_eq!(io.run_bare(bad), Status::SUCCESS);
    assert_eq!(io.run(read(16, 8), &mut data[..4096]), Status::UNRECOVERED_READ_ERROR);
    let verify = block_command(IoOpcode::VERIFY, 1, 21, 1);
    assert_eq!(io.run_bare(verify), Status::UNRECOVERED_READ_ERROR);
    assert!(io.run(write(20, 2), &mut data[..1024]).is_success());
    assert_eq!(io.run(read(16, 8), &mut data[..4096]), Status::SUCCESS);

    let end = rig.controller.namespaces()[0].geometry.blocks.0;
    assert_eq!(rig.io.run(read(end, 1), &mut data[..512]), Status::LBA_OUT_OF_RANGE);
    let absent = block_command(IoOpcode::READ, 9, 0, 1);
    assert_eq!(rig.io.run(absent, &mut data[..512]), Status::INVALID_NAMESPACE);
    let health = rig.cx.block_on(rig.controller.health()).unwrap();
    assert_eq!(u128::from_le_bytes(health.media_errors), 2);
    let errors = rig.cx.block_on(rig.controller.errors(2)).unwrap();
    assert_eq!(errors.iter().map(|error| error.lba).collect::<Vec<_>>(), [0, end]);
    assert_eq!(errors[1].status(), Status::LBA_OUT_OF_RANGE);
    rig.finish();
}

#[test]
fn compare_and_write_is_one_command() {
    let mut rig = Rig::new(ModelOptions { reorder: Some(3), ..ModelOptions::default() });
    let (old, new) = (vec![0; 2048], pattern(3, 2048));
    let io = &mut rig.io;
    assert_eq!(io.compare_and_write(1, 8, 4, &old, &new), Status::SUCCESS);
    assert_eq!(io.compare_and_write(1, 8, 4, &old, &new), Status::COMPARE_FAILURE);
    let mut data = vec![0; 2048];
    assert!(io.run(read(8, 4), &mut data).is_success());
    assert_eq!(data, new);
    assert_eq!(io.compare_and_write(1, 8, 4, &new, &old), Status::SUCCESS);
    rig.finish();
}

#[test]
fn only_flushed_writes_survive_a_power_failure() {
    let mut rig = Rig::new(ModelOptions::default());
    assert!(rig.controller.write_cache());
    let flush = SubmissionEntry::new(IoOpcode::FLUSH, NSID_ALL);
    assert!(rig.io.run(write(0, 1), &mut pattern(1, 512)).is_success());
    assert_eq!(rig.io.run_bare(flush), Status::SUCCESS);
    assert!(rig.io.run(write(1, 1), &mut pattern(2, 512)).is_success());
    let through = SubmissionEntry { cdw12: 1 << 30, ..write(2, 1) };
    assert!(rig.io.run(through, &mut pattern(3, 512)).is_success());
    rig.model.lose_power(|_, _| false);
    // The controller comes back reset behind the driver's back.
    rig.until("the reset", |rig| {
        rig.notices.borrow().contains(&Notice::State(State::Resetting))
            && rig.controller.state() == State::Ready
    });
    let mut data = vec![9; 3 * 512];
    assert!(rig.io.run(read(0, 3), &mut data).is_success());
    assert_eq!(data[..512], pattern(1, 512));
    assert_eq!(data[512..1024], [0; 512]);
    assert_eq!(data[1024..], pattern(3, 512));
    rig.finish();
}

#[test]
fn namespaces_come_go_and_grow() {
    let mut rig = Rig::new(ModelOptions::default());
    rig.notices.borrow_mut().clear();
    rig.model.add_namespace(NamespaceOptions::large_blocks(3, 1000));
    rig.until("the namespace", |rig| rig.controller.namespaces().len() == 2);
    assert!(rig.model.resize_namespace(3, 2000));
    rig.until("its growth", |rig| {
        rig.controller.namespaces().iter().any(|ns| ns.nsid == 3 && ns.geometry.blocks.0 == 2000)
    });
    assert!(rig.model.remove_namespace(1));
    rig.until("the removal", |rig| rig.controller.namespaces().len() == 1);
    let told: Vec<_> = rig
        .notices
        .borrow()
        .iter()
        .map(|notice| match notice {
            Notice::Added(namespace) => ("added", namespace.nsid),
            Notice::Removed(namespace) => ("removed", namespace.nsid),
            Notice::Resized(namespace) => ("resized", namespace.nsid),
            Notice::State(_) => ("state", 0),
        })
        .collect();
    assert_eq!(told, [("added", 3), ("resized", 3), ("removed", 1)]);
    rig.finish();
}

#[test]
fn namespaces_with_metadata_or_odd_blocks_do_no_harm() {
    let with = |nsid, format| NamespaceOptions {
        format: 0,
        formats: vec![format],
        ..NamespaceOptions::small_blocks(nsid, 1000)
    };
    let options = ModelOptions {
        namespaces: vec![
            with(1, LbaFormat::new(9, 8)),
            with(2, LbaFormat::new(12, 0)),
            NamespaceOptions { extended_metadata: true, ..with(3, LbaFormat::new(9, 8)) },
            with(4, LbaFormat::new(16, 0)),
        ],
        ..ModelOptions::default()
    };
    let rig = Rig::new(options);
    let usable: Vec<_> = rig.controller.namespaces().iter().map(|ns| ns.nsid).collect();
    assert!(usable.contains(&2) && !usable.contains(&3), "{usable:?}");
    rig.finish();
}

#[test]
fn a_controller_can_be_reset_and_attached_again() {
    let mut rig = Rig::new(ModelOptions { ready_after_reads: 5, ..ModelOptions::default() });
    assert!(rig.io.run(write(7, 1), &mut pattern(7, 512)).is_success());
    for _ in 0..3 {
        rig.cx.block_on(rig.controller.request_reset()).unwrap();
        let mut data = vec![0; 512];
        assert!(rig.io.run(read(7, 1), &mut data).is_success());
        assert_eq!(data, pattern(7, 512));
    }
    let model = rig.model.clone();
    rig.finish();
    let cx = crate::rig::context();
    cx.add_poller("model", None, model.poller());
    let options = ControllerOptions { io_queue_size: 16, ..patient() };
    let (controller, _) = crate::rig::attach(&cx, model.transport(), options).unwrap();
    let mut io = crate::rig::Io::open(&cx, &controller);
    let mut data = vec![0; 512];
    assert!(io.run(read(7, 1), &mut data).is_success());
    // The shutdown flushed the cache.
    assert_eq!(data, pattern(7, 512));
    drop(io);
    cx.block_on(controller.request_detach()).unwrap();
    assert_eq!(model.faults(), []);
    cx.close();
}
