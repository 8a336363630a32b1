//! What must hold in every state, and what must be reached in some.

use super::{
    picture::{Entry, Role},
    rules::Rules,
    scope::CLIENTS,
    state::Message,
};

/// A queue with nothing in it.
const NOTHING: [Message; CLIENTS] = [Message::NONE; CLIENTS];

impl Rules<'_> {
    /// Every history of reads and acknowledgements is linearizable.
    pub fn no_stale_read(&self) -> bool {
        self.state.history.linearizable()
    }

    /// What every holder has on its drive could be read: nothing acknowledged or read is lost.
    pub fn nothing_lost(&self) -> bool {
        let latest = self.latest();
        (0..usize::from(self.scope.replicas)).all(|replica| {
            !latest.roles[replica].holds()
                || self.state.history.allows(self.state.targets[replica].media)
        })
    }

    /// Nobody can read under an epoch older than one under which a write was acknowledged.
    pub fn one_epoch_serves(&self) -> bool {
        (0..CLIENTS).all(|client| {
            self.client_picture(client).epoch >= self.state.acknowledged
                || (0..usize::from(self.scope.replicas)).all(|target| !self.reads(client, target))
        })
    }

    /// When nothing is under way, all `InSync` replicas hold the same.
    pub fn converged(&self) -> bool {
        let latest = self.latest();
        let in_sync = |&replica: &usize| latest.roles[replica] == Role::InSync;
        let mut media = (0..usize::from(self.scope.replicas)).filter(in_sync).map(|replica| {
            let node = &self.state.targets[replica];
            (node.media, node.applied == self.state.decided && node.queue == NOTHING)
        });
        let Some((first, quiet)) = media.next() else { return true };
        let (mut same, mut quiet) = (true, quiet && self.owner_settled() && latest.round == 0);
        for (value, settled) in media {
            same &= value == first;
            quiet &= settled;
        }
        same || !quiet
    }

    /// Whether the attached client knows everything and writes nothing.
    fn owner_settled(&self) -> bool {
        let owner = &self.state.clients[usize::from(self.latest().owner)];
        owner.applied == self.state.decided && owner.value == 0
    }

    /// Whether all replicas are `InSync`, everybody knows, and no write is under way.
    fn quiet(&self) -> bool {
        self.owner_settled()
            && (0..usize::from(self.scope.replicas)).all(|replica| {
                let node = &self.state.targets[replica];
                self.latest().roles[replica] == Role::InSync
                    && node.applied == self.state.decided
                    && node.queue == NOTHING
            })
    }

    /// A replica was evicted, missed a write, came back, and can be read by the owner.
    pub fn reads_after_resync(&self) -> bool {
        let begun = self.state.count(|entry| matches!(entry, Entry::BeginSync(_))) > 0;
        begun && self.quiet() && self.state.written > 0 && self.owner_reads_everywhere()
    }

    /// Another client preempted, the replicas were reconciled, and it can read all of them.
    pub fn reads_after_reconcile(&self) -> bool {
        let preempted = self.latest().generation > 1;
        preempted && self.quiet() && self.state.written > 0 && self.owner_reads_everywhere()
    }

    /// A write was acknowledged although a removed replica has not applied its removal.
    pub fn acknowledges_without(&self) -> bool {
        let latest = self.latest();
        (0..usize::from(self.scope.replicas)).any(|replica| {
            latest.roles[replica] == Role::Stale
                && self.state.targets[replica].applied < latest.removed_at[replica]
                && self.state.acknowledged == latest.epoch
        })
    }

    fn owner_reads_everywhere(&self) -> bool {
        let owner = usize::from(self.latest().owner);
        (0..usize::from(self.scope.replicas)).all(|target| self.reads(owner, target))
    }
}
