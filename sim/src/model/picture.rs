//! The log of the model, and the picture of the group that a prefix of it gives.

use super::scope::{ENTRIES, Mutations, REPLICAS};

/// The state of a replica in one picture.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Takes writes, serves reads, holds everything acknowledged.
    InSync,
    /// Holds everything acknowledged; being made equal to the source.
    Reconciling,
    /// Takes writes, is being filled.
    Syncing,
    /// Out of the group.
    Stale,
}

impl Role {
    /// Whether the replica holds every acknowledged write.
    pub fn holds(self) -> bool {
        matches!(self, Self::InSync | Self::Reconciling)
    }

    /// Whether the replica is repaired by a round.
    pub fn joins(self) -> bool {
        matches!(self, Self::Reconciling | Self::Syncing)
    }
}

/// One decided command. What it was compared with is checked before it is decided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Entry {
    /// Room that is not used yet.
    Free,
    /// A replica leaves the group.
    Evict(u8),
    /// A replica comes back and starts a round.
    BeginSync(u8),
    /// A joiner's round is done.
    FinishSync(u8),
    /// `client` attaches; whoever was attached is revoked; `source` starts a round.
    Attach { client: u8, source: u8 },
    /// A target started again.
    Incarnation(u8),
}

/// The group as a prefix of the log defines it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Picture {
    /// The group's epoch.
    pub epoch: u8,
    /// The replicas' roles.
    pub roles: [Role; REPLICAS],
    /// For each joiner, the epoch that started its round; 0 for others.
    pub joined: [u8; REPLICAS],
    /// The epoch that started the round with Reconciling joiners; 0 without one.
    pub round: u8,
    /// Whom joiners copy from.
    pub source: u8,
    /// The attachment's generation.
    pub generation: u8,
    /// The client that is attached.
    pub owner: u8,
    /// The index of the entry that attached it.
    pub attached_at: u8,
    /// The incarnation of each target.
    pub incarnations: [u8; REPLICAS],
    /// The index of the entry of that incarnation.
    pub incarnated_at: [u8; REPLICAS],
    /// The index of the entry that last took a holder out; 0 for none.
    pub removed_at: [u8; REPLICAS],
    /// The attachment generation of that moment.
    pub removed_in: [u8; REPLICAS],
}

impl Picture {
    /// All replicas `InSync`, the first client attached.
    pub fn initial(replicas: u8) -> Self {
        let mut roles = [Role::Stale; REPLICAS];
        roles[..usize::from(replicas)].fill(Role::InSync);
        Self {
            epoch: 1,
            roles,
            joined: [0; REPLICAS],
            round: 0,
            source: 0,
            generation: 1,
            owner: 0,
            attached_at: 0,
            incarnations: [0; REPLICAS],
            incarnated_at: [0; REPLICAS],
            removed_at: [0; REPLICAS],
            removed_in: [0; REPLICAS],
        }
    }

    /// The replicas for which `keep` holds, as a mask.
    pub fn mask(&self, keep: impl Fn(Role) -> bool) -> u8 {
        (0..REPLICAS).filter(|&r| keep(self.roles[r])).fold(0, |mask, r| mask | 1 << r)
    }

    /// The replicas that take client writes, as a mask.
    pub fn write_set(&self, mutations: &Mutations) -> u8 {
        self.mask(|role| match role {
            Role::InSync | Role::Reconciling => true,
            Role::Syncing => !mutations.syncing_unwritten,
            Role::Stale => false,
        })
    }

    /// The round that `replica` takes part in: as joiner, or as source of a reconcile round.
    pub fn round_of(&self, replica: usize) -> u8 {
        if self.roles[replica].joins() {
            self.joined[replica]
        } else if usize::from(self.source) == replica && self.roles[replica] == Role::InSync {
            self.round
        } else {
            0
        }
    }

    /// The picture after the entry at `index` (the first one is 1).
    pub fn after(mut self, entry: Entry, index: u8, mutations: &Mutations) -> Self {
        match entry {
            Entry::Free => return self,
            Entry::Evict(replica) => self.evict(usize::from(replica), index, mutations),
            Entry::BeginSync(replica) => self.begin(usize::from(replica)),
            Entry::FinishSync(replica) => {
                self.epoch += 1;
                self.roles[usize::from(replica)] = Role::InSync;
                self.joined[usize::from(replica)] = 0;
            }
            Entry::Attach { client, source } => self.attach(client, source, index, mutations),
            Entry::Incarnation(replica) => self.incarnate(usize::from(replica), index, mutations),
        }
        if self.mask(|role| role == Role::Reconciling) == 0 {
            self.round = 0;
        }
        self
    }

    fn evict(&mut self, replica: usize, index: u8, mutations: &Mutations) {
        self.epoch += 1;
        if self.roles[replica].holds() {
            self.removed_at[replica] = index;
            self.removed_in[replica] = self.generation;
        }
        self.roles[replica] = Role::Stale;
        self.joined[replica] = 0;
        if usize::from(self.source) == replica {
            self.choose_source();
            if !mutations.progress_over_source {
                self.start_over(Role::joins);
            }
        }
    }

    /// Takes another holder as source, an `InSync` one if there is one.
    fn choose_source(&mut self) {
        let first = |wanted: Role| self.roles.iter().position(|&role| role == wanted);
        if let Some(next) = first(Role::InSync).or_else(|| first(Role::Reconciling)) {
            self.roles[next] = Role::InSync;
            self.joined[next] = 0;
            self.source = u8::try_from(next).unwrap_or(0);
        }
    }

    /// Gives the joiners that `who` selects a new round.
    fn start_over(&mut self, who: impl Fn(Role) -> bool) {
        for replica in 0..REPLICAS {
            if self.roles[replica].joins() && who(self.roles[replica]) {
                self.joined[replica] = self.epoch;
            }
        }
        self.round = self.epoch;
    }

    fn begin(&mut self, replica: usize) {
        self.epoch += 1;
        if self.mask(Role::holds) == 0 {
            // Only without the last-holder rule: somebody has to be first.
            self.roles[replica] = Role::InSync;
            self.source = u8::try_from(replica).unwrap_or(0);
            return;
        }
        self.roles[replica] = Role::Syncing;
        self.joined[replica] = self.epoch;
    }

    fn attach(&mut self, client: u8, source: u8, index: u8, mutations: &Mutations) {
        self.epoch += 1;
        self.generation += 1;
        self.owner = client;
        self.attached_at = index;
        self.source = source;
        for replica in 0..REPLICAS {
            let role = &mut self.roles[replica];
            match *role {
                _ if replica == usize::from(source) => {
                    *role = Role::InSync;
                    self.joined[replica] = 0;
                }
                Role::InSync if !mutations.no_reconcile => *role = Role::Reconciling,
                Role::Syncing if mutations.syncing_reconciles => *role = Role::Reconciling,
                _ => {}
            }
        }
        let keep_syncing = mutations.progress_over_revoke;
        self.start_over(|role| !(keep_syncing && role == Role::Syncing));
    }

    fn incarnate(&mut self, replica: usize, index: u8, mutations: &Mutations) {
        self.incarnations[replica] += 1;
        self.incarnated_at[replica] = index;
        if mutations.restart_keeps_round {
            return;
        }
        match self.roles[replica] {
            Role::Syncing => {
                self.epoch += 1;
                self.roles[replica] = Role::Stale;
                self.joined[replica] = 0;
            }
            Role::Reconciling => {
                self.epoch += 1;
                self.start_over(|role| role == Role::Reconciling);
            }
            Role::InSync | Role::Stale => {}
        }
    }
}

/// The pictures of every prefix of a log.
pub struct Pictures([Picture; ENTRIES + 1]);

impl Pictures {
    /// Applies `entries` one by one.
    pub fn of(entries: &[Entry], replicas: u8, mutations: &Mutations) -> Self {
        let mut pictures = [Picture::initial(replicas); ENTRIES + 1];
        for (place, &entry) in entries.iter().enumerate() {
            let index = u8::try_from(place + 1).unwrap_or(u8::MAX);
            pictures[place + 1] = pictures[place].after(entry, index, mutations);
        }
        Self(pictures)
    }

    /// The picture after `applied` entries.
    pub fn at(&self, applied: u8) -> &Picture {
        &self.0[usize::from(applied)]
    }
}
