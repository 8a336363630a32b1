//! A controller of the driver on a model, on a detached reactor, and one user's queue on it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft::base::{Result, Status};
use weft::memory::{Buffer, HugePages, PoolOptions, Registry, Segment, Sharing};
use weft::nvme::model::{Model, ModelOptions};
use weft::nvme::spec::{DsmRange, IoOpcode, SubmissionEntry};
use weft::nvme::{
    Controller, ControllerOptions, Done, Notice, Push, Queue, State, TimeoutAction, Transport,
};
use weft::reactor::Context;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn context() -> Context {
    let pool = PoolOptions {
        huge_pages: HugePages::Never,
        sharing: Sharing::Always,
        ..PoolOptions::default()
    };
    Context::detached(Registry::new(), pool)
}

/// Short time-outs: what has to time out in a test does so soon.
pub fn impatient() -> ControllerOptions {
    ControllerOptions {
        timeout: Duration::from_millis(150),
        admin_timeout: Duration::from_secs(2),
        timeout_action: TimeoutAction::Abort,
        admin_poll_period: Duration::from_millis(1),
        ..ControllerOptions::default()
    }
}

/// Time-outs that no test reaches, and quick polls.
pub fn patient() -> ControllerOptions {
    ControllerOptions {
        admin_poll_period: Duration::from_millis(1),
        ..ControllerOptions::default()
    }
}

/// What a controller told.
pub type Notices = Rc<RefCell<Vec<Notice>>>;

/// Attaches the controller behind a transport.
pub fn attach(
    cx: &Context,
    transport: Arc<dyn Transport>,
    options: ControllerOptions,
) -> Result<(Rc<Controller>, Notices)> {
    let notices = Notices::default();
    let told = Rc::clone(&notices);
    let watcher = Rc::new(move |notice| {
        told.borrow_mut().push(notice);
        Box::pin(std::future::ready(())) as _
    });
    let attached = cx.block_on(Controller::attach(cx, None, transport, options, watcher));
    attached.map(|controller| (controller, notices))
}

pub struct Rig {
    pub cx: Context,
    pub model: Arc<Model>,
    pub controller: Rc<Controller>,
    pub notices: Notices,
    pub io: Io,
}

impl Rig {
    pub fn new(options: ModelOptions) -> Rig {
        Rig::with(options, patient())
    }

    pub fn with(options: ModelOptions, own: ControllerOptions) -> Rig {
        let cx = context();
        let model = Model::new(options);
        cx.add_poller("model", None, model.poller());
        let (controller, notices) = attach(&cx, model.transport(), own).unwrap();
        let io = Io::open(&cx, &controller);
        Rig { cx, model, controller, notices, io }
    }

    /// Turns the reactor until `done`.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Rig) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
            self.cx.turn();
            self.io.poll();
        }
    }

    pub fn wait_for_state(&mut self, state: State) {
        self.until(&format!("{state:?}"), |rig| rig.controller.state() == state);
    }

    /// Detaches, and checks that the driver did nothing that it must not do.
    pub fn finish(self) {
        let Rig { cx, model, controller, io, .. } = self;
        drop(io);
        cx.block_on(controller.request_detach()).unwrap();
        assert_eq!(model.faults(), []);
        assert_eq!(model.io_queues(), 0);
        drop(controller);
        cx.close();
    }
}

/// Commands on a queue; by tag, what became of each.
pub struct Io {
    cx: Context,
    queue: Queue,
    next: u64,
    buffers: Vec<(u64, Buffer)>,
    pub done: Vec<Done>,
}

impl Io {
    pub fn open(cx: &Context, controller: &Controller) -> Io {
        let queue = controller.opener().open(cx).unwrap();
        Io { cx: cx.clone(), queue, next: 0, buffers: Vec::new(), done: Vec::new() }
    }

    fn now() -> u64 {
        weft::reactor::Tsc::read().0
    }

    pub fn poll(&mut self) {
        let Io { queue, done, .. } = self;
        queue.poll(Self::now(), 1024, |completion| {
            assert!(
                done.iter().all(|other| other.tag != completion.tag),
                "{completion:?} completed twice"
            );
            done.push(completion);
        });
    }

    /// Commands that have not come back.
    pub fn outstanding(&self) -> u64 {
        self.next - self.done.len() as u64
    }

    fn wait_for_room(&mut self) {
        self.cx.turn();
        self.poll();
    }

    fn push(&mut self, mut push: impl FnMut(&mut Queue, [u64; 3]) -> Push) -> u64 {
        let tag = [self.next, !self.next, 7];
        let start = Instant::now();
        loop {
            match push(&mut self.queue, tag) {
                Push::Taken => break,
                Push::Refused(status) => {
                    self.done.push(Done { tag, status, result: 0 });
                    break;
                }
                Push::Full => {
                    assert!(start.elapsed() < PATIENCE, "the queue stays full");
                    self.wait_for_room();
                }
            }
        }
        self.next += 1;
        self.next - 1
    }

    fn buffer(&self, data: &[u8]) -> Buffer {
        let mut buffer = self.cx.pool().take(data.len()).unwrap();
        buffer.bytes_mut()[..data.len()].copy_from_slice(data);
        buffer
    }

    /// Submits a command with `data` in a buffer, cut into segments of these lengths (the rest in a last one).
    pub fn submit_cut(&mut self, command: SubmissionEntry, data: &[u8], cuts: &[u32]) -> u64 {
        let buffer = self.buffer(data);
        // SAFETY: the buffer is kept until the command has come back.
        let whole = unsafe { buffer.segment(data.len() as u32) };
        let mut segments: Vec<Segment> = Vec::new();
        let mut at = 0;
        for &cut in cuts {
            segments.push(whole.part(at, cut));
            at += cut;
        }
        if at < data.len() as u32 {
            segments.push(whole.part(at, data.len() as u32 - at));
        }
        let tag = self.push(|queue, tag| {
            let list = segments.iter().copied();
            queue.batch(Self::now()).push(tag, command, segments.len(), segments[0], list)
        });
        self.buffers.push((tag, buffer));
        tag
    }

    pub fn submit(&mut self, command: SubmissionEntry, data: &[u8]) -> u64 {
        if data.is_empty() {
            return self.push(|queue, tag| queue.batch(Self::now()).push_bare(tag, command));
        }
        self.submit_cut(command, data, &[])
    }

    /// Waits for a command; its status, and its buffer's contents.
    pub fn wait(&mut self, tag: u64) -> (Status, Vec<u8>) {
        let start = Instant::now();
        loop {
            if let Some(done) = self.done.iter().find(|done| done.tag[0] == tag) {
                assert_eq!(done.tag, [tag, !tag, 7]);
                let status = done.status;
                let at = self.buffers.iter().position(|(other, _)| *other == tag);
                let data =
                    at.map_or(Vec::new(), |at| self.buffers.swap_remove(at).1.bytes().to_vec());
                return (status, data);
            }
            assert!(start.elapsed() < PATIENCE, "command {tag} never came back");
            self.cx.turn();
            self.poll();
        }
    }

    pub fn run(&mut self, command: SubmissionEntry, data: &mut [u8]) -> Status {
        let tag = self.submit(command, data);
        let (status, back) = self.wait(tag);
        data.copy_from_slice(&back[..data.len()]);
        status
    }

    pub fn run_bare(&mut self, command: SubmissionEntry) -> Status {
        let tag = self.submit(command, &[]);
        self.wait(tag).0
    }

    pub fn deallocate(&mut self, nsid: u32, start: u64, blocks: u32) -> Status {
        let command = SubmissionEntry {
            cdw11: DsmRange::DEALLOCATE,
            ..SubmissionEntry::new(IoOpcode::DATASET_MANAGEMENT, nsid)
        };
        let range = DsmRange { attributes: 0, blocks, start };
        let tag = self.push(|queue, tag| queue.batch(Self::now()).push_range(tag, command, range));
        self.wait(tag).0
    }

    pub fn compare_and_write(
        &mut self,
        nsid: u32,
        lba: u64,
        blocks: u32,
        compared: &[u8],
        written: &[u8],
    ) -> Status {
        let (first, second) = (self.buffer(compared), self.buffer(written));
        // SAFETY: both buffers live until the command has come back.
        let segments =
            unsafe { (first.segment(compared.len() as u32), second.segment(written.len() as u32)) };
        let commands = [
            block_command(IoOpcode::COMPARE, nsid, lba, blocks),
            block_command(IoOpcode::WRITE, nsid, lba, blocks),
        ];
        let tag = self.push(|queue, tag| {
            let payloads = [std::iter::once(segments.0), std::iter::once(segments.1)];
            queue.batch(Self::now()).push_fused(tag, commands, payloads)
        });
        self.wait(tag).0
    }
}

/// A command on `blocks` blocks from `lba` on.
pub fn block_command(opcode: u8, nsid: u32, lba: u64, blocks: u32) -> SubmissionEntry {
    SubmissionEntry {
        cdw10: lba as u32,
        cdw11: (lba >> 32) as u32,
        cdw12: blocks - 1,
        ..SubmissionEntry::new(opcode, nsid)
    }
}

pub fn read(lba: u64, blocks: u32) -> SubmissionEntry {
    block_command(IoOpcode::READ, 1, lba, blocks)
}

pub fn write(lba: u64, blocks: u32) -> SubmissionEntry {
    block_command(IoOpcode::WRITE, 1, lba, blocks)
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9).wrapping_add(seed * 131) >> 11) as u8)
        .collect()
}
