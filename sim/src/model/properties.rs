//! What must hold in every state, and what must be reached in some.

use super::{
    picture::{Entry, Role},
    rules::Rules,
    scope::CLIENTS,
    state::Message,
};

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

    /// When all are `InSync` and nothing is under way, all replicas hold the same.
    pub fn converged(&self) -> bool {
        !self.quiet() || {
            let media = |replica: u8| self.state.targets[usize::from(replica)].media;
            (1..self.scope.replicas).all(|replica| media(replica) == media(0))
        }
    }

    /// Whether all replicas are `InSync`, everybody knows, and no write is under way.
    fn quiet(&self) -> bool {
        let latest = self.latest();
        let owner = &self.state.clients[usize::from(latest.owner)];
        let settled = owner.applied == self.state.decided && owner.value == 0;
        settled
            && (0..usize::from(self.scope.replicas)).all(|replica| {
                let node = &self.state.targets[replica];
                latest.roles[replica] == Role::InSync
                    && node.applied == self.state.decided
                    && node.queue == [Message::NONE; CLIENTS]
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
