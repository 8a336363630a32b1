//! The steps of the model: what can happen next, and what it does.

use super::{
    picture::Entry,
    rules::Rules,
    scope::{CLIENTS, Mutations, Scope},
    state::{FOREIGN, Link, Message, Progress, State},
};

/// One step. Clients and replicas are numbers from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A client applies its next entry.
    ClientApplies(usize),
    /// A target applies its next entry.
    TargetApplies(usize),
    /// W passes for the next removal: leases from before it have ended.
    WaitPasses,
    /// An entry is decided.
    Decide(Entry),
    /// A joiner proposes its FinishSync.
    Propose(usize),
    /// A target stops and starts again; its incarnation is not logged yet.
    Restart(usize),
    /// A client begins a write and sends it to the write set.
    Write(usize),
    /// A write arrives in the newest session of (client, target), and is checked and queued.
    Arrive(usize, usize),
    /// A write arrives from an older session.
    ArriveLate(usize, usize),
    /// A queued write of (client, target) becomes stable and is answered.
    Stable(usize, usize),
    /// A client takes another route to a target under a write without an answer.
    SwitchRoute(usize, usize),
    /// A client acknowledges its write.
    Acknowledge(usize),
    /// A client reads from a target.
    Read(usize, usize),
    /// A watermark clears a replica's intent bit.
    Clear(usize),
    /// The first takes the second's map.
    TakeMap(usize, usize),
    /// A participant has all maps.
    Unite(usize),
    /// A joiner holds writes and reads the block from its source.
    CopyRead(usize),
    /// A joiner writes what it read.
    CopyWrite(usize),
    /// A joiner tells its source that the block is repaired.
    Report(usize),
}

impl Rules<'_> {
    /// Adds every step that is possible now.
    pub fn steps(&self, steps: &mut Vec<Step>) {
        for client in 0..usize::from(self.scope.clients) {
            self.client_steps(client, steps);
        }
        for target in 0..usize::from(self.scope.replicas) {
            self.target_steps(target, steps);
            self.round_steps(target, steps);
        }
        if self.next_removal().is_some() {
            steps.push(Step::WaitPasses);
        }
        if self.state.decided < self.scope.entries {
            self.decisions(steps);
        }
    }

    fn client_steps(&self, client: usize, steps: &mut Vec<Step>) {
        let node = &self.state.clients[client];
        if node.applied < self.state.decided {
            steps.push(Step::ClientApplies(client));
        }
        if self.attached(client) && node.value == 0 && self.state.written < self.scope.writes {
            steps.push(Step::Write(client));
        }
        if self.acknowledges(client) {
            steps.push(Step::Acknowledge(client));
        }
        for target in 0..usize::from(self.scope.replicas) {
            let link = &self.state.links[client][target];
            if self.accepts(client, target, link.wire) {
                steps.push(Step::Arrive(client, target));
            }
            if self.accepts(client, target, link.late) {
                steps.push(Step::ArriveLate(client, target));
            }
            let free = self.state.switches < self.scope.switches && !link.late.some();
            if link.wire.some() && free {
                steps.push(Step::SwitchRoute(client, target));
            }
            if self.state.targets[target].queue[client].some() {
                steps.push(Step::Stable(client, target));
            }
            if self.reads(client, target) {
                steps.push(Step::Read(client, target));
            }
        }
    }

    fn target_steps(&self, target: usize, steps: &mut Vec<Step>) {
        if self.state.targets[target].applied < self.state.decided {
            steps.push(Step::TargetApplies(target));
        }
        let restarts: u8 = self.state.targets.iter().map(|node| node.incarnation).sum();
        if restarts < self.scope.restarts {
            steps.push(Step::Restart(target));
        }
        if self.clears(target) {
            steps.push(Step::Clear(target));
        }
    }

    fn round_steps(&self, target: usize, steps: &mut Vec<Step>) {
        for holder in 0..usize::from(self.scope.replicas) {
            if self.takes_map(target, holder) {
                steps.push(Step::TakeMap(target, holder));
            }
        }
        let proposed = self.state.targets[target].proposal == self.target_picture(target).epoch;
        let choices = [
            (self.completes_union(target), Step::Unite(target)),
            (self.copies(target), Step::CopyRead(target)),
            (self.state.targets[target].progress.copy.is_some(), Step::CopyWrite(target)),
            (self.reports(target), Step::Report(target)),
            (self.done(target) && !proposed, Step::Propose(target)),
        ];
        steps.extend(choices.into_iter().filter_map(|(possible, step)| possible.then_some(step)));
    }

    fn decisions(&self, steps: &mut Vec<Step>) {
        let (scope, state) = (self.scope, self.state);
        let evictions = state.count(|entry| matches!(entry, Entry::Evict(_)));
        let begins = state.count(|entry| matches!(entry, Entry::BeginSync(_)));
        let attaches = state.count(|entry| matches!(entry, Entry::Attach { .. }));
        for replica in 0..scope.replicas {
            let place = usize::from(replica);
            if evictions < scope.evictions && self.evicts(place) {
                steps.push(Step::Decide(Entry::Evict(replica)));
            }
            if begins < scope.begins && self.begins(place) {
                steps.push(Step::Decide(Entry::BeginSync(replica)));
            }
            if self.finishes(place) {
                steps.push(Step::Decide(Entry::FinishSync(replica)));
            }
            if self.latest().incarnations[place] != state.targets[place].incarnation {
                steps.push(Step::Decide(Entry::Incarnation(replica)));
            }
            if attaches < scope.attaches && self.latest().roles[place].holds() {
                for client in 0..scope.clients {
                    steps.push(Step::Decide(Entry::Attach { client, source: replica }));
                }
            }
        }
    }

    /// The next removal whose W has not passed.
    fn next_removal(&self) -> Option<u8> {
        (self.state.elapsed + 1..=self.state.decided)
            .find(|&index| matches!(self.state.log[usize::from(index) - 1], Entry::Evict(_)))
    }

    /// The state after a step that `steps` gave.
    pub fn after(&self, step: Step) -> State {
        let mut next = *self.state;
        match step {
            Step::ClientApplies(client) => self.client_applies(&mut next, client),
            Step::TargetApplies(target) => self.target_applies(&mut next, target),
            Step::WaitPasses => next.elapsed = self.next_removal().unwrap_or(next.elapsed),
            Step::Decide(entry) => {
                next.log[usize::from(next.decided)] = entry;
                next.decided += 1;
                if let Entry::FinishSync(replica) = entry {
                    next.targets[usize::from(replica)].proposal = 0;
                }
            }
            Step::Propose(target) => {
                next.targets[target].proposal = self.target_picture(target).epoch;
            }
            Step::Restart(target) => self.restart(&mut next, target),
            Step::Write(client) => self.write(&mut next, client),
            Step::Arrive(client, target) => {
                let message = std::mem::take(&mut next.links[client][target].wire);
                if !self.mutations.late_duplicates {
                    // The newer session is open: the older one is drained and refused.
                    next.links[client][target].late = Message::NONE;
                }
                self.arrive(&mut next, client, target, message);
            }
            Step::ArriveLate(client, target) => {
                let message = std::mem::take(&mut next.links[client][target].late);
                self.arrive(&mut next, client, target, message);
            }
            Step::Stable(client, target) => self.stable(&mut next, client, target),
            Step::SwitchRoute(client, target) => {
                next.switches += 1;
                next.links[client][target].late = next.links[client][target].wire;
            }
            Step::Acknowledge(client) => {
                let node = &mut next.clients[client];
                next.history.acknowledge(node.value);
                next.acknowledged = next.acknowledged.max(node.epoch);
                (node.value, node.epoch, node.answered) = (0, 0, 0);
            }
            Step::Read(_, target) => next.history.read(next.targets[target].media),
            Step::Clear(target) => next.targets[target].bit = 0,
            Step::TakeMap(target, holder) => {
                let marked = next.targets[holder].bit != 0;
                let progress = &mut next.targets[target].progress;
                progress.maps |= 1 << holder;
                progress.marked |= marked;
            }
            Step::Unite(target) => self.unite(&mut next, target),
            Step::CopyRead(target) => {
                let source = usize::from(self.target_picture(target).source);
                next.targets[target].progress.copy = Some(next.targets[source].media);
            }
            Step::CopyWrite(target) => {
                let node = &mut next.targets[target];
                node.media = node.progress.copy.take().unwrap_or(node.media);
                node.progress.left = false;
            }
            Step::Report(target) => {
                let source = usize::from(self.target_picture(target).source);
                next.targets[source].progress.reported |= 1 << target;
            }
        }
        next
    }

    fn client_applies(&self, next: &mut State, client: usize) {
        let node = &mut next.clients[client];
        let before = self.client_picture(client);
        node.applied += 1;
        let after = self.pictures.at(node.applied);
        if node.value == 0 || after.epoch == before.epoch {
            return;
        }
        if after.generation != before.generation {
            (node.value, node.epoch, node.answered) = (0, 0, 0);
            return;
        }
        node.epoch = after.epoch;
        if !self.mutations.mixed_epochs {
            node.answered = 0;
        }
        self.send(next, client);
    }

    /// Sends a client's write to the write set of its picture. What is still under way in an older
    /// session stays there.
    fn send(&self, next: &mut State, client: usize) {
        let node = next.clients[client];
        let wanted = self.pictures.at(node.applied).write_set(self.mutations);
        let message = Message { value: node.value, epoch: node.epoch };
        for target in 0..usize::from(self.scope.replicas) {
            if wanted & !node.answered & (1 << target) == 0 {
                continue;
            }
            let link = &mut next.links[client][target];
            if link.wire.some() {
                link.late = link.wire;
            }
            link.wire = message;
            self.forget_dead(next, client, target);
        }
    }

    /// Drops messages whose epoch the target has left: it refuses them for ever.
    fn forget_dead(&self, next: &mut State, client: usize, target: usize) {
        if self.mutations.epoch_unchecked {
            return;
        }
        let epoch = self.pictures.at(next.targets[target].applied).epoch;
        let link = &mut next.links[client][target];
        for message in [&mut link.wire, &mut link.late] {
            if message.older_than(epoch) {
                *message = Message::NONE;
            }
        }
    }

    fn target_applies(&self, next: &mut State, target: usize) {
        let node = &mut next.targets[target];
        node.applied += 1;
        let round = self.pictures.at(node.applied).round_of(target);
        if node.progress.round != round {
            let copy = node.progress.copy.filter(|_| self.mutations.copy_over_rounds);
            node.progress = Progress { round, copy, ..Progress::default() };
        }
        for client in 0..CLIENTS {
            self.forget_dead(next, client, target);
        }
    }

    /// A target loses what is volatile; clients that still want an answer open a new session.
    fn restart(&self, next: &mut State, target: usize) {
        let node = &mut next.targets[target];
        node.incarnation += 1;
        node.queue = [Message::NONE; CLIENTS];
        node.progress = Progress { round: node.progress.round, ..Progress::default() };
        if node.bit != 0 {
            node.bit = FOREIGN;
        }
        for client in 0..CLIENTS {
            next.links[client][target] = Link::default();
            let sender = next.clients[client];
            let wanted = self.client_picture(client).write_set(self.mutations);
            if sender.value != 0 && wanted & !sender.answered & (1 << target) != 0 {
                let message = Message { value: sender.value, epoch: sender.epoch };
                next.links[client][target].wire = message;
            }
            self.forget_dead(next, client, target);
        }
    }

    fn write(&self, next: &mut State, client: usize) {
        next.written += 1;
        next.history.invoke(next.written);
        let node = &mut next.clients[client];
        node.value = next.written;
        node.epoch = self.client_picture(client).epoch;
        node.answered = 0;
        self.send(next, client);
    }

    /// A write passed the checks: its intent is durable, then it is queued.
    fn arrive(&self, next: &mut State, client: usize, target: usize, message: Message) {
        let node = &mut next.targets[target];
        node.queue[client] = message;
        node.bit = self.bit_after(target);
        if self.mutations.marks_early {
            self.mark_done(next, target);
        }
    }

    /// A queued write reaches the drive; the answer counts if the client still waits in that
    /// session. Only now the block counts as written: before that a power cut could lose it.
    fn stable(&self, next: &mut State, client: usize, target: usize) {
        let message = std::mem::take(&mut next.targets[target].queue[client]);
        next.targets[target].media = message.value;
        let node = &mut next.clients[client];
        if node.value == message.value && node.epoch == message.epoch {
            node.answered |= 1 << target;
        }
        if message.epoch >= next.targets[target].progress.round {
            self.mark_done(next, target);
        }
    }

    /// A joiner has the client's newer data: the block is not copied any more.
    fn mark_done(&self, next: &mut State, target: usize) {
        let progress = &mut next.targets[target].progress;
        if !self.target_picture(target).roles[target].joins() {
            return;
        }
        if !progress.union {
            progress.recorded = true;
        } else if !self.mutations.write_not_done {
            progress.left = false;
        }
    }

    fn unite(&self, next: &mut State, target: usize) {
        let picture = self.target_picture(target);
        let node = &mut next.targets[target];
        let own = node.bit != 0 && !self.mutations.own_map_ignored;
        let progress = &mut node.progress;
        let union = progress.marked || own;
        let joins = picture.roles[target].joins();
        progress.union = true;
        progress.left =
            if joins { union && (!progress.recorded || self.mutations.no_record) } else { union };
        (progress.maps, progress.marked, progress.recorded) = (0, false, false);
        if joins && union && node.bit == 0 && !self.mutations.union_not_merged {
            node.bit = FOREIGN;
        }
    }
}

/// Computes the steps or the next state of `state` in one go.
pub fn with_rules<T>(
    state: &State,
    scope: &Scope,
    mutations: &Mutations,
    work: impl FnOnce(&Rules<'_>) -> T,
) -> T {
    let pictures = state.pictures(scope, mutations);
    work(&Rules { state, pictures: &pictures, scope, mutations })
}
