//! The rules of the protocol that can be switched off, to see that the simulator notices. Compiled in by the feature `mutations` only,
//! which no product build has; without it every question is answered "kept" at compile time.

/// A rule that can be broken. The names `S…` are those of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Rule {
    S1,
    S2,
    S3,
    S4,
    S5,
    S6,
    S7,
    S8,
    S9,
    S10,
    S11,
    S12,
    S13,
    S14,
    S15,
    S16,
    S17,
    S18,
    /// Writes to a run that is being copied wait.
    HoldDuringCopy,
    /// A joiner's own map is part of the union.
    JoinersOwnMap,
    /// A source answers only when what it had accepted before the round has drained.
    SourceDrains,
    /// Writes go to replicas that are being filled.
    WriteToSyncing,
    /// I/O of another epoch is refused.
    EpochCheck,
    /// The last holder is never evicted.
    LastHolder,
    /// Bits are kept while a replica is left behind.
    KeepBits,
    /// A lease comes only from an applied tick.
    LeaseFromTick,
    /// A replica is served only by the incarnation that the log names.
    IncarnationCheck,
    /// A write is acknowledged when all of the write set have answered.
    AckByAll,
    /// The bit of a region is durable before its first write.
    BitBeforeWrite,
    /// Overlapping I/O of one client goes one after the other.
    OverlapOrder,
    /// A lease is looked at before every I/O.
    LeaseCheck,
    /// A daemon's start ends the attachments of its earlier incarnation.
    StartRevokes,
}

impl Rule {
    /// All of them.
    pub const ALL: &[Rule] = {
        use Rule::*;
        &[
            S1,
            S2,
            S3,
            S4,
            S5,
            S6,
            S7,
            S8,
            S9,
            S10,
            S11,
            S12,
            S13,
            S14,
            S15,
            S16,
            S17,
            S18,
            HoldDuringCopy,
            JoinersOwnMap,
            SourceDrains,
            WriteToSyncing,
            EpochCheck,
            LastHolder,
            KeepBits,
            LeaseFromTick,
            IncarnationCheck,
            AckByAll,
            BitBeforeWrite,
            OverlapOrder,
            LeaseCheck,
            StartRevokes,
        ]
    };
}

#[cfg(feature = "mutations")]
mod switch {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Breaks this rule on this thread from here on, and keeps all others.
    pub fn set_broken(rule: Option<Rule>) {
        BROKEN.set(rule);
    }

    pub(crate) fn is_broken(rule: Rule) -> bool {
        BROKEN.get() == Some(rule)
    }
}

#[cfg(feature = "mutations")]
pub use switch::set_broken;

/// Whether the rule is kept. Always, but for who looks for what breaks without it.
#[inline(always)]
pub(crate) fn kept(rule: Rule) -> bool {
    #[cfg(feature = "mutations")]
    return !switch::is_broken(rule);
    #[cfg(not(feature = "mutations"))]
    {
        let _ = rule;
        true
    }
}
