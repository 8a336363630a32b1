//! The rounds of a detached reactor.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures_channel::oneshot;

use super::*;

/// A log that pollers and tasks write to.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    fn add(&self, line: &str) {
        self.0.borrow_mut().push(line.into());
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// Writes its name to the log when dropped.
struct Dropped(Log, &'static str);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add(self.1);
    }
}

fn logging(log: &Log, name: &'static str) -> Box<dyn Poller> {
    let dropped = Dropped(log.clone(), "dropped");
    Box::new(move |_: &Context| {
        dropped.0.add(name);
        Activity::Idle
    })
}

#[test]
fn pollers_run_in_every_round_until_they_are_removed() {
    let (cx, log) = (detached(), Log::default());
    let a = cx.add_poller("a", None, logging(&log, "a"));
    let _b = cx.add_poller("b", Some(Duration::ZERO), logging(&log, "b"));
    cx.turn();
    cx.turn();
    assert_eq!(log.take(), ["a", "b", "a", "b"]);
    cx.remove_poller(a);
    assert_eq!(log.take(), ["dropped"]);
    cx.remove_poller(a);
    cx.turn();
    assert_eq!(log.take(), ["b"]);
    cx.close();
}

#[test]
fn a_poller_removes_itself_and_others_and_adds_more_while_it_runs() {
    let (cx, log) = (detached(), Log::default());
    let ids: Rc<Cell<Option<(PollerId, PollerId)>>> = Rc::default();
    let (seen, inner_log) = (Rc::clone(&ids), log.clone());
    let dropped = Dropped(log.clone(), "first is dropped");
    let first = cx.add_poller(
        "first",
        None,
        Box::new(move |cx: &Context| {
            if let Some((first, second)) = seen.take() {
                cx.remove_poller(first);
                cx.remove_poller(second);
                let kept = cx.add_poller("third", None, logging(&inner_log, "third"));
                let gone = cx.add_poller("fourth", None, logging(&inner_log, "fourth"));
                cx.remove_poller(gone);
                assert_ne!(kept, gone);
                dropped.0.add("first has run");
            }
            Activity::Busy
        }),
    );
    let second = cx.add_poller("second", None, logging(&log, "second"));
    ids.set(Some((first, second)));
    cx.turn();
    let expected = ["dropped", "dropped", "first has run", "first is dropped"];
    assert_eq!(log.take(), expected, "the second did not run any more, the third not yet");
    cx.turn();
    assert_eq!(log.take(), ["third"]);
    cx.close();
}

#[test]
fn periodic_pollers_keep_their_period_and_skip_turns() {
    let cx = detached();
    let runs = Rc::new(Cell::new(0));
    let counted = Rc::clone(&runs);
    let period = Duration::from_millis(2);
    let added = Tsc::read();
    let id = cx.add_poller(
        "periodic",
        Some(period),
        Box::new(move |cx: &Context| {
            counted.set(counted.get() + 1);
            if counted.get() == 5 {
                let elapsed = cx.now() - added;
                assert!(elapsed >= 5 * Tsc::ticks(period), "early by {elapsed} ticks");
            }
            Activity::Busy
        }),
    );
    while runs.get() < 5 {
        cx.turn();
    }
    // However late it comes, one turn runs it once.
    let start = Tsc::read();
    while Tsc::read() - start < 3 * Tsc::ticks(period) {}
    let before = runs.get();
    cx.turn();
    assert_eq!(runs.get(), before + 1);
    cx.remove_poller(id);
    let start = Tsc::read();
    while Tsc::read() - start < 2 * Tsc::ticks(period) {
        cx.turn();
    }
    assert_eq!(runs.get(), before + 1);
}

#[test]
fn a_periodic_poller_removes_itself() {
    let (cx, log) = (detached(), Log::default());
    let id: Rc<Cell<Option<PollerId>>> = Rc::default();
    let (own, dropped) = (Rc::clone(&id), Dropped(log.clone(), "dropped"));
    let poller = move |cx: &Context| {
        dropped.0.add("ran");
        cx.remove_poller(own.take().unwrap());
        Activity::Idle
    };
    id.set(Some(cx.add_poller("once", Some(Duration::from_nanos(1)), Box::new(poller))));
    cx.turn();
    cx.turn();
    assert_eq!(log.take(), ["ran", "dropped"]);
}

#[test]
fn tasks_sleep_in_the_order_of_their_times() {
    let (cx, log) = (detached(), Log::default());
    for (name, micros) in [("third", 3000), ("first", 1000), ("second", 2000)] {
        let (own, log) = (cx.clone(), log.clone());
        cx.spawn(async move {
            own.sleep(Duration::from_micros(micros)).await;
            log.add(name);
        });
    }
    let last = cx.sleep(Duration::from_micros(4000));
    cx.block_on(last);
    assert_eq!(log.take(), ["first", "second", "third"]);
}

#[test]
fn a_dropped_sleep_leaves_no_timer() {
    let cx = detached();
    let mut sleep = Box::pin(cx.sleep(FOREVER));
    cx.block_on(poll_fn(|task| {
        assert!(sleep.as_mut().poll(task).is_pending());
        assert!(sleep.as_mut().poll(task).is_pending());
        Poll::Ready(())
    }));
    assert!(cx.0.timers.borrow().next_due().is_some());
    drop(sleep);
    assert!(cx.0.timers.borrow().next_due().is_none());
    assert_eq!(cx.0.next_due.get(), Tsc(u64::MAX));
}

#[test]
fn yielding_lets_a_round_pass() {
    let cx = detached();
    let rounds = Rc::new(Cell::new(0));
    let counted = Rc::clone(&rounds);
    cx.add_poller(
        "counter",
        None,
        Box::new(move |_: &Context| {
            counted.set(counted.get() + 1);
            Activity::Idle
        }),
    );
    let own = cx.clone();
    let (sender, receiver) = oneshot::channel();
    let seen = Rc::clone(&rounds);
    cx.spawn(async move {
        let mut seen_after = Vec::new();
        for _ in 0..3 {
            own.yield_now().await;
            seen_after.push(seen.get());
        }
        sender.send(seen_after).unwrap();
    });
    assert_eq!(cx.block_on(receiver).unwrap(), [2, 3, 4]);
    cx.close();
}

#[test]
fn many_tasks_share_the_rounds() {
    let cx = detached();
    let done = Rc::new(Cell::new(0));
    for _ in 0..100 {
        let done = Rc::clone(&done);
        cx.spawn(async move { done.set(done.get() + 1) });
    }
    cx.turn();
    let first = done.get();
    assert!(first > 0 && first < 100, "{first} of 100 in one round");
    for _ in 0..100 {
        cx.turn();
    }
    assert_eq!(done.get(), 100);
}

#[test]
fn a_wake_from_another_thread_ends_a_sleep() {
    let cx = detached();
    let (sender, receiver) = oneshot::channel();
    let signal = Arc::clone(&cx.0.remote.signal);
    let thread = std::thread::spawn(move || {
        while !signal.is_asleep() {
            std::thread::yield_now();
        }
        sender.send(7).unwrap();
    });
    let (answer, answered) = oneshot::channel();
    cx.spawn(async move { answer.send(receiver.await.unwrap()).unwrap() });
    assert_eq!(cx.block_on(answered).unwrap(), 7);
    thread.join().unwrap();
    assert!(cx.0.account.sleeps() > 0);
}

#[test]
fn a_panic_of_a_task_comes_out_of_the_round() {
    let cx = detached();
    cx.spawn(async { panic!("on purpose") });
    let panic = catch_unwind(AssertUnwindSafe(|| cx.turn())).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
}

#[test]
fn a_reactor_cannot_be_run_by_what_it_runs() {
    let cx = detached();
    cx.add_poller(
        "nested",
        None,
        Box::new(|cx: &Context| {
            cx.turn();
            Activity::Idle
        }),
    );
    assert!(catch_unwind(AssertUnwindSafe(|| cx.turn())).is_err());
}

#[test]
fn a_closed_context_holds_nothing_and_takes_nothing() {
    let (cx, log) = (detached(), Log::default());
    let held = cx.clone();
    let hold = |name| (held.clone(), Dropped(log.clone(), name));
    let active = hold("active");
    cx.add_poller(
        "active",
        None,
        Box::new(move |_: &Context| {
            let _held = &active;
            Activity::Idle
        }),
    );
    let timed = hold("timed");
    cx.add_poller(
        "timed",
        Some(FOREVER),
        Box::new(move |_: &Context| {
            let _held = &timed;
            Activity::Idle
        }),
    );
    let task = hold("task");
    cx.spawn(async move {
        task.0.sleep(FOREVER).await;
        drop(task);
    });
    cx.turn();
    cx.close();
    assert_eq!(log.take(), ["active", "timed", "task"]);
    let late = hold("late");
    cx.spawn(async move { drop(late) });
    cx.add_poller("late", None, logging(&log, "ran"));
    cx.add_poller("late", Some(FOREVER), logging(&log, "ran"));
    assert_eq!(log.take(), ["late", "dropped", "dropped"]);
    let weak = Rc::downgrade(&cx.0);
    drop((cx, held));
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_full_ring_gives_the_message_back_and_loses_none() {
    fn take(cx: &Context, number: u64, one: u64, index: u64) {
        EXPECTED.with(|expected| {
            assert_eq!([number, one, index], [expected.get(), 1, cx.index() as u64]);
            expected.set(expected.get() + 1);
        });
    }
    thread_local!(static EXPECTED: Cell<u64> = const { Cell::new(0) });
    let cx = detached();
    let mut sent = 0;
    let returned = loop {
        match cx.send(0, Message::new(take, [sent, 1, 0])) {
            Ok(()) => sent += 1,
            Err(message) => break message,
        }
    };
    assert_eq!(returned.words(), [sent, 1, 0]);
    while EXPECTED.get() < sent {
        cx.turn();
    }
    cx.send(0, returned).unwrap();
    assert_eq!(EXPECTED.get(), sent);
    cx.turn();
    cx.turn();
    assert_eq!(EXPECTED.get(), sent + 1);
    assert!(cx.send(1, returned).is_err(), "there is no reactor 1");
}

#[test]
fn figures_tell_what_pollers_did() {
    let cx = detached();
    let runs = Cell::new(0);
    cx.add_poller(
        "sometimes",
        None,
        Box::new(move |_: &Context| {
            runs.set(runs.get() + 1);
            if runs.get() % 4 == 0 { Activity::Busy } else { Activity::Idle }
        }),
    );
    cx.add_poller("later", Some(FOREVER), Box::new(|_: &Context| Activity::Busy));
    for _ in 0..40 {
        cx.turn();
    }
    let stats = cx.stats();
    assert_eq!((stats.active_pollers(), stats.timed_pollers(), stats.rounds), (1, 1, 40));
    let [active, timed] = stats.pollers.as_slice() else { panic!("{:?}", stats.pollers) };
    assert_eq!((active.name.as_str(), active.run_count, active.busy_count), ("sometimes", 40, 10));
    assert!(active.busy_ticks >= active.longest_run_ticks);
    assert!(active.longest_run_ticks >= active.last_run_ticks && active.last_run_ticks > 0);
    assert!(active.busy_ticks <= stats.busy_ticks && active.idle_ticks <= stats.idle_ticks);
    assert_eq!((timed.run_count, timed.period_ticks), (0, Some(Tsc::ticks(FOREVER))));
    assert!(stats.busy_ticks + stats.idle_ticks <= stats.elapsed_ticks);
    cx.close();
}

/// What is logged while `run` runs.
fn logged(run: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, run);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// A context with which everything is a hog.
fn impatient() -> Context {
    let remote = Arc::new(context::Remote::new(0, IdlePolicy::Adaptive));
    let links = links::connect(std::slice::from_ref(&remote.signal)).pop().unwrap();
    let pool = crate::memory::Pool::new(Registry::new(), pool());
    Context::new(0, remote, links, pool, Duration::ZERO)
}

#[test]
fn hogs_are_named_in_the_log_but_not_in_every_round() {
    let log = logged(|| {
        let cx = impatient();
        cx.add_poller("slow", None, Box::new(|_: &Context| Activity::Busy));
        for _ in 0..100 {
            cx.turn();
        }
        cx.close();
    });
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("poller 'slow' held its reactor"), "{log}");
    let log = logged(|| {
        let cx = impatient();
        cx.spawn(async {});
        cx.turn();
    });
    assert!(log.contains("the task spawned at src/reactor/tests/round.rs:"), "{log}");
}

#[test]
fn a_hog_that_claims_to_be_idle_is_found_out() {
    let log = logged(|| {
        let cx = impatient();
        cx.add_poller("sly", None, Box::new(|_: &Context| Activity::Idle));
        // As a reactor thread does, without a fresh reading before each round.
        for _ in 0..4 {
            cx.round();
        }
        cx.close();
    });
    assert!(log.contains("poller 'sly' held its reactor"), "{log}");
}

#[test]
fn an_idle_adaptive_reactor_sleeps_and_a_polling_one_does_not() {
    let rounds_asleep = |policy| {
        let cx = detached();
        cx.0.remote.set_policy(policy);
        cx.block_on(cx.sleep(Duration::from_millis(5)));
        (cx.0.account.sleeps(), cx.0.account.rounds.get())
    };
    let (sleeps, _) = rounds_asleep(IdlePolicy::Adaptive);
    assert!(sleeps > 0);
    let (sleeps, rounds) = rounds_asleep(IdlePolicy::Poll);
    assert_eq!(sleeps, 0);
    assert!(rounds > 10);
}

#[test]
fn a_descriptor_that_becomes_readable_ends_a_sleep() {
    use rustix::event::{EventfdFlags, eventfd};
    let cx = detached();
    let event = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    let guard = cx.wake_on(event.as_fd()).unwrap();
    let (sender, receiver) = oneshot::channel();
    let mut sender = Some(sender);
    let (polled, signal) = (Arc::clone(&event), Arc::clone(&cx.0.remote.signal));
    cx.add_poller(
        "reader",
        None,
        Box::new(move |_: &Context| {
            let mut count = [0; 8];
            match rustix::io::read(&*polled, &mut count) {
                Ok(_) => {
                    sender.take().unwrap().send(u64::from_ne_bytes(count)).unwrap();
                    Activity::Busy
                }
                Err(_) => Activity::Idle,
            }
        }),
    );
    let thread = std::thread::spawn(move || {
        while !signal.is_asleep() {
            std::thread::yield_now();
        }
        rustix::io::write(&*event, &5_u64.to_ne_bytes()).unwrap();
    });
    assert_eq!(cx.block_on(receiver).unwrap(), 5);
    thread.join().unwrap();
    drop(guard);
    cx.close();
}
