//! The NVMe driver on controllers that QEMU emulates, without a guest. Skipped, with a message, where QEMU is not
//! installed.

#[allow(dead_code, reason = "shared with the tests on the model")]
#[path = "nvme/rig.rs"]
mod rig;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rig::{Io, block_command, context, patient, pattern};
use weft::base::Status;
use weft::memory::{HugePages, Region, RegionId, RegionOptions, RegionView, Sharing};
use weft::nvme::qtest::{Machine, Slot};
use weft::nvme::spec::{
    AdminOpcode, Capabilities, CompletionEntry, ControllerConfiguration, ControllerStatus,
    DataPointer, IoOpcode, Register, SubmissionEntry, Version, admin_queue_attributes,
};
use weft::nvme::{Controller, ControllerOptions, Iova, State};
use weft::reactor::Context;
use zerocopy::FromBytes;

const QEMU: &str = "qemu-system-x86_64";

/// A running QEMU with its processors stopped. Dropped, it ends.
struct Qemu {
    child: Child,
    folder: tempfile::TempDir,
}

impl Qemu {
    /// `None` where QEMU is not installed. `arguments` name files in the folder by `{}`.
    fn start(arguments: &[&str], images: &[(&str, u64)]) -> Option<Qemu> {
        if Command::new(QEMU).arg("-version").stdout(Stdio::null()).status().is_err() {
            println!("skipped: {QEMU} is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in images {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            file.set_len(*bytes).unwrap();
        }
        let path = folder.path().display().to_string();
        let mut command = Command::new(QEMU);
        command.args(["-S", "-accel", "tcg", "-machine", "q35", "-nodefaults", "-display", "none"]);
        command.args(["-m", "16M,slots=256,maxmem=64G", "-qtest-log", "/dev/null"]);
        command.args(["-qtest", &format!("unix:{path}/qtest,server=on,wait=off")]);
        command.args(["-qmp", &format!("unix:{path}/qmp,server=on,wait=off")]);
        command.args(arguments.iter().map(|argument| argument.replace("{}", &path)));
        let child = command.spawn().unwrap();
        Some(Qemu { child, folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn machine(&mut self, cx: &Context) -> Arc<Machine> {
        let start = Instant::now();
        loop {
            let (qtest, monitor) = (self.path("qtest"), self.path("qmp"));
            let patience = Duration::from_secs(20);
            match cx.block_on(Machine::connect(cx, &qtest, &monitor, patience)) {
                Ok(machine) => return machine,
                Err(error) => {
                    assert!(start.elapsed() < patience, "{error}");
                    assert!(self.child.try_wait().unwrap().is_none(), "QEMU ended: {error}");
                    std::thread::yield_now();
                }
            }
        }
    }

    fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn attach(cx: &Context, machine: &Arc<Machine>, device: u8) -> Rc<Controller> {
    let transport = cx.block_on(machine.transport(cx, Slot { device, function: 0 })).unwrap();
    rig::attach(cx, transport, patient()).unwrap().0
}

fn detach(cx: &Context, controller: &Controller) {
    cx.block_on(controller.request_detach()).unwrap();
    assert_eq!(controller.state(), State::Detached);
}

/// Drive `d0` behind a controller in slot 4.
const ONE_DRIVE: [&str; 4] = [
    "-drive",
    "file={}/image,if=none,id=d0,format=raw,discard=unmap",
    "-device",
    "nvme,serial=weft0,drive=d0,addr=4.0",
];

#[test]
fn registers_doorbells_and_memory_work_by_hand() {
    let Some(mut qemu) = Qemu::start(&ONE_DRIVE, &[("image", 1 << 20)]) else { return };
    let cx = context();
    let machine = qemu.machine(&cx);
    let slot = Slot { device: 4, function: 0 };
    assert_eq!(cx.block_on(machine.controllers(&cx)).unwrap(), [slot]);
    assert!(cx.block_on(machine.transport(&cx, Slot { device: 9, function: 0 })).is_err());
    cx.block_on(async {
        let transport = machine.transport(&cx, slot).await.unwrap();
        assert!(transport.window() >= 0x2000);
        assert!(transport.read32(&cx, transport.window() as u32).await.is_err());
        let cap = Capabilities(transport.read64(&cx, Register::CAP).await.unwrap());
        assert_eq!((cap.doorbell_stride_bytes(), cap.page_size_min()), (4, 4096));
        let version = Version(transport.read32(&cx, Register::VS).await.unwrap());
        assert!(version >= Version::new(1, 4, 0));

        let private = Region::allocate(1, HugePages::Never).unwrap();
        let view = RegionView { id: RegionId::NONE, region: Arc::new(private) };
        assert!(transport.map(&cx, &view).await.is_err(), "no file is behind it");
        let shared = RegionOptions {
            huge_pages: HugePages::Never,
            sharing: Sharing::Always,
            ..RegionOptions::default()
        };
        let region = Region::allocate(1, shared).unwrap();
        let memory = region.start();
        let view = RegionView { id: RegionId::NONE, region: Arc::new(region) };
        let Iova::Linear(base) = transport.map(&cx, &view).await.unwrap() else {
            panic!("in one piece")
        };
        assert_eq!(transport.map(&cx, &view).await.unwrap(), Iova::Linear(base));

        transport.write32(&cx, Register::AQA, admin_queue_attributes(8, 8)).await.unwrap();
        transport.write64(&cx, Register::ASQ, base).await.unwrap();
        transport.write64(&cx, Register::ACQ, base + 0x1000).await.unwrap();
        let cc = ControllerConfiguration::default().with_entry_sizes(6, 4).with_enable(true);
        transport.write32(&cx, Register::CC, cc.0).await.unwrap();
        while !ControllerStatus(transport.read32(&cx, Register::CSTS).await.unwrap()).is_ready() {}

        let identify = SubmissionEntry {
            command_id: 77,
            cdw10: 1,
            data: DataPointer { prp1: base + 0x2000, prp2: 0 },
            ..SubmissionEntry::new(AdminOpcode::IDENTIFY, 0)
        };
        // SAFETY: the region is this test's, and nothing is outstanding.
        unsafe { memory.cast::<SubmissionEntry>().write(identify) };
        Arc::clone(&transport).doorbell(Register::DOORBELLS).unwrap().ring(1);
        let start = Instant::now();
        let entry = loop {
            // SAFETY: within the region; the device writes there, and any bytes are an entry.
            let entry = unsafe { memory.add(0x1000).cast::<CompletionEntry>().read_volatile() };
            if entry.phase() {
                break entry;
            }
            assert!(start.elapsed() < Duration::from_secs(10));
            cx.yield_now().await;
        };
        assert_eq!((entry.command_id, entry.status()), (77, Status::SUCCESS));
        // SAFETY: within the region; the device is done with it.
        let bytes = unsafe { memory.add(0x2000).cast::<[u8; 4096]>().read() };
        let identify = weft::nvme::spec::IdentifyController::read_from_bytes(&bytes).unwrap();
        assert_eq!(identify.serial_number(), "weft0");
        assert_eq!(identify.version(), version);
        transport.write32(&cx, Register::CC, 0).await.unwrap();
    });
    cx.close();
}

#[test]
fn a_drive_is_attached_used_and_detached() {
    let Some(mut qemu) = Qemu::start(&ONE_DRIVE, &[("image", 64 << 20)]) else { return };
    let cx = context();
    let machine = qemu.machine(&cx);
    for round in 0..2 {
        let controller = attach(&cx, &machine, 4);
        assert_eq!(controller.identify().serial_number(), "weft0");
        assert_eq!(controller.namespaces()[0].geometry.blocks.0, (64 << 20) / 512);
        assert!(controller.write_cache());
        let mut io = Io::open(&cx, &controller);
        for (seed, blocks) in [(1, 1), (2, 8), (3, 9), (4, 100), (5, 256), (6, 1024)] {
            let bytes = blocks as usize * 512;
            if bytes > controller.transfer_max() as usize {
                continue;
            }
            let lba = seed * 2000 + round * 3;
            let data = pattern(seed + round, bytes);
            assert!(io.run(rig::write(lba, blocks), &mut data.clone()).is_success());
            let mut back = vec![0; bytes];
            assert!(io.run(rig::read(lba, blocks), &mut back).is_success());
            assert!(back == data, "{blocks} blocks");
            let mut compared = data.clone();
            let compare = block_command(IoOpcode::COMPARE, 1, lba, blocks);
            assert_eq!(io.run(compare, &mut compared), Status::SUCCESS);
            compared[bytes - 1] ^= 1;
            assert_eq!(io.run(compare, &mut compared), Status::COMPARE_FAILURE);
        }
        let mut data = vec![0xff; 4096];
        assert!(io.run(rig::write(0, 8), &mut data).is_success());
        assert!(io.run_bare(block_command(IoOpcode::WRITE_ZEROES, 1, 2, 2)).is_success());
        assert!(io.run_bare(block_command(IoOpcode::VERIFY, 1, 0, 8)).is_success());
        assert!(io.deallocate(1, 0, 1).is_success());
        assert!(io.run_bare(SubmissionEntry::new(IoOpcode::FLUSH, 1)).is_success());
        assert!(io.run(rig::read(0, 8), &mut data).is_success());
        assert!(data[1024..2048].iter().all(|&byte| byte == 0));
        assert!(data[2048..].iter().all(|&byte| byte == 0xff));
        let end = (64 << 20) / 512;
        assert_eq!(io.run(rig::read(end - 1, 2), &mut data[..1024]), Status::LBA_OUT_OF_RANGE);
        let health = cx.block_on(controller.health()).unwrap();
        assert!(u128::from_le_bytes(health.host_read_commands) > 0);

        // As many at once as go.
        let tags: Vec<_> =
            (0..400).map(|lba| io.submit(rig::write(lba, 1), &pattern(lba, 512))).collect();
        for tag in tags {
            assert!(io.wait(tag).0.is_success());
        }
        cx.block_on(controller.request_reset()).unwrap();
        let tags: Vec<_> = (0..400).map(|lba| io.submit(rig::read(lba, 1), &[0; 512])).collect();
        for (lba, tag) in (0..).zip(tags) {
            let (status, back) = io.wait(tag);
            assert!(status.is_success() && back[..512] == pattern(lba, 512));
        }
        drop(io);
        detach(&cx, &controller);
    }
    qemu.end();
    let image = std::fs::read(qemu.path("image")).unwrap();
    assert_eq!(image[5 * 512..6 * 512], pattern(5, 512));
    cx.close();
}

#[test]
fn several_controllers_and_namespaces() {
    let arguments = [
        "-drive",
        "file={}/a,if=none,id=d0,format=raw",
        "-device",
        "nvme,serial=weft0,drive=d0,addr=4.0",
        "-device",
        "nvme-subsys,id=s0,nqn=weft-test",
        "-device",
        "nvme,serial=weft1,subsys=s0,max_ioqpairs=2,mdts=3,addr=5.0",
        "-drive",
        "file={}/b,if=none,id=d1,format=raw",
        "-device",
        "nvme-ns,drive=d1,nsid=1,logical_block_size=4096,physical_block_size=4096",
        "-drive",
        "file={}/c,if=none,id=d2,format=raw",
        "-device",
        "nvme-ns,drive=d2,nsid=3,uuid=2d3b5b7c-5ab6-4a32-9a3d-3c1a6f5f5b11",
    ];
    let images = [("a", 8 << 20), ("b", 8 << 20), ("c", 4 << 20)];
    let Some(mut qemu) = Qemu::start(&arguments, &images) else { return };
    let cx = context();
    let machine = qemu.machine(&cx);
    assert_eq!(cx.block_on(machine.controllers(&cx)).unwrap().len(), 2);
    let (first, second) = (attach(&cx, &machine, 4), attach(&cx, &machine, 5));
    let found: Vec<_> = second
        .namespaces()
        .iter()
        .map(|ns| (ns.nsid, ns.geometry.block_size.bytes(), ns.geometry.blocks.0))
        .collect();
    assert_eq!(found, [(1, 4096, 2048), (3, 512, 8192)]);
    assert_eq!(second.namespaces()[1].uuid.to_string(), "2d3b5b7c-5ab6-4a32-9a3d-3c1a6f5f5b11");
    assert_eq!(second.transfer_max(), 32 << 10);
    let (mut one, mut two) = (Io::open(&cx, &first), Io::open(&cx, &second));
    for lba in 0..50 {
        let data = pattern(lba, 8 * 4096);
        let tags = [
            one.submit(rig::write(lba * 64, 64), &data),
            two.submit(block_command(IoOpcode::WRITE, 1, lba * 8, 8), &data),
            two.submit(block_command(IoOpcode::WRITE, 3, lba * 64, 64), &data),
        ];
        assert!(one.wait(tags[0]).0.is_success());
        assert!(two.wait(tags[1]).0.is_success() && two.wait(tags[2]).0.is_success());
    }
    for lba in 0..50 {
        let mut data = vec![0; 8 * 4096];
        assert!(two.run(block_command(IoOpcode::READ, 1, lba * 8, 8), &mut data).is_success());
        assert!(data == pattern(lba, data.len()));
        assert!(two.run(block_command(IoOpcode::READ, 3, lba * 64, 64), &mut data).is_success());
        assert!(data == pattern(lba, data.len()));
    }
    let absent = block_command(IoOpcode::READ, 2, 0, 1);
    assert_eq!(two.run(absent, &mut [0; 512]), Status::INVALID_FIELD);
    drop((one, two));
    detach(&cx, &first);
    detach(&cx, &second);
    cx.close();
}

#[test]
fn media_errors_are_what_the_device_says() {
    let arguments = [
        "-blockdev",
        "driver=blkdebug,node-name=bd0,image.driver=file,image.filename={}/image,\
         inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=5,\
         inject-error.0.sector=2048,inject-error.0.once=off,\
         inject-error.1.event=none,inject-error.1.iotype=write,inject-error.1.errno=5,\
         inject-error.1.sector=4096,inject-error.1.once=off",
        "-device",
        "nvme,serial=weft0,drive=bd0,addr=4.0",
    ];
    let Some(mut qemu) = Qemu::start(&arguments, &[("image", 8 << 20)]) else { return };
    let cx = context();
    let machine = qemu.machine(&cx);
    let controller = attach(&cx, &machine, 4);
    let mut io = Io::open(&cx, &controller);
    let mut data = vec![7; 8 * 512];
    assert_eq!(io.run(rig::read(2044, 8), &mut data), Status::UNRECOVERED_READ_ERROR);
    assert_eq!(io.run(rig::write(4096, 8), &mut data), Status::WRITE_FAULT);
    assert!(io.run(rig::write(2048, 8), &mut data).is_success());
    assert!(io.run(rig::read(2056, 8), &mut data).is_success());
    drop(io);
    detach(&cx, &controller);
    cx.close();
}

#[test]
fn everything_ends_when_qemu_does() {
    let Some(mut qemu) = Qemu::start(&ONE_DRIVE, &[("image", 8 << 20)]) else { return };
    let cx = context();
    let machine = qemu.machine(&cx);
    let transport = cx.block_on(machine.transport(&cx, Slot { device: 4, function: 0 })).unwrap();
    let options = ControllerOptions { timeout: Duration::from_millis(50), ..patient() };
    let (controller, _) = rig::attach(&cx, transport, options).unwrap();
    let mut io = Io::open(&cx, &controller);
    assert!(io.run(rig::write(0, 1), &mut [1; 512]).is_success());
    qemu.end();
    let tags: Vec<_> = (0..20).map(|lba| io.submit(rig::read(lba, 1), &[0; 512])).collect();
    for tag in tags {
        assert_eq!(io.wait(tag).0, Status::INTERNAL_PATH_ERROR);
    }
    assert_eq!(controller.state(), State::Removed);
    drop(io);
    detach(&cx, &controller);
    cx.close();
}
