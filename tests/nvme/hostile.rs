//! Devices that do not do as they should. Whatever the device does: every outstanding command comes back exactly once,
//! with a status that fits, and the controller recovers or is given up.

use std::time::Duration;

use proptest::prelude::*;
use weft::base::Status;
use weft::nvme::model::{Action, Fault, Model, ModelOptions, NamespaceOptions, Pick};
use weft::nvme::spec::{
    AdminOpcode, AsyncError, AsyncEvent, AsyncEventKind, CompletionEntry, IoOpcode, LogPage,
    Register,
};
use weft::nvme::{ControllerOptions, Notice, ResetPolicy, State, TimeoutAction};

use crate::rig::{Rig, attach, block_command, context, impatient, pattern, read, write};

fn resets(rig: &Rig) -> usize {
    let notices = rig.notices.borrow();
    notices.iter().filter(|notice| **notice == Notice::State(State::Resetting)).count()
}

/// The controller serves I/O (again).
fn works(rig: &mut Rig) {
    let data = pattern(99, 4096);
    assert!(rig.io.run(write(800, 8), &mut data.clone()).is_success());
    let mut back = vec![0; 4096];
    assert!(rig.io.run(read(800, 8), &mut back).is_success());
    assert_eq!(back, data);
}

#[test]
fn a_failed_command_fails_with_its_status() {
    let mut rig = Rig::new(ModelOptions::default());
    for (status, do_not_retry) in [
        (Status::UNRECOVERED_READ_ERROR, false),
        (Status::INTERNAL_ERROR, true),
        (Status::new(6, 0x55), true),
        (Status::COMMAND_INTERRUPTED, true),
    ] {
        rig.model.inject(Pick::io(IoOpcode::READ), Action::Fail { status, do_not_retry });
        assert_eq!(rig.io.run(read(0, 1), &mut [0; 512]), status);
        rig.model.clear_injections();
    }
    assert!(rig.io.run(read(0, 1), &mut [0; 512]).is_success());
    assert_eq!(resets(&rig), 0);
    rig.finish();
}

#[test]
fn a_transient_failure_is_tried_again_but_not_for_ever() {
    let mut rig = Rig::new(ModelOptions::default());
    let interrupted = Action::Fail { status: Status::COMMAND_INTERRUPTED, do_not_retry: false };
    rig.model.inject(Pick::io(IoOpcode::WRITE).times(3), interrupted.clone());
    assert!(rig.io.run(write(0, 1), &mut [1; 512]).is_success());
    let before = rig.model.commands();
    rig.model.inject(Pick::io(IoOpcode::READ), interrupted);
    assert_eq!(rig.io.run(read(0, 1), &mut [0; 512]), Status::COMMAND_INTERRUPTED);
    let tried = rig.model.commands() - before;
    assert!((5..20).contains(&tried), "{tried} commands");
    rig.finish();
}

#[test]
fn a_fused_operation_fails_as_one() {
    let mut rig = Rig::new(ModelOptions::default());
    let fail = |status| Action::Fail { status, do_not_retry: true };
    let (old, new) = (vec![0; 512], vec![5; 512]);
    for opcode in [IoOpcode::COMPARE, IoOpcode::WRITE] {
        rig.model.inject(Pick::io(opcode), fail(Status::UNRECOVERED_READ_ERROR));
        let status = rig.io.compare_and_write(1, 3, 1, &old, &new);
        assert_eq!(status, Status::UNRECOVERED_READ_ERROR, "opcode {opcode:#x}");
        rig.model.clear_injections();
    }
    assert!(rig.io.compare_and_write(1, 3, 1, &old, &new).is_success());
    rig.finish();
}

#[test]
fn impossible_completions_reset_the_controller() {
    let raw = CompletionEntry { command_id: 0xffff, sq_id: 0xffff, ..CompletionEntry::default() };
    for action in [
        Action::Twice,
        Action::WrongCommandId(900),
        Action::WrongCommandId(u16::MAX),
        Action::WrongQueueId(0),
        Action::WrongQueueId(2),
        Action::WrongHead(u16::MAX),
        Action::WrongHead(700),
        Action::Raw(raw),
    ] {
        let mut rig = Rig::new(ModelOptions::default());
        rig.model.inject(Pick::io(IoOpcode::READ).after(10).times(1), action.clone());
        let tags: Vec<_> = (0..30).map(|lba| rig.io.submit(read(lba, 1), &[0; 512])).collect();
        for tag in tags {
            let status = rig.io.wait(tag).0;
            assert!(status.is_success(), "{action:?}: {status}");
        }
        rig.until("the reset", |rig| resets(rig) == 1 && rig.controller.state() == State::Ready);
        works(&mut rig);
        rig.finish();
    }
}

#[test]
fn unasked_completions_reset_the_controller() {
    for queue in [0, 1] {
        let mut rig = Rig::new(ModelOptions::default());
        let entry = CompletionEntry { sq_id: queue, command_id: 5, ..CompletionEntry::default() };
        // On the admin queue, command 5 is none that is outstanding.
        assert!(rig.model.post(queue, CompletionEntry { command_id: 50, ..entry }));
        rig.until("the reset", |rig| resets(rig) == 1 && rig.controller.state() == State::Ready);
        works(&mut rig);
        rig.finish();
    }
}

#[test]
fn a_device_that_never_stops_is_given_up_or_goes_on() {
    // Every completion is wrong, after every reset.
    let options = ControllerOptions { retries: 2, ..impatient() };
    let mut rig = Rig::with(ModelOptions::default(), options);
    rig.model.inject(Pick::io(IoOpcode::READ), Action::WrongCommandId(3000));
    let tags: Vec<_> = (0..5).map(|lba| rig.io.submit(read(lba, 1), &[0; 512])).collect();
    for tag in tags {
        let status = rig.io.wait(tag).0;
        assert!(!status.is_success(), "{status}");
    }
    assert!(resets(&rig) >= 1);
    rig.model.clear_injections();
    rig.until("an end", |rig| matches!(rig.controller.state(), State::Ready | State::Failed));
    rig.finish();
}

#[test]
fn a_command_that_hangs_is_aborted() {
    let mut rig = Rig::with(ModelOptions::default(), impatient());
    rig.model.inject(Pick::io(IoOpcode::READ).times(1), Action::Hold);
    assert!(rig.io.run(read(5, 1), &mut [0; 512]).is_success(), "aborted, and sent again");
    assert_eq!((resets(&rig), rig.model.held()), (0, 0));
    rig.finish();
}

#[test]
fn a_command_that_outlives_its_abort_costs_a_reset() {
    for policy in [ResetPolicy::Retry, ResetPolicy::Fail] {
        for action in [TimeoutAction::Abort, TimeoutAction::Reset] {
            let own =
                ControllerOptions { reset_policy: policy, timeout_action: action, ..impatient() };
            let options = ModelOptions { abort_works: false, ..ModelOptions::default() };
            let mut rig = Rig::with(options, own);
            rig.model.inject(Pick::io(IoOpcode::WRITE).times(1), Action::Hold);
            let status = rig.io.run(write(5, 1), &mut [3; 512]);
            let expected = match policy {
                ResetPolicy::Retry => Status::SUCCESS,
                ResetPolicy::Fail => Status::ABORTED_BY_REQUEST,
            };
            assert_eq!(status, expected, "{policy:?} {action:?}");
            assert_eq!(resets(&rig), 1);
            works(&mut rig);
            rig.finish();
        }
    }
}

#[test]
fn a_completion_with_the_old_phase_times_out_and_is_recovered() {
    let mut rig = Rig::with(ModelOptions::default(), impatient());
    rig.model.inject(Pick::io(IoOpcode::READ).after(2).times(1), Action::WrongPhase);
    let tags: Vec<_> = (0..6).map(|lba| rig.io.submit(read(lba, 1), &[0; 512])).collect();
    for tag in tags {
        assert!(rig.io.wait(tag).0.is_success());
    }
    assert_eq!(resets(&rig), 1);
    works(&mut rig);
    rig.finish();
}

#[test]
fn a_fatal_status_is_recovered() {
    let mut rig = Rig::with(ModelOptions::default(), impatient());
    rig.model.inject(Pick::io(IoOpcode::READ).after(3).times(1), Action::Fatal);
    let tags: Vec<_> = (0..8).map(|lba| rig.io.submit(read(lba, 1), &[0; 512])).collect();
    for tag in tags {
        assert!(rig.io.wait(tag).0.is_success());
    }
    assert!(resets(&rig) >= 1);
    works(&mut rig);
    rig.finish();
}

#[test]
fn a_controller_that_does_not_come_back_is_given_up() {
    let options = ModelOptions { timeout_half_seconds: 1, ..ModelOptions::default() };
    let mut rig = Rig::with(options, impatient());
    let tags: Vec<_> = (0..4)
        .map(|lba| {
            rig.model.inject(Pick::io(IoOpcode::READ), Action::Hold);
            rig.io.submit(read(lba, 1), &[0; 512])
        })
        .collect();
    rig.model.set_stuck(true);
    rig.model.fail();
    for tag in tags {
        assert_eq!(rig.io.wait(tag).0, Status::INTERNAL_PATH_ERROR);
    }
    rig.wait_for_state(State::Failed);
    assert_eq!(rig.io.run(read(0, 1), &mut [0; 512]), Status::INTERNAL_PATH_ERROR);
    // The operator may try again when the drive has been mended.
    rig.model.set_stuck(false);
    rig.model.clear_injections();
    rig.cx.block_on(rig.controller.request_reset()).unwrap();
    assert_eq!(rig.controller.state(), State::Ready);
    works(&mut rig);
    rig.finish();
}

#[test]
fn an_unplugged_device_ends_everything() {
    for announced in [false, true] {
        let mut rig = Rig::with(ModelOptions::default(), impatient());
        rig.model.inject(Pick::io(IoOpcode::READ), Action::Hold);
        let tags: Vec<_> = (0..9).map(|lba| rig.io.submit(read(lba, 1), &[0; 512])).collect();
        rig.until("the commands", |rig| rig.model.held() == 9);
        rig.model.unplug();
        if announced {
            rig.model.announce_removal();
        }
        for tag in tags {
            assert_eq!(rig.io.wait(tag).0, Status::INTERNAL_PATH_ERROR);
        }
        rig.wait_for_state(State::Removed);
        rig.until("the namespaces to go", |rig| rig.controller.namespaces().is_empty());
        assert_eq!(rig.io.run(write(0, 1), &mut [0; 512]), Status::INTERNAL_PATH_ERROR);
        let Rig { cx, model, controller, io, .. } = rig;
        drop(io);
        cx.block_on(controller.request_detach()).unwrap();
        assert_eq!(model.faults(), []);
        cx.close();
    }
}

#[test]
fn a_device_may_vanish_at_any_register_access() {
    for reads in 0..60 {
        let cx = context();
        let model = Model::new(ModelOptions::default());
        cx.add_poller("model", None, model.poller());
        model.unplug_after_reads(reads);
        let options = ControllerOptions { admin_timeout: Duration::from_millis(20), ..impatient() };
        match attach(&cx, model.transport(), options) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok((controller, _)) => cx.block_on(controller.request_detach()).unwrap(),
        }
        assert_eq!(model.faults(), [], "after {reads} reads");
        cx.close();
    }
}

#[test]
fn admin_commands_that_fail_fail_the_attach_and_leave_nothing() {
    for opcode in [
        AdminOpcode::IDENTIFY,
        AdminOpcode::SET_FEATURES,
        AdminOpcode::CREATE_IO_CQ,
        AdminOpcode::CREATE_IO_SQ,
        AdminOpcode::ASYNC_EVENT_REQUEST,
        AdminOpcode::GET_FEATURES,
    ] {
        for nth in 0..4 {
            for action in [
                Action::Fail { status: Status::INVALID_FIELD, do_not_retry: true },
                Action::Hold,
                Action::WrongCommandId(62),
                Action::Fatal,
                Action::Unplug,
            ] {
                let cx = context();
                let model = Model::new(ModelOptions::default());
                cx.add_poller("model", None, model.poller());
                model.inject(Pick::admin(opcode).after(nth), action.clone());
                let options =
                    ControllerOptions { admin_timeout: Duration::from_millis(10), ..impatient() };
                if let Ok((controller, _)) = attach(&cx, model.transport(), options) {
                    cx.block_on(controller.request_detach()).unwrap();
                }
                assert_eq!(model.faults(), [], "{opcode:#x} number {nth}: {action:?}");
                cx.close();
            }
        }
    }
}

#[test]
fn fewer_queues_are_lived_with() {
    let mut rig = Rig::new(ModelOptions { io_queues: 1, ..ModelOptions::default() });
    assert_eq!(rig.controller.io_queues(), 1);
    works(&mut rig);
    rig.finish();
}

#[test]
fn events_that_mean_nothing_do_no_harm() {
    let mut rig = Rig::new(ModelOptions::default());
    for dword in [0x0000_0000, 0x00ff_ff07, 0x0001_0000, 0x0000_0505, 0x0002_0001] {
        rig.model.raise(AsyncEvent::decode(dword));
    }
    let kind = AsyncEventKind::Error(AsyncError::PersistentInternal);
    rig.model.raise(AsyncEvent { kind, log_page: LogPage::ERROR });
    rig.model.warn(0xff);
    let before = rig.model.commands();
    rig.until("the events to be handled", |rig| rig.model.commands() >= before + 8);
    works(&mut rig);
    assert_eq!(resets(&rig), 0);
    rig.finish();
}

#[test]
fn the_model_notices_a_driver_that_is_wrong() {
    // What the other tests rely on.
    let mut rig = Rig::new(ModelOptions::default());
    rig.model.write_register(Register::DOORBELLS + 8 * 9, 1);
    rig.model.write_register(Register::DOORBELLS + 4, 63);
    rig.until("the faults", |rig| rig.model.commands() > 0);
    rig.cx.turn();
    let faults = rig.model.faults();
    assert!(faults.contains(&Fault::DoorbellRegister { index: 18 }), "{faults:?}");
    assert!(faults.contains(&Fault::DoorbellValue { index: 1, value: 63 }), "{faults:?}");
    works(&mut rig);
    rig.finish();
}

/// What may go wrong with I/O, and how often.
fn any_action() -> impl Strategy<Value = Action> {
    let status = (0_u8..4, any::<u8>()).prop_map(|(sct, sc)| Status::new(sct, sc.max(1)));
    prop_oneof![
        4 => (status, any::<bool>())
            .prop_map(|(status, do_not_retry)| Action::Fail { status, do_not_retry }),
        3 => (0_u64..50).prop_map(Action::Delay),
        1 => Just(Action::Hold),
        1 => Just(Action::Twice),
        1 => any::<u16>().prop_map(Action::WrongCommandId),
        1 => any::<u16>().prop_map(Action::WrongQueueId),
        1 => any::<u16>().prop_map(Action::WrongHead),
        1 => Just(Action::WrongPhase),
        1 => Just(Action::Fatal),
        1 => any::<[u8; 16]>().prop_map(|bytes| Action::Raw(zerocopy::transmute!(bytes))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Blocks hold what was written last, whatever goes wrong on the way, unless a write failed or was in
    /// doubt; every command comes back once; the driver keeps to the protocol.
    #[test]
    fn commands_come_back_and_blocks_hold(
        faults in prop::collection::vec((0_u64..40, 1_u64..4, any_action()), 0..4),
        lbas in prop::collection::vec(0_u64..12, 1..80),
        shape in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 1_u32..5),
    ) {
        let (sgl, shadow_doorbells, scattered, abort_works, entries_log2) = shape;
        let options = ModelOptions {
            sgl,
            shadow_doorbells,
            scattered,
            abort_works,
            queue_entries_max: 1 << entries_log2,
            reorder: sgl.then_some(11),
            namespaces: vec![NamespaceOptions::large_blocks(1, 100)],
            ..ModelOptions::default()
        };
        let own = ControllerOptions { timeout: Duration::from_millis(30), ..impatient() };
        let mut rig = Rig::with(options, own);
        // A second completion that comes when its identifier is in use again is that of the later command, for all that
        // anybody can tell: no driver gets the contents right then.
        let lies = (sgl || entries_log2 == 1)
            && faults.iter().any(|(_, _, action)| matches!(action, Action::Twice));
        for (after, times, action) in faults {
            let pick = Pick { queue: Some(1), skip: after, count: Some(times), ..Pick::default() };
            rig.model.inject(pick, action);
        }
        // Blocks by their last known seed; `None` when a write may or may not have happened.
        let mut known = [Some(0); 12];
        for (seed, &lba) in (1..).zip(&lbas) {
            let status = rig.io.run(block_command(IoOpcode::WRITE, 1, lba, 1), &mut pattern(seed, 4096));
            known[lba as usize] = status.is_success().then_some(seed);
        }
        rig.model.clear_injections();
        let alive = |rig: &Rig| matches!(rig.controller.state(), State::Ready | State::Failed);
        rig.until("an end of resets", alive);
        if rig.controller.state() == State::Ready {
            for (lba, seed) in (0..).zip(known) {
                let mut data = vec![1; 4096];
                let status = rig.io.run(block_command(IoOpcode::READ, 1, lba, 1), &mut data);
                prop_assert!(status.is_success(), "{status}");
                match seed.filter(|_| !lies) {
                    Some(0) => prop_assert!(data.iter().all(|&byte| byte == 0)),
                    Some(seed) => prop_assert!(data == pattern(seed, 4096), "block {lba}"),
                    None => {}
                }
            }
        }
        prop_assert_eq!(rig.io.outstanding(), 0);
        let Rig { cx, model, controller, io, .. } = rig;
        drop(io);
        cx.block_on(controller.request_detach()).unwrap();
        prop_assert_eq!(model.faults(), vec![]);
        cx.close();
    }

    /// Identify data that no honest device returns: an attach that works or an error, and no harm.
    #[test]
    fn any_identify_data(
        overlays in prop::collection::vec(
            (0_u8..4, 0_usize..600, prop::collection::vec(any::<u8>(), 1..40)), 1..6
        ),
        cap in prop::option::of(any::<(u32, u32)>()),
    ) {
        let cx = context();
        let model = Model::new(ModelOptions::default());
        cx.add_poller("model", None, model.poller());
        for (cns, offset, bytes) in overlays {
            model.overlay_identify(cns, None, offset, bytes);
        }
        if let Some((low, high)) = cap {
            // A time-out (bits 31:24) of two seconds at the most, to get on.
            model.force_register(Register::CAP, Some(low & 0x00ff_ffff | 0x0100_0000));
            model.force_register(Register::CAP + 4, Some(high));
        }
        let own = ControllerOptions { admin_timeout: Duration::from_millis(100), ..impatient() };
        if let Ok((controller, _)) = attach(&cx, model.transport(), own) {
            let mut io = crate::rig::Io::open(&cx, &controller);
            for namespace in controller.namespaces() {
                let bytes = namespace.geometry.block_size.bytes() as usize;
                if bytes <= 1 << 20 {
                    io.run(block_command(IoOpcode::READ, namespace.nsid, 0, 1), &mut vec![0; bytes]);
                }
            }
            drop(io);
            cx.block_on(controller.request_detach()).unwrap();
        }
        cx.close();
    }
}
