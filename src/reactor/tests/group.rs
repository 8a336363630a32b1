//! Groups of reactors on the cores of this machine.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::base::{ErrorKind, Result};

/// `count` reactors; `None`, with a message, on a machine with fewer cores.
fn group<T>(count: usize, main: impl AsyncFnOnce(Context, Reactors) -> T) -> Result<Option<T>> {
    let allowed = CoreList::all_allowed()?;
    if allowed.cores().len() < count {
        println!("skipped: needs {count} cores");
        return Ok(None);
    }
    let cores = CoreList::new(allowed.cores()[..count].to_vec())?;
    let options = ReactorOptions { pool: pool(), ..ReactorOptions::new(cores) };
    run(options, main).map(Some)
}

#[test]
fn calls_go_to_the_reactor_they_name_and_come_back() {
    group(2, async |cx, reactors| {
        assert_eq!((cx.index(), reactors.len()), (0, 2));
        for index in 0..2 {
            let name = |cx: &Context| (cx.index(), std::thread::current().id());
            let (at, thread) = reactors.call(index, name).await.unwrap();
            assert_eq!(at, index);
            assert_eq!(thread == std::thread::current().id(), index == 0);
            let core = reactors.call(index, |_| CoreList::all_allowed()).await.unwrap().unwrap();
            assert_eq!(core.cores(), [reactors.core_of(index)]);
        }
        let there = reactors
            .call_async(1, async |cx: Context| {
                cx.sleep(Duration::from_micros(10)).await;
                cx.yield_now().await;
                cx.index()
            })
            .await;
        assert_eq!(there.unwrap(), 1);
        let missing = reactors.call(2, |_| ()).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Invalid);
    })
    .unwrap();
}

#[test]
fn posts_run_in_order_and_a_full_mailbox_says_so() {
    group(1, async |cx, reactors| {
        let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
        // Nothing runs between these: we are the reactor.
        let mut posted = 0;
        let error = loop {
            let (number, log) = (posted, Arc::clone(&seen));
            match reactors.post(0, move |_| log.lock().unwrap().push(number)) {
                Ok(()) => posted += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Busy);
        // A call waits for room instead, and comes after them.
        let log = Arc::clone(&seen);
        let waited = reactors.call(0, move |_| log.lock().unwrap().len()).await.unwrap();
        assert!(waited > 0);
        while seen.lock().unwrap().len() < posted {
            cx.yield_now().await;
        }
        assert_eq!(*seen.lock().unwrap(), (0..posted).collect::<Vec<_>>());
    })
    .unwrap();
}

#[test]
fn messages_between_reactors_arrive_in_order_under_back_pressure() {
    const MESSAGES: u64 = 100_000;
    static NEXT: AtomicU64 = AtomicU64::new(0);
    fn take(_: &Context, number: u64, _: u64, _: u64) {
        assert_eq!(NEXT.fetch_add(1, Ordering::Relaxed), number);
    }
    static HELD: AtomicBool = AtomicBool::new(true);
    group(2, async |cx, reactors| {
        // Reactor 1 does nothing until the ring was full.
        reactors
            .post(1, |_| {
                while HELD.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
            })
            .unwrap();
        for number in 0..MESSAGES {
            let mut message = Message::new(take, [number, 0, 0]);
            while let Err(returned) = cx.send(1, message) {
                HELD.store(false, Ordering::Relaxed);
                message = returned;
                cx.yield_now().await;
            }
        }
        assert!(!HELD.load(Ordering::Relaxed), "the ring was never full");
        while NEXT.load(Ordering::Relaxed) < MESSAGES {
            cx.yield_now().await;
        }
    })
    .unwrap();
}

#[test]
fn figures_come_from_sleeping_reactors_too() {
    group(2, async |cx, reactors| {
        // Until reactor 1 sleeps.
        let mut stats = reactors.stats().await;
        while stats[1].sleeps == 0 || !stats[1].in_sleep {
            cx.sleep(Duration::from_micros(500)).await;
            stats = reactors.stats().await;
        }
        assert_eq!(stats.len(), 2);
        for (index, stats) in stats.iter().enumerate() {
            assert_eq!((stats.index, stats.core), (index, reactors.core_of(index)));
            assert_eq!(stats.name, format!("reactor_{index}"));
            assert!(stats.tid > 0 && stats.calls > 0 && stats.rounds > 0);
            assert!(stats.sleep_ticks <= stats.idle_ticks);
        }
        assert_ne!(stats[0].tid, stats[1].tid);
    })
    .unwrap();
}

#[test]
fn the_idle_policy_changes_at_run_time() {
    group(2, async |cx, reactors| {
        let sleeps = async || reactors.stats().await[1].sleeps;
        let before = sleeps().await;
        while sleeps().await == before {
            cx.sleep(Duration::from_millis(1)).await;
        }
        reactors.set_idle_policy(Some(1), IdlePolicy::Poll).unwrap();
        assert_eq!(reactors.idle_policy(1).unwrap(), IdlePolicy::Poll);
        assert_eq!(reactors.idle_policy(0).unwrap(), IdlePolicy::Adaptive);
        assert_eq!(cx.idle_policy(), IdlePolicy::Adaptive);
        assert_eq!(reactors.call(1, |cx| cx.idle_policy()).await.unwrap(), IdlePolicy::Poll);
        let polling = sleeps().await;
        for _ in 0..5 {
            cx.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(sleeps().await, polling);
        reactors.set_idle_policy(None, IdlePolicy::Adaptive).unwrap();
        while sleeps().await == polling {
            cx.sleep(Duration::from_millis(1)).await;
        }
        assert!(reactors.set_idle_policy(Some(2), IdlePolicy::Poll).is_err());
    })
    .unwrap();
}

#[test]
fn reactors_drop_what_they_own_on_their_own_threads_last_one_first() {
    struct Owned(usize, std::thread::ThreadId, Arc<Mutex<Vec<(usize, bool)>>>);
    impl Drop for Owned {
        fn drop(&mut self) {
            let own_thread = std::thread::current().id() == self.1;
            self.2.lock().unwrap().push((self.0, own_thread));
        }
    }
    let log: Arc<Mutex<Vec<(usize, bool)>>> = Arc::default();
    let main_log = Arc::clone(&log);
    let kept = group(2, async |_, reactors| {
        for index in 0..2 {
            let log = Arc::clone(&main_log);
            let fill = move |cx: &Context| {
                let owned = |number| Owned(number, std::thread::current().id(), Arc::clone(&log));
                let (polled, slept, own) = (owned(index * 10), owned(index * 10 + 1), cx.clone());
                cx.add_poller(
                    "owner",
                    None,
                    Box::new(move |_: &Context| {
                        let _owned = &polled;
                        Activity::Idle
                    }),
                );
                cx.spawn(async move {
                    own.sleep(FOREVER).await;
                    drop(slept);
                });
            };
            reactors.call(index, fill).await.unwrap();
        }
        reactors
    })
    .unwrap();
    let Some(reactors) = kept else { return };
    assert_eq!(*log.lock().unwrap(), [(10, true), (11, true), (0, true), (1, true)]);
    // They have stopped; the handle says so instead of waiting.
    for index in 0..2 {
        assert_eq!(reactors.post(index, |_| ()).unwrap_err().kind(), ErrorKind::Canceled);
        let call = detached().block_on(reactors.call(index, |_| ()));
        assert_eq!(call.unwrap_err().kind(), ErrorKind::Canceled);
    }
    assert!(detached().block_on(reactors.stats()).is_empty());
}

#[test]
fn a_call_that_a_stopping_reactor_does_not_run_is_canceled() {
    // The handle keeps the mailbox: it must be emptied, not only go.
    let (call, _reactors) =
        group(1, async |_, reactors| (reactors.call(0, |_| ()), reactors)).unwrap().unwrap();
    assert_eq!(detached().block_on(call).unwrap_err().kind(), ErrorKind::Canceled);
}

#[test]
fn a_request_to_shut_down_reaches_all_who_wait() {
    group(1, async |cx, reactors| {
        let waiting = Rc::new(Cell::new(0));
        for _ in 0..3 {
            let (reactors, waiting) = (reactors.clone(), Rc::clone(&waiting));
            cx.spawn(async move {
                reactors.shutdown_requested().await;
                waiting.set(waiting.get() + 1);
            });
        }
        cx.yield_now().await;
        let elsewhere = reactors.clone();
        let thread = std::thread::spawn(move || elsewhere.request_shutdown());
        reactors.shutdown_requested().await;
        thread.join().unwrap();
        while waiting.get() < 3 {
            cx.yield_now().await;
        }
        reactors.shutdown_requested().await;
    })
    .unwrap();
}

#[test]
fn a_termination_signal_requests_the_shutdown() {
    group(1, async |cx, reactors| {
        let signals = ShutdownSignals::install(&cx, &reactors).unwrap();
        let Err(error) = ShutdownSignals::install(&cx, &reactors) else { panic!("twice") };
        assert_eq!(error.kind(), ErrorKind::Busy);
        // SAFETY: raises a signal that is handled.
        unsafe { libc::raise(libc::SIGTERM) };
        reactors.shutdown_requested().await;
        drop(signals);
        let again = ShutdownSignals::install(&cx, &reactors).unwrap();
        drop(again);
    })
    .unwrap();
}

#[test]
fn a_core_that_does_not_exist_is_an_error_before_anything_starts() {
    let started = AtomicUsize::new(0);
    let options = ReactorOptions::new(CoreList::new(vec![1023]).unwrap());
    let error = run(options, async |_, _| started.fetch_add(1, Ordering::Relaxed)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(started.load(Ordering::Relaxed), 0);
}
