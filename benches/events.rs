//! What the reactor layer costs: `cargo bench --bench events [-- [--seconds N] [PART…]]`, with the
//! parts `own`, `pollers`, `across`, `round-trip`, `wake`, `idle`; all where none is named.
//!
//! Each figure comes with the share of its core that the reactor got: on a machine that is shared, a
//! figure with less than some 90 % says little. Rates are given per second of processor time, too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use weft::memory::{HugePages, PoolOptions};
use weft::reactor::{
    Activity, Context, CoreList, IdlePolicy, Message, ReactorOptions, Reactors, Tsc, run,
};

/// Messages in flight on each reactor while throughput is measured.
const DEPTH: u64 = 512;

const PARTS: [&str; 6] = ["own", "pollers", "across", "round-trip", "wake", "idle"];

fn main() {
    let (length, parts) = match arguments() {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!("{text}");
            std::process::exit(2);
        }
    };
    let allowed = CoreList::all_allowed().expect("the system tells the allowed cores");
    let two_cores = allowed.cores().len() > 1;
    println!("{:<46} {:>12} {:>14} {:>8}", "", "", "per CPU time", "share");
    for part in parts {
        match part.as_str() {
            "own" => own_ring(&allowed, length),
            "pollers" => {
                for count in [0, 1, 10, 100, 1000] {
                    poller_cost(&allowed, length, count);
                }
            }
            "across" if two_cores => across(&allowed, length),
            "round-trip" if two_cores => round_trip(&allowed),
            "wake" => wake_up(&allowed),
            "idle" => idle(&allowed),
            _ => println!("{part}: needs two cores"),
        }
    }
}

/// The value of `--seconds`, and the parts; cargo adds `--bench`.
fn arguments() -> Result<(Duration, Vec<String>), String> {
    let mut length = Duration::from_millis(500);
    let mut parts = Vec::new();
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        if argument == "--seconds" {
            let value = arguments.next().unwrap_or_default();
            length = value
                .parse()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .filter(|length| !length.is_zero())
                .ok_or_else(|| format!("'{value}' is no number of seconds"))?;
        } else if PARTS.contains(&argument.as_str()) {
            parts.push(argument);
        } else {
            return Err(format!("unknown part '{argument}' (there are {})", PARTS.join(", ")));
        }
    }
    if parts.is_empty() {
        parts = PARTS.map(String::from).to_vec();
    }
    Ok((length, parts))
}

fn reactors<T>(
    allowed: &CoreList,
    count: usize,
    idle: IdlePolicy,
    main: impl AsyncFnOnce(Context, Reactors) -> T,
) -> T {
    let count = count.min(allowed.cores().len());
    // The last cores: the first one often serves the system's interrupts.
    let cores = allowed.cores()[allowed.cores().len() - count..].to_vec();
    let cores = CoreList::new(cores).expect("a part of a good list");
    let pool = PoolOptions { huge_pages: HugePages::Never, ..PoolOptions::default() };
    let options = ReactorOptions { idle, pool, ..ReactorOptions::new(cores) };
    run(options, main).expect("reactors start on allowed cores")
}

fn cpu_seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Wall time and this thread's processor time.
struct Stopwatch(Instant, f64);

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch(Instant::now(), cpu_seconds(ClockId::ThreadCPUTime))
    }

    fn stop(self) -> (f64, f64) {
        (self.0.elapsed().as_secs_f64(), cpu_seconds(ClockId::ThreadCPUTime) - self.1)
    }
}

fn print_rate(what: &str, events: u64, (wall, cpu): (f64, f64)) {
    let rate = |seconds: f64| events as f64 / seconds / 1e6;
    let share = cpu / wall * 100.0;
    println!("{what:<46} {:>8.1} M/s {:>10.1} M/s {share:>6.0} %", rate(wall), rate(cpu));
}

/// Set to stop what bounces.
static STOP: AtomicU64 = AtomicU64::new(0);
static EVENTS: AtomicU64 = AtomicU64::new(0);
/// When the last one stopped.
static END: AtomicU64 = AtomicU64::new(0);

/// Sends itself on to reactor `to`, which answers to `back`, and counts.
fn bounce(cx: &Context, to: u64, back: u64, count: u64) {
    if count.is_multiple_of(1024) && STOP.load(Ordering::Relaxed) != 0 {
        EVENTS.fetch_add(count, Ordering::Relaxed);
        END.store(Tsc::read().0, Ordering::Relaxed);
        STOP.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let next = Message::new(bounce, [back, to, count + 1]);
    assert!(cx.send(to as usize, next).is_ok(), "fewer messages than slots");
}

async fn stop_bouncing(cx: &Context, tokens: u64) -> u64 {
    STOP.store(1, Ordering::Relaxed);
    while STOP.load(Ordering::Relaxed) < 1 + tokens {
        cx.sleep(Duration::from_micros(100)).await;
    }
    STOP.store(0, Ordering::Relaxed);
    EVENTS.swap(0, Ordering::Relaxed)
}

fn own_ring(allowed: &CoreList, length: Duration) {
    for depth in [1, 32, DEPTH] {
        reactors(allowed, 1, IdlePolicy::Poll, async |cx: Context, _| {
            let watch = Stopwatch::start();
            for _ in 0..depth {
                cx.send(0, Message::new(bounce, [0, 0, 1])).expect("room");
            }
            cx.sleep(length).await;
            let events = stop_bouncing(&cx, depth).await;
            print_rate(&format!("own ring, {depth} in flight"), events, watch.stop());
        });
    }
}

fn across(allowed: &CoreList, length: Duration) {
    reactors(allowed, 2, IdlePolicy::Poll, async |cx: Context, _| {
        let watch = Stopwatch::start();
        for _ in 0..DEPTH {
            cx.send(1, Message::new(bounce, [0, 1, 1])).expect("room");
        }
        cx.sleep(length).await;
        let events = stop_bouncing(&cx, DEPTH).await;
        // Half of them ran on each.
        print_rate("across two cores, per core", events / 2, watch.stop());
    });
}

fn round_trip(allowed: &CoreList) {
    reactors(allowed, 2, IdlePolicy::Poll, async |cx: Context, _| {
        let mut best = f64::MAX;
        let mut all = Vec::new();
        for _ in 0..50 {
            let begin = Tsc::read();
            cx.send(1, Message::new(bounce, [0, 1, 1])).expect("room");
            cx.sleep(Duration::from_micros(500)).await;
            let events = stop_bouncing(&cx, 1).await;
            let ticks = Tsc(END.load(Ordering::Relaxed)) - begin;
            let nanos = Tsc::micros(ticks) * 1000.0 / (events as f64 / 2.0);
            best = best.min(nanos);
            all.push(nanos);
        }
        all.sort_by(f64::total_cmp);
        println!(
            "{:<46} {best:>9.0} ns {:>8.0} median",
            "round trip to another core, best", all[25]
        );
    });
}

fn poller_cost(allowed: &CoreList, length: Duration, count: u64) {
    reactors(allowed, 1, IdlePolicy::Poll, async |cx: Context, reactors: Reactors| {
        for number in 0..count {
            let found = if count == 1 { Activity::Busy } else { Activity::Idle };
            let mut runs = number;
            let poller = move |_: &Context| {
                runs = std::hint::black_box(runs + 1);
                found
            };
            cx.add_poller("bench", None, Box::new(poller));
        }
        cx.yield_now().await;
        let rounds = async || reactors.stats().await[0].rounds;
        let (before, watch) = (rounds().await, Stopwatch::start());
        cx.sleep(length).await;
        let (wall, cpu) = watch.stop();
        let rounds = (rounds().await - before) as f64;
        let share = cpu / wall * 100.0;
        let (wall, cpu) = (wall * 1e9 / rounds, cpu * 1e9 / rounds);
        if count < 2 {
            let what =
                if count == 0 { "round without pollers" } else { "round with one busy poller" };
            println!("{what:<46} {wall:>9.1} ns {cpu:>11.1} ns {share:>6.0} %");
        } else {
            let (wall, cpu) = (wall / count as f64, cpu / count as f64);
            let what = format!("poller, of {count} idle ones, with its share of the round");
            println!("{what:<46} {wall:>9.1} ns {cpu:>11.1} ns {share:>6.0} %");
        }
    });
}

fn wake_up(allowed: &CoreList) {
    for policy in [IdlePolicy::Poll, IdlePolicy::Adaptive] {
        // Begun here, where no core is chosen yet: a thread inherits its parent's.
        let (start, started) = mpsc::channel::<Reactors>();
        let asker = std::thread::spawn(move || {
            let reactors = started.recv().expect("the reactors start");
            let (sender, receiver) = mpsc::channel();
            let latencies: Vec<f64> = (0..100)
                .map(|_| {
                    std::thread::sleep(Duration::from_millis(3));
                    let sender = sender.clone();
                    let begin = Tsc::read();
                    let call = move |_: &Context| {
                        // The asker waits for it.
                        let _ = sender.send(Tsc::micros(Tsc::read() - begin));
                    };
                    reactors.post(0, call).expect("an empty mailbox");
                    receiver.recv().expect("its sender lives")
                })
                .collect();
            reactors.request_shutdown();
            latencies
        });
        reactors(allowed, 1, policy, async |_, reactors: Reactors| {
            start.send(reactors.clone()).expect("the asker waits");
            reactors.shutdown_requested().await;
        });
        let mut latencies = asker.join().expect("the asker does not panic");
        latencies.sort_by(f64::total_cmp);
        println!(
            "{:<46} {:>9.1} us {:>8.1} p90",
            format!("call from another thread, {policy}, median"),
            latencies[50],
            latencies[90]
        );
    }
}

fn idle(allowed: &CoreList) {
    for period in [None, Some(Duration::from_millis(1))] {
        let (share, sleeps, reactors) =
            reactors(allowed, usize::MAX, IdlePolicy::Adaptive, async |cx: Context, reactors| {
                if let Some(period) = period {
                    let poller = Box::new(|_: &Context| Activity::Idle);
                    cx.add_poller("periodic", Some(period), poller);
                }
                let (wall, cpu) = (Instant::now(), cpu_seconds(ClockId::ProcessCPUTime));
                let before = reactors.stats().await;
                cx.sleep(Duration::from_secs(2)).await;
                let cpu = cpu_seconds(ClockId::ProcessCPUTime) - cpu;
                let wall = wall.elapsed().as_secs_f64();
                let after = reactors.stats().await;
                let sleeps: u64 = after.iter().zip(&before).map(|(a, b)| a.sleeps - b.sleeps).sum();
                (cpu / wall * 100.0, sleeps as f64 / wall, reactors.len())
            });
        let pollers = if period.is_some() { "one 1 ms poller" } else { "no pollers" };
        let what = format!("idle, {reactors} adaptive reactors, {pollers}");
        println!("{what:<46} {share:>8.2} % CPU {sleeps:>7.0} sleeps/s");
    }
}
