//! What one check explores, and which rules it leaves out.

/// Most replicas that a state has room for.
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
    /// Clients: 1 or 2.
    pub clients: u8,
    /// Whether a client uses the fast fencing of exclusive mode instead of always waiting W.
    pub fast: bool,
}

impl Scope {
    /// A scope from its counts, in the order of the fields, with the wait for W.
    pub const fn of(counts: [u8; 9]) -> Self {
        let [replicas, entries, writes, evictions, begins, attaches, restarts, switches, clients] =
            counts;
        Self {
            replicas,
            entries,
            writes,
            evictions,
            begins,
            attaches,
            restarts,
            switches,
            clients,
            fast: false,
        }
    }

    /// The same with fast fencing.
    pub const fn fast(self) -> Self {
        Self { fast: true, ..self }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { replicas, clients, entries, writes, .. } = self;
        write!(f, "{replicas}r {clients}c {entries}l {writes}w")?;
        let Self { evictions, begins, attaches, restarts, switches, fast, .. } = self;
        write!(f, " {evictions}e {begins}b {attaches}a {restarts}i {switches}s")?;
        f.write_str(if *fast { " fast" } else { "" })
    }
}

/// Declares the switches once: as fields, as names, and as a list for the suite.
macro_rules! mutations {
    ($($(#[doc = $doc:literal])+ $name:ident: $scope:expr),+ $(,)?) => {
        /// Rules that a check leaves out or breaks, to see that each is needed.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Mutations {
            $($(#[doc = $doc])+ pub $name: bool,)+
        }

        impl Mutations {
            /// Every mutation alone, with a small scope in which it does harm.
            pub fn each() -> Vec<(&'static str, Scope, Self)> {
                vec![$((
                    stringify!($name),
                    Scope::of($scope),
                    Self { $name: true, ..Self::default() },
                )),+]
            }
        }
    };
}

mutations! {
    /// S1: a joiner does not record what is written before it has the union.
    no_record: [2, 3, 2, 1, 1, 0, 0, 0, 1],
    /// S2: a message of a lower session is still taken.
    late_duplicates: [2, 0, 2, 0, 0, 0, 0, 1, 1],
    /// S3: a Syncing replica keeps its round over a Revoke.
    progress_over_revoke: [2, 4, 1, 1, 1, 1, 0, 0, 1],
    /// S3: a Revoke makes Syncing replicas Reconciling.
    syncing_reconciles: [2, 4, 1, 1, 1, 1, 0, 0, 2],
    /// S4: the source serves a block before it is repaired everywhere.
    serves_unrepaired: [2, 2, 1, 1, 0, 1, 0, 0, 2],
    /// S4: any holder serves reads during a reconcile round.
    reads_anywhere: [2, 1, 1, 0, 0, 1, 0, 0, 2],
    /// S4: joiners keep their round over a change of source.
    progress_over_source: [3, 3, 1, 1, 0, 1, 0, 0, 1],
    /// S4: a map is taken before its owner applied the round's entry.
    early_map: [2, 2, 1, 0, 0, 1, 0, 0, 2],
    /// S5: the union is not merged into the joiner's own map.
    union_not_merged: [3, 3, 1, 1, 0, 1, 0, 0, 1],
    /// The joiner's own map is not part of the union.
    own_map_ignored: [2, 2, 1, 0, 0, 1, 0, 0, 2],
    /// S7: a joiner that restarted goes on in its round.
    restart_keeps_round: [2, 4, 2, 1, 1, 0, 1, 0, 1],
    /// S8: only the client that was attached at the eviction fences.
    proposer_fences: [2, 2, 1, 1, 0, 1, 0, 0, 2],
    /// S9: a lease outlives W.
    lease_outlives: [2, 2, 1, 1, 0, 1, 0, 0, 2],
    /// No client fences at all.
    no_fence: [2, 2, 1, 1, 0, 1, 0, 0, 2],
    /// Fast fencing without the confirmation of the current attachment.
    unconfirmed_fast: [2, 2, 1, 1, 0, 1, 0, 0, 2],
    /// S15: bits are cleared while a replica is Reconciling or Syncing.
    clear_in_round: [2, 3, 1, 1, 1, 0, 0, 0, 1],
    /// Bits are cleared while a replica is Stale.
    clear_while_stale: [2, 3, 1, 1, 1, 0, 0, 0, 1],
    /// S16: a FinishSync of an older epoch is let through.
    old_finish: [2, 4, 1, 1, 1, 1, 0, 0, 1],
    /// Writes are not sent to Syncing replicas.
    syncing_unwritten: [2, 3, 2, 1, 1, 0, 0, 0, 1],
    /// Client writes are not held during a copy.
    no_hold: [2, 3, 2, 1, 1, 0, 0, 0, 1],
    /// A client write does not mark its block as done.
    write_not_done: [2, 3, 2, 1, 1, 0, 0, 0, 1],
    /// A client write marks its block as done when it is accepted, not when it is stable.
    marks_early: [2, 3, 2, 1, 1, 0, 0, 0, 1],
    /// A target does not compare epochs.
    epoch_unchecked: [2, 3, 2, 1, 1, 1, 0, 0, 2],
    /// The last holder may be evicted.
    no_last_holder: [2, 3, 1, 2, 1, 0, 0, 0, 1],
    /// A source answers before its queued I/O of older epochs has drained.
    source_undrained: [2, 2, 1, 0, 0, 1, 0, 0, 2],
    /// A joiner copies before its own queued I/O of older epochs has drained.
    joiner_undrained: [2, 2, 1, 0, 0, 1, 0, 0, 2],
    /// A target opens a session before queued I/O of older epochs has drained.
    session_undrained: [2, 3, 2, 1, 0, 1, 0, 0, 2],
    /// Answers of several epochs are counted together.
    mixed_epochs: [2, 3, 2, 1, 1, 0, 0, 0, 1],
    /// A copy that was read in one round is written in the next.
    copy_over_rounds: [2, 3, 2, 1, 1, 1, 0, 0, 1],
    /// An InSync replica is revoked without becoming Reconciling.
    no_reconcile: [2, 1, 1, 0, 0, 1, 0, 0, 2],
}

impl Mutations {
    /// Those whose shortest counter-example lies behind more states than a bounded run looks at.
    pub const DEEP: [&'static str; 3] =
        ["progress_over_source", "union_not_merged", "session_undrained"];
}
