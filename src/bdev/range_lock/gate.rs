//! Changing a rule that several threads follow without asking anybody for every step.
//!
//! A [`Gate`] holds a number, the rule in force. Each participant has a [`Pass`]: it says so when it
//! goes from having nothing in flight to having something (a plain store), and compares the number
//! before each piece of work (a plain load). Who changes the number then knows, participant by
//! participant, that either nothing is in flight there and the new number will be seen before
//! anything is, or that an acknowledgement will come. A participant that sits idle, and that nobody
//! polls, holds up nothing.
//!
//! The list of participants is behind a mutex that only changes of the rule, and participants that
//! notice one, take.

use super::sync::{Arc, AtomicU32, AtomicU64, Barrier, Mutex, Ordering};

/// The rule in force, and who follows it.
pub(super) struct Gate {
    rule: AtomicU64,
    barrier: Barrier,
    members: Mutex<Vec<Arc<Member>>>,
}

/// What a participant shows to others; alone in its cache lines.
#[repr(align(128))]
struct Member {
    /// Names the participant: unique among the present ones, never 0.
    id: u32,
    /// 1 while anything is in flight.
    active: AtomicU32,
    /// The last rule that it follows with all it has in flight.
    acknowledged: AtomicU64,
}

/// A rule that nobody has acknowledged.
const NEVER: u64 = u64::MAX;

impl Gate {
    pub(super) fn new(rule: u64) -> Gate {
        Gate {
            rule: AtomicU64::new(rule),
            barrier: Barrier::new(),
            members: Mutex::new(Vec::new()),
        }
    }

    /// Adds a participant, and lets `change` say the rule for the new number of participants.
    pub(super) fn join(self: &Arc<Self>, change: impl FnOnce(u64, usize) -> u64) -> Pass {
        let mut members = self.lock();
        let id = (1..).find(|id| members.iter().all(|member| member.id != *id)).unwrap_or(u32::MAX);
        let member =
            Arc::new(Member { id, active: AtomicU32::new(0), acknowledged: AtomicU64::new(NEVER) });
        members.push(Arc::clone(&member));
        self.set(change(self.current(), members.len()));
        drop(members);
        Pass { gate: Arc::clone(self), member, followed: NEVER, in_flight: 0 }
    }

    /// Lets `change` say the rule, which is given the present one and the number of participants.
    pub(super) fn change(&self, change: impl FnOnce(u64, usize) -> u64) {
        let members = self.lock();
        self.set(change(self.current(), members.len()));
    }

    /// The rule in force.
    #[inline]
    pub(super) fn current(&self) -> u64 {
        self.rule.load(Ordering::Acquire)
    }

    /// Only with the members locked.
    fn set(&self, rule: u64) {
        if rule != self.current() {
            self.rule.store(rule, Ordering::Release);
            // After this, whoever still looks idle sees the new rule before it starts anything.
            self.barrier.heavy();
        }
    }

    #[cfg(not(weft_loom))]
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Member>>> {
        // Nothing panics half way through a change under this lock.
        self.members.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[cfg(weft_loom)]
    fn lock(&self) -> loom::sync::MutexGuard<'_, Vec<Arc<Member>>> {
        self.members.lock().unwrap()
    }
}

/// A participant's side of a [`Gate`]. Belongs to one thread.
pub(super) struct Pass {
    gate: Arc<Gate>,
    member: Arc<Member>,
    /// The rule that is followed now.
    followed: u64,
    in_flight: u32,
}

impl Pass {
    /// The participant's name: unique among the present ones, never 0.
    pub(super) fn id(&self) -> u32 {
        self.member.id
    }

    /// Whether the rule that is followed is the one in force.
    #[inline]
    pub(super) fn is_current(&self) -> bool {
        self.gate.current() == self.followed
    }

    /// Counts `more` pieces of work as in flight, unless the rule has changed.
    #[inline]
    pub(super) fn enter(&mut self, more: u32) -> bool {
        if self.in_flight == 0 {
            self.member.active.store(1, Ordering::Relaxed);
            self.gate.barrier.light();
        }
        if self.gate.current() != self.followed {
            if self.in_flight == 0 {
                self.member.active.store(0, Ordering::Release);
            }
            return false;
        }
        self.in_flight += more;
        true
    }

    /// Counts `less` pieces of work as done.
    #[inline]
    pub(super) fn exit(&mut self, less: u32) {
        debug_assert!(less <= self.in_flight);
        self.in_flight -= less;
        if self.in_flight == 0 {
            self.member.active.store(0, Ordering::Release);
        }
    }

    /// Follows the rule in force, if it can: nothing is in flight here, and every other participant
    /// follows it too or has nothing in flight. Returns it. Until then nothing may start.
    #[cold]
    pub(super) fn follow(&mut self) -> Option<u64> {
        if self.in_flight > 0 {
            return None;
        }
        let members = self.gate.lock();
        let rule = self.gate.current();
        self.member.acknowledged.store(rule, Ordering::Release);
        let settled = members.iter().all(|other| {
            other.acknowledged.load(Ordering::Acquire) == rule
                || other.active.load(Ordering::Acquire) == 0
        });
        drop(members);
        if settled {
            self.followed = rule;
        }
        settled.then_some(rule)
    }

    /// Leaves, and lets `change` say the rule for those who stay.
    pub(super) fn leave(&mut self, change: impl FnOnce(u64, usize) -> u64) {
        let mut members = self.gate.lock();
        members.retain(|member| !Arc::ptr_eq(member, &self.member));
        self.gate.set(change(self.gate.current(), members.len()));
    }
}
