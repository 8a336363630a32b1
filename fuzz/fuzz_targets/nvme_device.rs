//! The NVMe driver on a device that is driven by bytes: identify data, registers, what becomes of commands, completions
//! that nobody asked for. Whatever they say: no panic, every command comes back once, and the device is pointed
//! at no memory that it was not given.
#![no_main]

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{self, Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use weft::base::Status;
use weft::memory::{HugePages, PoolOptions, Registry};
use weft::nvme::model::{
    Action, Fault as DeviceFault, Model, ModelOptions, NamespaceOptions, Pick,
};
use weft::nvme::spec::{CompletionEntry, IoOpcode, Register, SubmissionEntry};
use weft::nvme::{Controller, ControllerOptions, Push, Queue, State};
use weft::reactor::{Context, Tsc};

/// A command that has not come back by then never will: every time-out below is far shorter.
const PATIENCE: Duration = Duration::from_secs(8);

/// What happens between commands.
#[derive(Arbitrary, Debug)]
enum Event {
    Read { lba: u8, blocks: u8 },
    Write { lba: u8, blocks: u8 },
    WriteZeroes { lba: u8, blocks: u8 },
    Flush,
    Step(u8),
    Inject { admin: bool, opcode: Option<u8>, skip: u8, count: u8, fault: Fault },
    Post { queue: u8, bytes: [u8; 16] },
    Overlay { cns: u8, offset: u16, bytes: [u8; 8] },
    Resize { nsid: u8, blocks: u16 },
    Remove { nsid: u8 },
    Add { nsid: u8, large: bool },
    Raise(u32),
    Fail,
}

#[derive(Arbitrary, Debug)]
enum Fault {
    Fail { sct: u8, sc: u8, do_not_retry: bool },
    Hold,
    Delay(u8),
    Twice,
    WrongCommandId(u16),
    WrongQueueId(u16),
    WrongHead(u16),
    WrongPhase,
    Raw([u8; 16]),
    Fatal,
    Unplug,
}

fn entry(bytes: [u8; 16]) -> CompletionEntry {
    let field = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    CompletionEntry {
        dw0: u32::from(field(0)) | u32::from(field(2)) << 16,
        dw1: u32::from(field(4)) | u32::from(field(6)) << 16,
        sq_head: field(8),
        sq_id: field(10),
        command_id: field(12),
        status: field(14),
    }
}

impl Fault {
    fn action(self) -> Action {
        match self {
            Fault::Fail { sct, sc, do_not_retry } => {
                Action::Fail { status: Status::new(sct, sc.max(1)), do_not_retry }
            }
            Fault::Hold => Action::Hold,
            Fault::Delay(steps) => Action::Delay(steps.into()),
            Fault::Twice => Action::Twice,
            Fault::WrongCommandId(id) => Action::WrongCommandId(id),
            Fault::WrongQueueId(id) => Action::WrongQueueId(id),
            Fault::WrongHead(head) => Action::WrongHead(head),
            Fault::WrongPhase => Action::WrongPhase,
            Fault::Raw(bytes) => Action::Raw(entry(bytes)),
            Fault::Fatal => Action::Fatal,
            Fault::Unplug => Action::Unplug,
        }
    }
}

/// The device before the driver comes.
#[derive(Arbitrary, Debug)]
struct Shape {
    sgl: bool,
    shadow_doorbells: bool,
    scattered: bool,
    abort_works: bool,
    reorder: bool,
    entries_log2: u8,
    mdts: u8,
    capabilities: Option<(u32, u32)>,
    version: Option<u32>,
    overlays: Vec<(u8, u16, [u8; 6])>,
}

/// A device that lies about its queues is rung where it has none; but never is it pointed at memory that it was not given.
fn keeps_to_its_memory(model: &Model) {
    let faults = model.faults();
    assert!(!faults.iter().any(|fault| matches!(fault, DeviceFault::Memory { .. })), "{faults:?}");
}

struct Driver {
    cx: Context,
    model: Arc<Model>,
    controller: Rc<Controller>,
    queue: Queue,
    memory: weft::memory::Buffer,
    pushed: u64,
    /// By number: whether a command has come back.
    back: Vec<bool>,
}

impl Driver {
    fn attach(shape: Shape) -> Option<Driver> {
        let pool = PoolOptions { huge_pages: HugePages::Never, ..PoolOptions::default() };
        let cx = Context::detached(Registry::new(), pool);
        let model = Model::new(ModelOptions {
            sgl: shape.sgl,
            shadow_doorbells: shape.shadow_doorbells,
            scattered: shape.scattered,
            abort_works: shape.abort_works,
            reorder: shape.reorder.then_some(3),
            queue_entries_max: 2 << (shape.entries_log2 % 8),
            mdts: shape.mdts % 10,
            timeout_half_seconds: 1,
            namespaces: vec![
                NamespaceOptions::small_blocks(1, 512),
                NamespaceOptions::large_blocks(2, 512),
            ],
            ..ModelOptions::default()
        });
        for (cns, offset, bytes) in shape.overlays {
            model.overlay_identify(cns % 4, None, usize::from(offset % 4096), bytes.to_vec());
        }
        if let Some((low, high)) = shape.capabilities {
            // CAP.TO of half a second: a device may let the driver wait for two minutes, but not the fuzzer.
            model.force_register(Register::CAP, Some(low & 0x00ff_ffff | 1 << 24));
            model.force_register(Register::CAP + 4, Some(high));
        }
        model.force_register(Register::VS, shape.version);
        cx.add_poller("model", None, model.poller());
        let options = ControllerOptions {
            timeout: Duration::from_millis(20),
            admin_timeout: Duration::from_millis(20),
            admin_poll_period: Duration::from_millis(1),
            io_queue_size: 64,
            ..ControllerOptions::default()
        };
        let watcher = Rc::new(|_| Box::pin(std::future::ready(())) as _);
        let attach = Controller::attach(&cx, None, model.transport(), options, watcher);
        let Ok(controller) = cx.block_on(attach) else {
            keeps_to_its_memory(&model);
            cx.close();
            return None;
        };
        let queue = controller.opener().open(&cx).expect("the only reactor's queue");
        let memory = cx.pool().take(1 << 20).expect("a buffer");
        Some(Driver { cx, model, controller, queue, memory, pushed: 0, back: Vec::new() })
    }

    fn push(&mut self, opcode: u8, lba: u8, blocks: u8, block: u32) {
        let blocks = u32::from(blocks % 64) + 1;
        let command = SubmissionEntry {
            cdw10: u32::from(lba),
            cdw12: blocks - 1,
            ..SubmissionEntry::new(opcode, if block == 512 { 1 } else { 2 })
        };
        let tag = [self.pushed, 1, 2];
        let mut batch = self.queue.batch(Tsc::read().0);
        let pushed = match opcode {
            IoOpcode::READ | IoOpcode::WRITE => {
                let length = (blocks * block).min(self.controller.transfer_max());
                // SAFETY: the buffer lives until `finish` has seen every command come back. What the commands write into
                // each other's data nobody looks at.
                let segment = unsafe { self.memory.segment(length) };
                batch.push(tag, command, 1, segment, std::iter::once(segment))
            }
            _ => batch.push_bare(tag, command),
        };
        drop(batch);
        if pushed == Push::Taken {
            self.pushed += 1;
            self.back.push(false);
        }
    }

    fn poll(&mut self) {
        let back = &mut self.back;
        self.queue.poll(Tsc::read().0, 64, |done| {
            let place = back.get_mut(done.tag[0] as usize).expect("a command of ours");
            assert!(!std::mem::replace(place, true), "{done:?} came back twice");
        });
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Read { lba, blocks } => self.push(IoOpcode::READ, lba, blocks, 512),
            Event::Write { lba, blocks } => self.push(IoOpcode::WRITE, lba, blocks, 4096),
            Event::WriteZeroes { lba, blocks } => {
                self.push(IoOpcode::WRITE_ZEROES, lba, blocks, 512);
            }
            Event::Flush => self.push(IoOpcode::FLUSH, 0, 0, 512),
            Event::Step(turns) => {
                for _ in 0..=turns % 16 {
                    self.cx.turn();
                    self.poll();
                }
            }
            Event::Inject { admin, opcode, skip, count, fault } => {
                let pick = Pick {
                    queue: admin.then_some(0),
                    opcode,
                    skip: skip.into(),
                    count: Some(u64::from(count % 4) + 1),
                    ..Pick::default()
                };
                self.model.inject(pick, fault.action());
            }
            Event::Post { queue, bytes } => {
                self.model.post(u16::from(queue % 2), entry(bytes));
            }
            Event::Overlay { cns, offset, bytes } => {
                let offset = usize::from(offset % 4096);
                self.model.overlay_identify(cns % 4, None, offset, bytes.to_vec());
            }
            Event::Resize { nsid, blocks } => {
                self.model.resize_namespace(u32::from(nsid % 4), blocks.into());
            }
            Event::Remove { nsid } => {
                self.model.remove_namespace(u32::from(nsid % 4));
            }
            Event::Add { nsid, large } => {
                let nsid = u32::from(nsid % 4) + 1;
                self.model.add_namespace(match large {
                    true => NamespaceOptions::large_blocks(nsid, 300),
                    false => NamespaceOptions::small_blocks(nsid, 300),
                });
            }
            Event::Raise(dword) => {
                self.model.raise(weft::nvme::spec::AsyncEvent::decode(dword));
            }
            Event::Fail => self.model.fail(),
        }
    }

    /// Everything comes back, and the controller can be detached.
    fn finish(mut self) {
        let start = Instant::now();
        while self.back.contains(&false) {
            assert!(start.elapsed() < PATIENCE, "a command never came back");
            self.cx.turn();
            self.poll();
        }
        let Driver { cx, model, controller, queue, .. } = self;
        drop(queue);
        cx.block_on(controller.request_detach()).expect("not detached before");
        assert_eq!(controller.state(), State::Detached);
        keeps_to_its_memory(&model);
        cx.close();
    }
}

fn run(input: &[u8]) -> Result<()> {
    let mut input = Unstructured::new(input);
    let shape = Shape::arbitrary(&mut input)?;
    let Some(mut driver) = Driver::attach(shape) else { return Ok(()) };
    for _ in 0..60 {
        match Event::arbitrary(&mut input) {
            Ok(event) if !input.is_empty() => driver.apply(event),
            _ => break,
        }
    }
    driver.finish();
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    // Too short an input says nothing of the device.
    let _ = run(input);
});
