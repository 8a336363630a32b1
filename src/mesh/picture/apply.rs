//! Which command is whose.

use super::attach::Wish;
use super::change::{Change, Entry};
use super::command::{Command, Refusal, Reply};
use super::tables::Picture;
use crate::mesh::ids::Index;

impl Picture {
    /// Applies the entry of this index, and adds what it has changed to `changes`, each once. What was refused has changed nothing.
    ///
    /// # Errors
    /// Why the command was refused. An entry that is not newer than the last one is `Superseded`.
    pub fn apply(
        &mut self,
        index: Index,
        command: &Command,
        changes: &mut Vec<Change>,
    ) -> Result<Reply, Refusal> {
        if index <= self.totals.applied {
            return Err(Refusal::Superseded);
        }
        self.totals.applied = index;
        let mut entry = Entry::new(index, changes);
        let result = self.carry_out(command, &mut entry);
        entry.finish();
        self.settle();
        result
    }

    fn carry_out(&mut self, command: &Command, entry: &mut Entry<'_>) -> Result<Reply, Refusal> {
        match command {
            Command::AddToken { digest, uses } => self.add_token(*digest, *uses),
            Command::RemoveToken { digest } => self.remove_token(*digest),
            Command::AddNode { node, uuid, domains, token } => {
                self.add_node(*node, *uuid, domains, *token, entry)
            }
            Command::StartNode { node, uuid, origin, addresses, domains, store } => {
                let reply = self.start_node(*node, *uuid, *origin, addresses, domains, entry)?;
                self.set_store(*node, *store);
                Ok(reply)
            }
            Command::DrainNode { node, drain } => self.drain_node(*node, *drain, entry),
            Command::RemoveNode { node } => self.remove_node(*node, entry),
            Command::AddDrive { node, uuid, spec } => self.add_drive(*node, *uuid, spec, entry),
            Command::OpenDrive(open) => self.open_drive(open, entry),
            Command::CloseDrive { uuid, node, nonce } => {
                self.close_drive(*uuid, *node, *nonce, entry)
            }
            Command::DrainDrive { drive, drain } => self.drain_drive(*drive, *drain, entry),
            Command::RemoveDrive { drive, lose } => self.remove_drive(*drive, *lose, entry),
            Command::CreateVolume { name, spec } => self.create_volume(name, spec, entry),
            Command::ExtendVolume { volume, blocks } => self.extend_volume(*volume, *blocks, entry),
            Command::DeleteVolume { volume } => self.delete_volume(*volume, entry),
            Command::MoveReplica { group, replica, to } => {
                self.move_replica(*group, *replica, *to, entry)
            }
            Command::Rebalance { moves } => self.rebalance(*moves, entry),
            Command::Attach { volume, node, incarnation, mode, preempt } => {
                let (volume, node, incarnation) = (*volume, *node, *incarnation);
                let wish = Wish { volume, node, incarnation, mode: *mode, preempt: *preempt };
                self.attach(&wish, entry)
            }
            Command::Detach { volume, generation } => self.detach(*volume, *generation, entry),
            Command::Revoke { volume, generation } => self.revoke(*volume, *generation, entry),
            Command::Evict { proposer, evictions } => {
                Ok(items(evictions, |eviction| self.evict(*proposer, eviction, entry)))
            }
            Command::BeginSync { syncs, .. } => {
                Ok(items(syncs, |sync| self.begin_sync(sync, entry)))
            }
            Command::FinishSync { syncs, .. } => {
                Ok(items(syncs, |sync| self.finish_sync(sync, entry)))
            }
            Command::Tick(tick) => Ok(self.tick(tick, entry)),
            Command::Report { .. } => self.report(command, entry),
            Command::SetTiming(timing) => self.set_timing(timing, entry),
        }
    }
}

/// Applies a batch item by item.
fn items<T>(batch: &[T], apply: impl FnMut(&T) -> Result<(), Refusal>) -> Reply {
    Reply::Items(batch.iter().map(apply).collect())
}
