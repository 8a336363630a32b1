//! 4 KiB random I/O on a file through the `uring` device, beside fio's io_uring engine with the
//! same options, in turns.
//!
//! ```text
//! cargo bench --bench uring -- [--size BYTES] [--seconds S] [--rounds N] [--depth N]
//!     [--no-fio] [--sqpoll] [--iopoll] [--plain-buffers] FILE
//! ```
//!
//! FILE is made and written once when it is missing or shorter. Without FILE (as `cargo test` runs it) a
//! small temporary file is used for a moment, only to show that the benchmark works.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft::base::{Lba, parse_size};
use weft::bdev::leaf::uring::{Uring, UringOptions};
use weft::bdev::{Bdev, Completions, Opcode, Request};
use weft::memory::{Buffer, PoolOptions, Registry};
use weft::reactor::Context;

const BLOCK: u64 = 4096;

struct Options {
    path: PathBuf,
    size: u64,
    seconds: f64,
    rounds: usize,
    depth: usize,
    fio: bool,
    sqpoll: bool,
    iopoll: bool,
    plain_buffers: bool,
}

fn defaults(path: PathBuf) -> Options {
    Options {
        path,
        size: 512 << 20,
        seconds: 3.0,
        rounds: 3,
        depth: 32,
        fio: true,
        sqpoll: false,
        iopoll: false,
        plain_buffers: false,
    }
}

fn parse() -> Option<Options> {
    let mut options = defaults(PathBuf::new());
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match argument.as_str() {
            "--size" => options.size = parse_size(&value()).expect("a size").0,
            "--seconds" => options.seconds = value().parse().expect("a number"),
            "--rounds" => options.rounds = value().parse().expect("a number"),
            "--depth" => options.depth = value().parse().expect("a number"),
            "--no-fio" => options.fio = false,
            "--sqpoll" => options.sqpoll = true,
            "--iopoll" => options.iopoll = true,
            "--plain-buffers" => options.plain_buffers = true,
            path => options.path = path.into(),
        }
    }
    (options.path != Path::new("")).then_some(options)
}

/// Makes the file, of data: a hole would be read from nowhere.
fn prepare(path: &Path, size: u64) {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() >= size) {
        return;
    }
    let mut file = File::create(path).expect("create the file");
    let chunk = vec![0x5a_u8; 1 << 20];
    for _ in 0..size.div_ceil(1 << 20) {
        file.write_all(&chunk).expect("write the file");
    }
    file.sync_all().expect("sync the file");
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// I/O per second, and thread processor time per I/O in microseconds.
fn ours(options: &Options, opcode: Opcode) -> (f64, f64) {
    let mut uring = UringOptions::new("bench", options.path.to_str().expect("UTF-8"));
    uring.block_size = Some(BLOCK as u32);
    uring.sqpoll = options.sqpoll;
    uring.iopoll = options.iopoll;
    uring.fixed_buffers = !options.plain_buffers;
    let uring: Arc<Uring> = Uring::create(uring).expect("open the file");
    let blocks = uring.info().geometry.blocks.0;
    let cx = Context::detached(Registry::new(), PoolOptions::default());
    // Before the queue, so that it registers the memory at once.
    let buffers: Vec<Buffer> =
        (0..options.depth).map(|_| cx.pool().take(BLOCK as usize).expect("a buffer")).collect();
    let mut queue = uring.open_queue(&cx, options.depth as u32).expect("open a queue");
    let mut random = Random(Instant::now().elapsed().as_nanos() as u64 | 1);
    let mut request = |slot: usize| {
        // SAFETY: each buffer is in one request at a time, and the queue is dropped before them.
        let segment = unsafe { buffers[slot].segment(BLOCK as u32) };
        Request::new(opcode, Lba(random.below(blocks)), 1, segment, slot as u64)
    };
    let mut batch: Vec<Request> = (0..options.depth).map(&mut request).collect();
    let mut completions = Completions::with_capacity(options.depth);
    let length = Duration::from_secs_f64(options.seconds);
    let (start, used) = (Instant::now(), thread_time());
    let (mut ended, mut outstanding) = (0_u64, 0);
    // The clock costs more than a poll that finds nothing.
    for round in 1_u64.. {
        let taken = queue.submit(&mut batch);
        outstanding += taken;
        batch.drain(..taken);
        completions.clear();
        queue.poll(&mut completions);
        outstanding -= completions.len();
        ended += completions.len() as u64;
        for completion in &completions {
            assert!(completion.status.is_success(), "{}", completion.status);
            batch.push(request(completion.token as usize));
        }
        if round.is_multiple_of(64) && start.elapsed() >= length {
            break;
        }
    }
    let result = (
        ended as f64 / start.elapsed().as_secs_f64(),
        (thread_time() - used).as_secs_f64() * 1e6 / ended as f64,
    );
    while outstanding > 0 {
        completions.clear();
        queue.poll(&mut completions);
        outstanding -= completions.len();
    }
    result
}

fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// fio's figure for the same.
fn fio(options: &Options, opcode: Opcode) -> Option<(f64, f64)> {
    let rw = if opcode == Opcode::Read { "randread" } else { "randwrite" };
    let output = Command::new("fio")
        .args(["--name=bench", "--ioengine=io_uring", "--direct=1", "--bs=4k", "--time_based"])
        .args([
            "--registerfiles",
            "--fixedbufs",
            "--norandommap",
            "--randrepeat=0",
            "--gtod_reduce=1",
        ])
        .args(["--output-format=terse", "--terse-version=3", "--thread"])
        .arg(format!("--rw={rw}"))
        .arg(format!("--iodepth={}", options.depth))
        .arg(format!("--runtime={}", options.seconds))
        .arg(format!("--size={}", options.size))
        .arg(format!("--filename={}", options.path.display()))
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let fields: Vec<&str> = text.lines().last()?.split(';').collect();
    // Terse format 3: IOPS of reads in field 8, of writes in field 49 (from 1); user and system
    // processor time in per cent in fields 88 and 89.
    let field = |number: usize| -> Option<f64> {
        fields.get(number - 1)?.trim_end_matches('%').parse().ok()
    };
    let iops = field(if opcode == Opcode::Read { 8 } else { 49 })?;
    let processor = field(88)? + field(89)?;
    Some((iops, processor / 100.0 * 1e6 / iops))
}

fn main() {
    let (folder, options) = match parse() {
        Some(options) => (None, options),
        None => {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
            let path = folder.path().join("bench.img");
            let mut options = defaults(path);
            (options.size, options.seconds, options.rounds) = (4 << 20, 0.05, 1);
            options.fio = false;
            (Some(folder), options)
        }
    };
    prepare(&options.path, options.size);
    for opcode in [Opcode::Read, Opcode::Write] {
        let mut ratios = Vec::new();
        for round in 1..=options.rounds {
            let (iops, time) = ours(&options, opcode);
            print!("{} round {round}: weft {iops:.0} IOPS, {time:.2} us CPU/IO", opcode.name());
            match options.fio.then(|| fio(&options, opcode)).flatten() {
                Some((theirs, their_time)) => {
                    ratios.push(iops / theirs);
                    println!(
                        "; fio {theirs:.0} IOPS, {their_time:.2} us CPU/IO; ratio {:.2}",
                        iops / theirs
                    );
                }
                None => println!(),
            }
        }
        if !ratios.is_empty() {
            ratios.sort_by(f64::total_cmp);
            println!("{}: median ratio {:.2}", opcode.name(), ratios[ratios.len() / 2]);
        }
    }
    drop(folder);
}
