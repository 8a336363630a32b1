//! The rest of a mirror's queue: what waits, what failed, what is repaired.
//!
//! A read that a leg fails is tried on the others. If the medium of the leg failed, the block is then repaired: under
//! the range lock of a write, with the intent bit of a write, it is read from a good leg again and written
//! to the bad ones, before the read completes. A write that some leg fails is reported, and completes when the
//! control task has given its verdict: by then the leg is out of service everywhere and its loss is recorded.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::legs::each;
use super::op::Stage;
use super::queue::Inner;
use super::shared::{Report, lock};
use crate::base::{Lba, Status};
use crate::bdev::Access;
use crate::bdev::request::{Opcode, Request, RequestFlags};

impl Inner {
    #[cold]
    pub(super) fn follow_view(&mut self) {
        // By the generation first: a leg that the view has is opened before anybody relies on it.
        let view = self.shared.view();
        if let Err(error) = self.legs.follow(&view, &self.cx) {
            // What is sent there fails, and is reported as any failure is.
            tracing::warn!(mirror = self.shared.name, %error, "a leg cannot be used");
        }
        self.view = Arc::clone(&view);
        self.mark.seen.store(view.generation, Ordering::Release);
        self.close_leaving();
    }

    #[cold]
    pub(super) fn close_leaving(&mut self) {
        if self.legs.close_idle() {
            self.mark.closed.store(self.view.generation, Ordering::Release);
        }
    }

    /// Whether a read must wait until its regions are the same on all legs.
    #[cold]
    pub(super) fn awaits_region(&mut self, slot: u32) -> bool {
        let op = &mut self.ops[slot as usize];
        let (first, last) = self.shared.tracker.layout().regions_of(op.request.lba, op.blocks());
        if !self.shared.is_unresolved(first, last) {
            return false;
        }
        op.stage = Stage::ReadRegion;
        self.waiting.region.push(slot);
        for region in first..=last {
            if self.shared.is_unresolved(region, region) {
                self.shared.await_region(region);
            }
        }
        true
    }

    /// Asks the map for the intent bits of a write; returns whether they are as good as durable.
    #[cold]
    pub(super) fn ask_for_intent(&mut self, slot: u32) -> bool {
        let op = &self.ops[slot as usize];
        let (first, last) = self.shared.tracker.layout().regions_of(op.request.lba, op.blocks());
        let at_once = {
            let mut map = lock(&self.shared.map);
            let at_once = map.set(first, last);
            if at_once {
                self.shared.tracker.publish_range(first, last);
            }
            at_once
        };
        at_once || self.shared.tracker.is_durable(first, last)
    }

    /// Starts writes of pages of the map, as far as there is room.
    fn write_pages(&mut self) {
        let first = self.ops.len() - self.pages.len();
        for index in 0..self.pages.len() {
            if self.pages[index].write.is_some() {
                continue;
            }
            let page = &mut self.pages[index];
            let next = lock(&self.shared.map).next_write(page.buffer.bytes_mut());
            let Some(write) = next else { return };
            page.write = Some(write);
            let layout = self.shared.tracker.layout();
            let shift = self.shared.geometry.block_size.shift();
            let offset = layout.page_offset(write.page, write.copy) >> shift;
            // SAFETY: the page's slot keeps the buffer, and leaves it alone until the write has ended.
            let segment = unsafe { page.buffer.segment(layout.page_bytes()) };
            let slot = (first + index) as u32;
            let request = Request::new(
                Opcode::Write,
                Lba(self.shared.offsets.map + offset),
                layout.page_bytes() >> shift,
                segment,
                0,
            );
            let op = &mut self.ops[slot as usize];
            op.begin(&request.with_flags(RequestFlags::FUA));
            // Where it stands decides where on a leg it goes.
            op.stage = Stage::Page;
            self.used += 1;
            self.send_to_all(slot, Stage::Page);
        }
    }

    fn page_written(&mut self, slot: u32, succeeded: bool) {
        let first = self.ops.len() - self.pages.len();
        self.ops[slot as usize].stage = Stage::Free;
        self.used -= 1;
        let Some(write) = self.pages[slot as usize - first].write.take() else { return };
        {
            let mut map = lock(&self.shared.map);
            let tracker = &self.shared.tracker;
            map.finish_write(write, succeeded, |word, bits| tracker.publish(word, bits));
        }
        if !succeeded {
            self.fail_intent(write.page);
        }
    }

    /// Fails the requests that wait for a page that cannot be written.
    fn fail_intent(&mut self, page: u32) {
        let layout = *self.shared.tracker.layout();
        let mut index = 0;
        while index < self.waiting.intent.len() {
            let slot = self.waiting.intent[index];
            let op = &self.ops[slot as usize];
            let (first, last) = layout.regions_of(op.request.lba, op.blocks());
            if layout.page_of(first) > page || layout.page_of(last) < page {
                index += 1;
                continue;
            }
            self.waiting.intent.swap_remove(index);
            let repair = self.ops[slot as usize].stage == Stage::RepairIntent;
            self.end_write(slot);
            // What a repair was about to write, it has read.
            self.finish(slot, if repair { Status::SUCCESS } else { Status::WRITE_FAULT });
        }
    }

    #[cold]
    pub(super) fn look_at_waiting(&mut self) {
        self.look_at_verdicts();
        let layout = *self.shared.tracker.layout();
        for index in (0..self.waiting.region.len()).rev() {
            let slot = self.waiting.region[index];
            let op = &self.ops[slot as usize];
            let (first, last) = layout.regions_of(op.request.lba, op.blocks());
            if !self.shared.is_unresolved(first, last) {
                self.waiting.region.swap_remove(index);
                // From the start: a write may have come meanwhile.
                self.ops[slot as usize].stage = Stage::ReadLock;
                let (lba, blocks) = self.range(slot);
                if self.lock.acquire(slot, Access::Read, lba, blocks) {
                    self.read(slot);
                }
            }
        }
        while let Some(&slot) = self.waiting.memory.first() {
            // Legs may have gone meanwhile.
            if !self.try_write_to_legs(slot, self.must_capture(slot)) {
                break;
            }
            self.waiting.memory.remove(0);
        }
        self.look_at_intents();
    }

    fn look_at_intents(&mut self) {
        let layout = *self.shared.tracker.layout();
        for index in (0..self.waiting.intent.len()).rev() {
            let slot = self.waiting.intent[index];
            let op = &self.ops[slot as usize];
            let (first, last) = layout.regions_of(op.request.lba, op.blocks());
            if self.shared.tracker.is_durable(first, last) {
                self.waiting.intent.swap_remove(index);
                match self.ops[slot as usize].stage {
                    Stage::RepairIntent => self.repair_read(slot),
                    _ => self.write_to_legs(slot),
                }
            }
        }
        if !self.waiting.intent.is_empty() {
            self.write_pages();
        }
    }

    fn range(&self, slot: u32) -> (Lba, u64) {
        let op = &self.ops[slot as usize];
        (op.request.lba, op.blocks())
    }

    /// Takes up the requests that the range lock lets go.
    #[cold]
    pub(super) fn take_granted(&mut self) {
        while let Some(slot) = self.lock.next_granted() {
            match self.ops[slot as usize].stage {
                Stage::ReadLock => self.read(slot),
                Stage::WriteLock => self.write(slot),
                Stage::RepairLock => self.repair(slot),
                stage => unreachable!("a request in {stage:?} waits for no lock"),
            }
        }
    }

    /// All legs have answered, and some with a failure.
    #[cold]
    pub(super) fn answer_failed(&mut self, slot: u32) {
        match self.ops[slot as usize].stage {
            Stage::Read => self.read_failed(slot),
            Stage::RepairRead => self.repair_read_failed(slot),
            _ => self.write_failed(slot),
        }
    }

    fn read_failed(&mut self, slot: u32) {
        let op = &mut self.ops[slot as usize];
        let status = op.status;
        if status == Status::COMPARE_FAILURE {
            return self.finish(slot, status);
        }
        if status.is_media_error() {
            op.bad |= op.failed;
        }
        // Each leg's own status decides whether its medium is bad.
        op.status = Status::SUCCESS;
        match self.untried(slot) {
            Some(leg) => self.read_from(slot, leg, Stage::Read),
            None => self.finish(slot, status),
        }
    }

    fn untried(&self, slot: u32) -> Option<usize> {
        each(self.legs.in_sync & !self.ops[slot as usize].tried).next()
    }

    /// Goes on with a request all of whose legs have answered well, other than a plain read or write.
    #[cold]
    pub(super) fn end(&mut self, slot: u32) {
        let op = &self.ops[slot as usize];
        match op.stage {
            // A read that succeeded after a medium failed.
            Stage::Read if op.request.opcode() == Opcode::Read => self.repair_lock(slot),
            Stage::Write => {
                let status = op.status;
                self.end_write(slot);
                self.finish(slot, status);
            }
            Stage::RepairRead => self.repair_write(slot),
            Stage::RepairWrite => {
                self.end_write(slot);
                self.finish(slot, Status::SUCCESS);
            }
            Stage::Page => {
                let succeeded = op.status.is_success();
                self.page_written(slot, succeeded);
            }
            _ => {
                let status = op.status;
                self.finish(slot, status);
            }
        }
    }

    fn repair_lock(&mut self, slot: u32) {
        let (lba, blocks) = self.range(slot);
        self.ops[slot as usize].stage = Stage::RepairLock;
        if self.lock.acquire(slot, Access::Write, lba, blocks) {
            self.repair(slot);
        }
    }

    /// Has the range.
    fn repair(&mut self, slot: u32) {
        let durable = self.begin_intent(slot);
        if !durable && !self.ask_for_intent(slot) {
            self.ops[slot as usize].stage = Stage::RepairIntent;
            self.waiting.intent.push(slot);
            return;
        }
        self.repair_read(slot);
    }

    /// Reads the block again, now that nobody writes it.
    fn repair_read(&mut self, slot: u32) {
        let op = &mut self.ops[slot as usize];
        op.tried = op.bad;
        let bytes = self.shared.geometry.block_size.bytes() as usize * op.blocks() as usize;
        let bounce = &mut self.bounces[slot as usize];
        let leg = each(self.legs.in_sync & !op.bad).next();
        // The submitter's memory has its data already, and is the submitter's.
        let bounced =
            leg.and_then(|leg| Some((leg, bounce.take(self.cx.pool(), &op.request, bytes)?)));
        let Some((leg, request)) = bounced else {
            // The block stays bad, and is found again.
            return self.give_up_repair(slot);
        };
        op.request = request;
        op.captured = true;
        self.read_from(slot, leg, Stage::RepairRead);
    }

    fn repair_read_failed(&mut self, slot: u32) {
        let op = &mut self.ops[slot as usize];
        op.bad |= if op.status.is_media_error() { op.failed } else { 0 };
        op.status = Status::SUCCESS;
        match self.untried(slot) {
            Some(leg) => self.read_from(slot, leg, Stage::RepairRead),
            None => self.give_up_repair(slot),
        }
    }

    fn give_up_repair(&mut self, slot: u32) {
        self.end_write(slot);
        self.finish(slot, Status::SUCCESS);
    }

    fn repair_write(&mut self, slot: u32) {
        let legs = self.ops[slot as usize].bad & self.legs.in_sync;
        if legs == 0 || self.view.refuse_writes {
            return self.give_up_repair(slot);
        }
        let op = &mut self.ops[slot as usize];
        op.send(Stage::RepairWrite, legs.count_ones() as u8, self.view.generation);
        let mut request = self.request_for_leg(slot);
        request.ticket.opcode = Opcode::Write;
        for leg in each(legs) {
            self.legs.stage(leg, request);
        }
    }

    fn write_failed(&mut self, slot: u32) {
        let op = &mut self.ops[slot as usize];
        if op.refused && op.stage == Stage::Broadcast && op.succeeded != 0 {
            // There is nothing to reset, or to flush, on some leg.
            op.status = Status::SUCCESS;
            return self.end(slot);
        }
        if op.refused && op.succeeded == 0 && op.stage != Stage::RepairWrite {
            // No leg has begun it.
            return self.end(slot);
        }
        let report = Report {
            failed: op.failed,
            // A repair leaves good legs alone.
            succeeded: if op.stage == Stage::RepairWrite { !op.failed } else { op.succeeded },
            generation: op.generation,
        };
        let number = self.shared.report(report);
        self.waiting.verdict.push((number, slot));
    }

    fn look_at_verdicts(&mut self) {
        if self.waiting.verdict.is_empty() {
            return;
        }
        let verdicts = self.shared.verdicts();
        // The view that the verdicts rest on was published before them.
        self.look_at_view();
        for index in (0..self.waiting.verdict.len()).rev() {
            let (number, slot) = self.waiting.verdict[index];
            if number <= verdicts {
                self.waiting.verdict.swap_remove(index);
                self.resolve(slot);
            }
        }
    }

    /// Goes on with a request that some leg failed, now that the legs in service are known.
    fn resolve(&mut self, slot: u32) {
        let op = &mut self.ops[slot as usize];
        let generation = op.generation;
        let took_part = self.view.legs_that(|leg| leg.since <= generation);
        let repair = op.stage == Stage::RepairWrite;
        let done = repair || op.succeeded & took_part & self.view.in_sync() != 0;
        if done && op.failed & took_part == 0 {
            op.status = Status::SUCCESS;
        }
        self.end(slot);
    }
}
