//! The rules: who may do what in a state. Each reads only what that node itself knows, except
//! where a comment says why more is harmless.

use super::{
    picture::{Picture, Pictures, Role},
    scope::{CLIENTS, Mutations, Scope},
    state::{FOREIGN, Message, State},
};

/// A state with its pictures and the rules in force.
pub struct Rules<'a> {
    /// The state.
    pub state: &'a State,
    /// The pictures of its log.
    pub pictures: &'a Pictures,
    /// The scope.
    pub scope: &'a Scope,
    /// The rules that are left out.
    pub mutations: &'a Mutations,
}

impl Rules<'_> {
    /// The newest picture, which no node need know.
    pub fn latest(&self) -> &Picture {
        self.pictures.at(self.state.decided)
    }

    /// The picture that a target has applied.
    pub fn target_picture(&self, target: usize) -> &Picture {
        self.pictures.at(self.state.targets[target].applied)
    }

    /// The picture that a client has applied.
    pub fn client_picture(&self, client: usize) -> &Picture {
        self.pictures.at(self.state.clients[client].applied)
    }

    /// Whether a client is attached as far as it knows.
    pub fn attached(&self, client: usize) -> bool {
        usize::from(self.client_picture(client).owner) == client
    }

    /// Whether a target has applied the entry of its own incarnation.
    pub fn running(&self, target: usize) -> bool {
        let known = self.target_picture(target).incarnations[target];
        known == self.state.targets[target].incarnation
    }

    /// Whether a target may serve I/O: its incarnation is logged and its lease runs. A lease can
    /// run exactly as long as no removal that its target has not applied is W old.
    pub fn serving(&self, target: usize) -> bool {
        let leased = self.state.targets[target].applied >= self.state.elapsed;
        self.running(target) && (leased || self.mutations.lease_outlives)
    }

    /// Whether a session of `epoch` can be open on a target: it is at that epoch, and what it had
    /// queued of older ones has drained.
    fn session(&self, target: usize, epoch: u8) -> bool {
        let same = self.target_picture(target).epoch == epoch || self.mutations.epoch_unchecked;
        let drained = self.mutations.session_undrained || self.state.targets[target].drained(epoch);
        same && drained
    }

    /// Whether a target accepts a write of `client` now: checked and queued in one step.
    pub fn accepts(&self, client: usize, target: usize, message: Message) -> bool {
        let node = &self.state.targets[target];
        let held = node.progress.copy.is_some() && !self.mutations.no_hold;
        message.some()
            && self.serving(target)
            && self.session(target, message.epoch)
            && self.target_picture(target).roles[target] != Role::Stale
            && !node.queue[client].some()
            && !held
    }

    /// Whether a client can read from a target now.
    pub fn reads(&self, client: usize, target: usize) -> bool {
        let picture = self.client_picture(client);
        self.attached(client)
            && self.state.clients[client].value == 0
            && self.serving(target)
            && self.session(target, picture.epoch)
            && self.readable(target)
    }

    /// Whether a target's replica may serve reads, by its own picture and its part in a round.
    fn readable(&self, target: usize) -> bool {
        let picture = self.target_picture(target);
        if self.mutations.reads_anywhere {
            return picture.roles[target].holds();
        }
        if picture.roles[target] != Role::InSync {
            return false;
        }
        let joiners = picture.mask(|role| role == Role::Reconciling);
        if joiners == 0 {
            return true;
        }
        if usize::from(picture.source) != target {
            return false;
        }
        let progress = &self.state.targets[target].progress;
        let repaired = !progress.left || progress.reported & joiners == joiners;
        self.mutations.serves_unrepaired || progress.union && repaired
    }

    /// Whether a client may acknowledge its write: one epoch, the whole write set, all fenced.
    pub fn acknowledges(&self, client: usize) -> bool {
        let picture = self.client_picture(client);
        let node = &self.state.clients[client];
        let wanted = picture.write_set(self.mutations);
        node.value != 0
            && node.answered & wanted == wanted
            && (0..usize::from(self.scope.replicas)).all(|r| self.fenced(picture, r))
    }

    /// Whether a replica that is out of the group can no longer serve an earlier epoch to anyone
    /// but the client that asks. Looking at the target's prefix instead of the confirmation that
    /// the client has got allows more than the protocol does.
    fn fenced(&self, picture: &Picture, replica: usize) -> bool {
        let removed = picture.removed_at[replica];
        if picture.roles[replica] != Role::Stale || removed == 0 || self.mutations.no_fence {
            return true;
        }
        if self.mutations.proposer_fences && picture.removed_in[replica] != picture.generation {
            return true;
        }
        let applied = self.state.targets[replica].applied;
        let waited = self.state.elapsed >= removed;
        let confirmed = applied >= picture.attached_at
            || picture.incarnated_at[replica] > picture.attached_at
            || self.mutations.unconfirmed_fast;
        applied >= removed || waited || self.scope.fast && confirmed
    }

    /// Whether the owner's watermark clears a replica's intent bit.
    pub fn clears(&self, target: usize) -> bool {
        let picture = self.target_picture(target);
        let owner = usize::from(picture.owner);
        let node = &self.state.targets[target];
        let client = &self.state.clients[owner];
        let in_sync = (0..usize::from(self.scope.replicas)).all(|r| match picture.roles[r] {
            Role::InSync => true,
            Role::Reconciling | Role::Syncing => self.mutations.clear_in_round,
            Role::Stale => self.mutations.clear_while_stale,
        });
        node.bit != 0
            && node.bit == picture.generation
            && in_sync
            && self.serving(target)
            && picture.roles[target] != Role::Stale
            && self.client_picture(owner).epoch == picture.epoch
            && self.attached(owner)
            && client.value == 0
            && node.queue == [Message::NONE; CLIENTS]
    }

    /// The round that a target takes part in, if its own progress belongs to it.
    pub fn round(&self, target: usize) -> Option<u8> {
        let round = self.target_picture(target).round_of(target);
        let valid = round != 0 && self.state.targets[target].progress.round == round;
        (valid && self.running(target)).then_some(round)
    }

    /// Whether `holder` answers a participant of `round`: it has applied the round's entry, and
    /// what it had queued before that has drained.
    fn answers(&self, holder: usize, round: u8, early: bool) -> bool {
        let drained = self.state.targets[holder].drained(round) || self.mutations.source_undrained;
        let applied = self.target_picture(holder).epoch >= round || early;
        self.running(holder) && drained && applied
    }

    /// Whether a participant can take `holder`'s map.
    pub fn takes_map(&self, target: usize, holder: usize) -> bool {
        let progress = &self.state.targets[target].progress;
        self.round(target).is_some_and(|round| {
            target != holder
                && !progress.union
                && progress.maps & (1 << holder) == 0
                && self.target_picture(target).roles[holder].holds()
                && self.answers(holder, round, self.mutations.early_map)
        })
    }

    /// Whether a participant has the maps of all holders.
    pub fn completes_union(&self, target: usize) -> bool {
        let others = self.target_picture(target).mask(Role::holds) & !(1 << target);
        let progress = &self.state.targets[target].progress;
        self.round(target).is_some() && !progress.union && progress.maps & others == others
    }

    /// Whether no client write of the running round is queued: a hold waits for those.
    fn settled(&self, target: usize, round: u8) -> bool {
        let queue = &self.state.targets[target].queue;
        !queue.iter().any(|queued| queued.some() && queued.epoch >= round)
    }

    /// Whether a joiner can read the block from its source, to write it next.
    pub fn copies(&self, target: usize) -> bool {
        let picture = self.target_picture(target);
        let node = &self.state.targets[target];
        let source = usize::from(picture.source);
        let before = |round: u8| self.mutations.joiner_undrained || node.drained(round);
        self.round(target).is_some_and(|round| {
            picture.roles[target].joins()
                && node.progress.union
                && node.progress.left
                && node.progress.copy.is_none()
                && before(round)
                && self.settled(target, round)
                && self.answers(source, round, false)
        })
    }

    /// Whether a joiner has nothing left to do in its round.
    pub fn done(&self, target: usize) -> bool {
        let progress = &self.state.targets[target].progress;
        let undrained = self.mutations.joiner_undrained;
        self.round(target).is_some_and(|round| {
            self.target_picture(target).roles[target].joins()
                && progress.union
                && !progress.left
                && progress.copy.is_none()
                && (undrained || self.state.targets[target].drained(round))
        })
    }

    /// Whether a Reconciling joiner's report that the block is repaired is news to the source.
    pub fn reports(&self, target: usize) -> bool {
        let picture = self.target_picture(target);
        let source = usize::from(picture.source);
        picture.roles[target] == Role::Reconciling
            && self.done(target)
            && self.round(source).is_some()
            && self.round(source) == self.round(target)
            && self.state.targets[source].progress.reported & (1 << target) == 0
    }

    /// Whether a replica may be evicted: somebody else holds everything.
    pub fn evicts(&self, replica: usize) -> bool {
        let latest = self.latest();
        let others = latest.mask(Role::holds) & !(1 << replica);
        latest.roles[replica] != Role::Stale && (others != 0 || self.mutations.no_last_holder)
    }

    /// Whether a replica's own target proposes its return: it knows that it is out.
    pub fn begins(&self, replica: usize) -> bool {
        self.running(replica)
            && self.target_picture(replica).epoch == self.latest().epoch
            && self.latest().roles[replica] == Role::Stale
    }

    /// Whether a FinishSync that was proposed can be decided.
    pub fn finishes(&self, replica: usize) -> bool {
        let proposal = self.state.targets[replica].proposal;
        let current = proposal == self.latest().epoch || self.mutations.old_finish;
        proposal != 0 && current && self.latest().roles[replica].joins()
    }

    /// The bit that a write of the current attachment leaves behind.
    pub fn bit_after(&self, target: usize) -> u8 {
        let bit = self.state.targets[target].bit;
        let generation = self.target_picture(target).generation;
        if bit == 0 || bit == generation { generation } else { FOREIGN }
    }
}
