//! What one check explores, and which rules it leaves out.

/// Most replicas, clients and log entries that a state has room for.
pub const REPLICAS: usize = 3;
/// Clients of the model; both may attach, one at a time.
pub const CLIENTS: usize = 2;
/// Entries that the log has room for, beyond the initial picture.
pub const ENTRIES: usize = 8;

/// How far one check goes: every count is an upper limit for a whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Replicas of the group: 2 or 3.
    pub replicas: u8,
    /// Entries that the log takes.
    pub entries: u8,
    /// Writes of both clients together, at most 3.
    pub writes: u8,
    /// Evictions.
    pub evictions: u8,
    /// Returns of an evicted replica.
    pub begins: u8,
    /// Attachments after the first one; each preempts the one before.
    pub attaches: u8,
    /// Restarts of targets.
    pub restarts: u8,
    /// Switches of a route under a write without an answer.
    pub switches: u8,
    /// Whether a client uses the fast fencing of exclusive mode instead of always waiting W.
    pub fast: bool,
}

impl Scope {
    /// Two replicas, one eviction, one attachment: what a unit test can afford.
    pub const TINY: Self = Self {
        replicas: 2,
        entries: 3,
        writes: 1,
        evictions: 1,
        begins: 1,
        attaches: 1,
        restarts: 0,
        switches: 0,
        fast: false,
    };
}

/// Declares the switches once: as fields, as names, and as a list for the suite.
macro_rules! mutations {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// Rules that a check leaves out or breaks, to see that each is needed.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Mutations {
            $($(#[doc = $doc])+ pub $name: bool,)+
        }

        impl Mutations {
            /// Every mutation alone, with its name and its description.
            pub fn each() -> Vec<(&'static str, &'static str, Self)> {
                vec![$((
                    stringify!($name),
                    concat!($($doc),+).trim_ascii(),
                    Self { $name: true, ..Self::default() },
                )),+]
            }
        }
    };
}

mutations! {
    /// S1: a joiner does not record what is written before it has the union.
    no_record,
    /// S2: a message of a lower session is still taken.
    late_duplicates,
    /// S3: a Syncing replica keeps its round over a Revoke.
    progress_over_revoke,
    /// S3: a Revoke makes Syncing replicas Reconciling.
    syncing_reconciles,
    /// S4: the source serves a block before it is repaired everywhere.
    serves_unrepaired,
    /// S4: any holder serves reads during a reconcile round.
    reads_anywhere,
    /// S4: joiners keep their round over a change of source.
    progress_over_source,
    /// S4: a map is taken before its owner applied the round's entry.
    early_map,
    /// S5: the union is not merged into the joiner's own map.
    union_not_merged,
    /// The joiner's own map is not part of the union.
    own_map_ignored,
    /// S7: a joiner that restarted goes on in its round.
    restart_keeps_round,
    /// S8: only the client that was attached at the eviction fences.
    proposer_fences,
    /// S9: a lease outlives W.
    lease_outlives,
    /// No client fences at all.
    no_fence,
    /// Fast fencing without the confirmation of the current attachment.
    unconfirmed_fast,
    /// S15: bits are cleared while a replica is Reconciling or Syncing.
    clear_in_round,
    /// Bits are cleared while a replica is Stale.
    clear_while_stale,
    /// S15: a watermark clears bits of another generation or incarnation.
    clear_foreign,
    /// S16: a FinishSync of an older epoch is let through.
    old_finish,
    /// Writes are not sent to Syncing replicas.
    syncing_unwritten,
    /// Client writes are not held during a copy.
    no_hold,
    /// A client write does not mark its block as done.
    write_not_done,
    /// A client write marks its block as done when it is accepted, not when it is stable.
    marks_early,
    /// A target does not compare epochs.
    epoch_unchecked,
    /// The last holder may be evicted.
    no_last_holder,
    /// A source answers before its queued I/O of older epochs has drained.
    source_undrained,
    /// A joiner copies before its own queued I/O of older epochs has drained.
    joiner_undrained,
    /// A target opens a session before queued I/O of older epochs has drained.
    session_undrained,
    /// Answers of several epochs are counted together.
    mixed_epochs,
    /// A copy that was read in one round is written in the next.
    copy_over_rounds,
    /// An InSync replica is revoked without becoming Reconciling.
    no_reconcile,
}
