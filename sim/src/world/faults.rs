//! What can be done to the world.

use weft::mesh::node::Input;
use weft::mesh::picture::DriveSpec;

use super::drive::Drive;
use super::host::{Activity, Rest};
use super::machine::{Machine, Observer};
use super::{Happening, World};

impl<M: Machine, O: Observer<M>> World<M, O> {
    /// Ends a daemon without warning. With `power` the host loses its power as well, and its drives what was not stable.
    pub fn crash(&mut self, at: usize, power: bool) {
        let host = &mut self.hosts[at];
        if !host.is_running() {
            return;
        }
        host.clear();
        host.store.crash(&mut self.random);
        for drive in self.drives.iter_mut().filter(|drive| drive.host == Some(at)) {
            if power { drive.lose_power() } else { drive.reset() }
        }
    }

    /// A daemon rests for `length` nanoseconds, at once or, for a rest in the midst of a step, with the next thing that it does.
    pub fn rest(&mut self, at: usize, rest: Rest, length: u64) {
        let host = &mut self.hosts[at];
        if host.activity != Activity::Up {
            return;
        }
        // A step that has nothing to do leaves nothing unfinished: then it is the next one.
        if rest == Rest::PausedMidStep && host.unfinished.is_empty() {
            host.rest_next = Some(length);
            return;
        }
        host.activity = Activity::Resting(rest);
        host.rests += 1;
        let go_on = Happening::GoOn { host: at as u32, rests: host.rests };
        self.queue.push(self.now + length, go_on);
    }

    pub(super) fn go_on(&mut self, at: usize, rests: u32) {
        let host = &mut self.hosts[at];
        if host.rests != rests || !matches!(host.activity, Activity::Resting(_)) {
            return;
        }
        host.activity = Activity::Up;
        let boots = host.boots;
        for output in std::mem::take(&mut host.unfinished) {
            self.perform(at, output);
        }
        // A timer that came meanwhile is first or last, as chance has it.
        let timer_first = self.random.draw() & 1 == 0;
        if timer_first {
            self.feed(at, Input::Timer);
        }
        for input in std::mem::take(&mut self.hosts[at].backlog) {
            if self.hosts[at].boots == boots {
                self.feed(at, input);
            }
        }
        if !timer_first && self.hosts[at].boots == boots {
            self.feed(at, Input::Timer);
        }
    }

    /// Ends a daemon's rest.
    pub fn rouse(&mut self, at: usize) {
        self.hosts[at].rest_next = None;
        self.go_on(at, self.hosts[at].rests);
    }

    /// Adds a drive to the world. With `spec` a daemon that finds it adds it to the mesh.
    pub fn add_drive(&mut self, drive: Drive, spec: Option<DriveSpec>) -> usize {
        self.drives.push(drive);
        self.specs.push(spec);
        self.drives.len() - 1
    }

    /// Puts a drive into a host, whose daemon finds it.
    pub fn plug(&mut self, drive: usize, at: usize) {
        self.unplug(drive);
        self.drives[drive].host = Some(at);
        let host = &self.hosts[at];
        if host.is_running() {
            let (drive, boots) = (drive as u32, host.boots);
            let takes = self.random.between(1_000_000, 20_000_000);
            let open = Happening::Open { host: at as u32, boots, drive };
            self.queue.push(self.now + takes, open);
        }
    }

    /// Takes a drive out of its host.
    pub fn unplug(&mut self, drive: usize) {
        let drive = &mut self.drives[drive];
        drive.lose_power();
        let uuid = drive.label.uuid;
        if let Some(at) = drive.host.take() {
            self.feed(at, Input::DriveLost { uuid });
        }
    }

    /// A drive hangs, or goes on with what it has in hand.
    pub fn set_hung(&mut self, which: usize, hung: bool) {
        let drive = &mut self.drives[which];
        drive.ailment.hung = hung;
        if !hung {
            for work in std::mem::take(&mut drive.stuck) {
                let takes = self.random.below(1_000_000);
                let ends = Happening::DriveEnds { drive: which as u32, work };
                self.queue.push(self.now + takes, ends);
            }
        }
    }

    /// A daemon's clock gains `ppm` millionths from now on.
    pub fn set_clock_rate(&mut self, at: usize, ppm: i32) {
        self.hosts[at].clock.set_rate(self.now, ppm);
        self.hosts[at].timer = (u64::MAX, weft::base::Time::NEVER);
        self.plan_timer(at);
    }
}
