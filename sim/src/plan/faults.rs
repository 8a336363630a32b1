//! Faults, drawn from the seed.

use weft::mesh::picture::Timing;

use super::draw::Theme;
use super::{Act, MS, Plan, volume};
use crate::random::{MILLION, Random};
use crate::world::drive::Ailment;
use crate::world::host::Rest;
use crate::world::network::Quality;

/// Kinds of faults, each with what it does.
type Fault = fn(&mut Script);

/// Faults are added to a plan, from some moment on.
struct Script {
    plan: Plan,
    random: Random,
    at: u64,
    /// Something that no two of may happen in one run has happened.
    is_spent: bool,
}

const NETWORK: &[Fault] = &[
    Script::cut_one_way,
    Script::cut_pair,
    Script::cut_pair,
    Script::isolate,
    Script::split,
    Script::chain,
    Script::rough_link,
    Script::rough_network,
];
const CRASH: &[Fault] = &[Script::crash, Script::crash, Script::crash_all, Script::crash_again];
const TIME: &[Fault] = &[Script::rest, Script::rest, Script::clock];
const DRIVES: &[Fault] = &[Script::ail, Script::ail, Script::spoil];
const IMAGES: &[Fault] = &[
    Script::old_drive,
    Script::clone_drive,
    Script::old_store,
    Script::lost_store,
    Script::store_fails,
];
const CHANGE: &[Fault] = &[
    Script::members,
    Script::extend,
    Script::passing,
    Script::move_replica,
    Script::drain,
    Script::rebalance,
    Script::timing,
    Script::attach_elsewhere,
    Script::move_drive,
    Script::replace_drive,
];

const NARROW: &[Fault] = &[
    Script::cut_one_way,
    Script::cut_pair,
    Script::isolate,
    Script::split,
    Script::crash,
    Script::crash_again,
    Script::preempt,
    Script::preempt,
    Script::preempt,
    Script::slow,
    Script::rest,
    Script::spoil,
    Script::spoil,
];

/// Adds the faults of a theme.
pub fn draw(plan: Plan, theme: Theme, mut random: Random) -> Plan {
    let kinds: Vec<&[Fault]> = match theme {
        Theme::Quiet => return plan,
        Theme::Network => vec![NETWORK],
        Theme::Crash => vec![CRASH],
        Theme::Time => vec![TIME],
        Theme::Drives => vec![DRIVES],
        Theme::Images => vec![IMAGES, CRASH],
        Theme::Change => vec![CHANGE],
        Theme::Narrow => vec![NARROW],
        Theme::Everything => vec![NETWORK, CRASH, TIME, DRIVES, IMAGES, CHANGE, NETWORK, CRASH],
    };
    let length = plan.length;
    // From calm to stormy: a fault every 3 s, or five a second.
    let mean = match theme {
        Theme::Narrow => random.pick(&[60, 120, 250]) * MS,
        _ => random.pick(&[200, 500, 1000, 1000, 3000]) * MS,
    };
    let mut script = Script { plan, random, at: 0, is_spent: false };
    loop {
        script.at += script.random.around(mean);
        if script.at >= length {
            return script.plan;
        }
        let kind = script.random.pick(&kinds);
        script.random.pick(kind)(&mut script);
    }
}

impl Script {
    fn add(&mut self, after: u64, act: Act) {
        let time = (self.at + after).min(self.plan.length);
        self.plan.acts.push((time, act));
    }

    fn host(&mut self) -> usize {
        self.random.below(self.plan.hosts as u64) as usize
    }

    fn two_hosts(&mut self) -> (usize, usize) {
        let (one, other) = (self.host(), self.random.below(self.plan.hosts as u64 - 1) as usize);
        (one, if other >= one { other + 1 } else { other })
    }

    fn drive(&mut self) -> usize {
        self.random.below(self.plan.drives.len() as u64) as usize
    }

    /// A while: long or short against a lease.
    fn lasts(&mut self) -> u64 {
        let lease = u64::from(self.plan.timing.lease_ms) * MS;
        match self.random.below(4) {
            0 => self.random.between(MS, 50 * MS),
            1 => self.random.between(lease / 4, lease * 11 / 10),
            2 => self.random.between(lease, lease * 2),
            _ => self.random.between(lease * 2, lease * 6),
        }
    }

    fn cut(&mut self, from: usize, to: usize, lasts: u64) {
        self.add(0, Act::Cut { from, to });
        self.add(lasts, Act::Mend { from, to });
    }

    fn cut_both(&mut self, one: usize, other: usize, lasts: u64) {
        self.cut(one, other, lasts);
        self.cut(other, one, lasts);
    }

    fn cut_one_way(&mut self) {
        let ((from, to), lasts) = (self.two_hosts(), self.lasts());
        self.cut(from, to, lasts);
    }

    fn cut_pair(&mut self) {
        let ((one, other), lasts) = (self.two_hosts(), self.lasts());
        self.cut_both(one, other, lasts);
    }

    fn isolate(&mut self) {
        let (host, lasts) = (self.host(), self.lasts());
        let way = self.random.below(4);
        for other in (0..self.plan.hosts).filter(|other| *other != host) {
            match way {
                0 => self.cut(host, other, lasts),
                1 => self.cut(other, host, lasts),
                _ => self.cut_both(host, other, lasts),
            }
        }
    }

    fn split(&mut self) {
        let (sides, lasts) = (self.random.draw(), self.lasts());
        for one in 0..self.plan.hosts {
            for other in 0..one {
                if (sides >> one ^ sides >> other) & 1 == 1 {
                    self.cut_both(one, other, lasts);
                }
            }
        }
    }

    /// Each host reaches only its neighbours in a row.
    fn chain(&mut self) {
        let lasts = self.lasts();
        let mut row: Vec<usize> = (0..self.plan.hosts).collect();
        self.random.shuffle(&mut row);
        for one in 0..row.len() {
            for other in 0..one.saturating_sub(1) {
                self.cut_both(row[one], row[other], lasts);
            }
        }
    }

    fn quality(&mut self) -> Quality {
        let random = &mut self.random;
        Quality {
            latency: random.pick(&[20_000, 200_000, 2 * MS, 20 * MS]),
            jitter: random.pick(&[5_000, 500_000, 5 * MS]),
            loss: random.pick(&[0, MILLION / 1000, MILLION / 20, MILLION / 4]),
            twice: random.pick(&[0, MILLION / 100, MILLION / 10]),
            overtaken: random.pick(&[0, MILLION / 100, MILLION / 5]),
            late: random.pick(&[MS, 50 * MS, 1500 * MS]),
        }
    }

    fn rough_link(&mut self) {
        let ((from, to), lasts) = (self.two_hosts(), self.lasts());
        let quality = self.quality();
        self.add(0, Act::Link { from, to, quality });
        self.add(lasts, Act::Link { from, to, quality: self.plan.network });
    }

    fn rough_network(&mut self) {
        let (quality, lasts) = (self.quality(), self.lasts());
        for from in 0..self.plan.hosts {
            for to in (0..self.plan.hosts).filter(|to| *to != from) {
                self.add(0, Act::Link { from, to, quality });
                self.add(lasts, Act::Link { from, to, quality: self.plan.network });
            }
        }
    }

    fn crash(&mut self) {
        let (host, lasts) = (self.host(), self.lasts());
        let power = self.random.below(2) == 0;
        self.add(0, Act::Crash { host, power });
        self.add(lasts, Act::Start { host });
    }

    fn crash_all(&mut self) {
        for host in 0..self.plan.hosts {
            let (after, lasts) = (self.random.below(20 * MS), self.lasts());
            self.add(after, Act::Crash { host, power: true });
            self.add(after + lasts, Act::Start { host });
        }
    }

    /// A daemon that dies a few times in a row.
    fn crash_again(&mut self) {
        let host = self.host();
        let mut after = 0;
        for _ in 0..self.random.between(2, 4) {
            self.add(after, Act::Crash { host, power: false });
            after += self.random.between(MS, 300 * MS);
            self.add(after, Act::Start { host });
            after += self.random.between(MS, 600 * MS);
        }
    }

    fn rest(&mut self) {
        let (host, length) = (self.host(), self.lasts());
        let rest = self.random.pick(&[
            Rest::Paused,
            Rest::PausedMidStep,
            Rest::PausedMidStep,
            Rest::Suspended,
        ]);
        self.add(0, Act::Rest { host, rest, length });
    }

    fn clock(&mut self) {
        let drift = self.plan.timing.drift_ppm as i32;
        let (host, ppm) = (self.host(), self.random.pick(&[-drift, 0, drift]));
        self.add(0, Act::ClockRate { host, ppm });
    }

    fn ail(&mut self) {
        let (drive, lasts) = (self.drive(), self.lasts());
        let well = Ailment::default();
        let ailment = self.random.pick(&[
            Ailment { hung: true, ..well },
            Ailment { hung: true, ..well },
            Ailment { failing: true, ..well },
            Ailment { full: true, ..well },
            Ailment { slow: 20, ..well },
            Ailment { slow: 1000, ..well },
        ]);
        self.add(0, Act::Ailing { drive, ailment });
        self.add(lasts, Act::Ailing { drive, ailment: well });
    }

    fn spoil(&mut self) {
        let at = self.random.below(self.plan.volumes.len() as u64) as usize;
        let spec = &self.plan.volumes[at];
        let end = if self.random.below(2) == 0 { 24 } else { spec.blocks };
        let block = self.random.below(end.min(spec.blocks));
        let replica = self.random.below(3) as usize;
        self.add(0, Act::Spoil { volume: at, block, replica });
    }

    /// Whether what may happen only once in a run may happen now: two of them could take away all copies.
    fn once(&mut self) -> bool {
        let copies = self.plan.volumes.iter().map(|spec| spec.copies).min().unwrap_or(1);
        !std::mem::replace(&mut self.is_spent, true) && copies > 1
    }

    /// A daemon dies and starts again: what it opened is opened anew. Gives how long that takes at most.
    fn reopen(&mut self, host: usize) -> u64 {
        let (after, power) = (self.random.between(MS, 300 * MS), self.random.below(2) == 0);
        let back = after + self.random.between(MS, 500 * MS);
        self.add(after, Act::Crash { host, power });
        self.add(back, Act::Start { host });
        back
    }

    fn old_drive(&mut self) {
        if self.once() {
            let drive = self.drive();
            self.add(0, Act::SaveDrive { drive });
            let opened = self.reopen(self.plan.drives[drive].host);
            let lasts = self.lasts();
            self.add(opened + lasts, Act::RestoreDrive { drive });
        }
    }

    fn clone_drive(&mut self) {
        if self.once() {
            let (drive, into) = (self.drive(), self.host());
            let from = self.plan.drives[drive].host;
            if from != into {
                self.add(0, Act::SaveDrive { drive });
                let opened = self.reopen(from);
                let lasts = self.lasts();
                self.add(opened + lasts, Act::CloneDrive { drive, into });
            }
        }
    }

    fn replace_drive(&mut self) {
        if self.once() {
            let drive = self.drive();
            self.add(0, Act::ReplaceDrive { drive });
        }
    }

    fn move_drive(&mut self) {
        let (drive, to) = (self.drive(), self.host());
        self.add(0, Act::MoveDrive { drive, to });
    }

    fn members_after(&mut self, lasts: u64) {
        let hosts = (0..self.plan.members).collect();
        self.add(lasts, Act::Members { hosts });
    }

    fn old_store(&mut self) {
        if self.plan.members > 2 && self.once() {
            let host = self.host();
            self.add(0, Act::SaveStore { host });
            let lasts = self.reopen(host) + 1_000 * MS + self.lasts();
            self.add(lasts, Act::RestoreStore { host });
            self.members_after(lasts + 2_000 * MS);
        }
    }

    fn lost_store(&mut self) {
        if self.plan.members > 2 && self.once() {
            let host = self.host();
            self.add(0, Act::WipeStore { host });
            self.members_after(2_000 * MS);
        }
    }

    fn store_fails(&mut self) {
        let host = self.host();
        self.add(0, Act::StoreFails { host });
    }

    fn members(&mut self) {
        let mut hosts: Vec<usize> = (0..self.plan.hosts).collect();
        self.random.shuffle(&mut hosts);
        let count = self.random.pick(&[1, 3, 3, 5]).min(hosts.len());
        hosts.truncate(if count.is_multiple_of(2) { count - 1 } else { count });
        hosts.sort_unstable();
        self.add(0, Act::Members { hosts });
    }

    fn extend(&mut self) {
        let at = self.random.below(self.plan.volumes.len() as u64) as usize;
        self.add(0, Act::Extend { volume: at, blocks: 128 });
    }

    fn passing(&mut self) {
        let copies = self.random.between(1, 2) as u8;
        let after = self.lasts();
        self.add(0, Act::Passing { spec: volume(64, copies), after });
    }

    fn move_replica(&mut self) {
        let at = self.random.below(self.plan.volumes.len() as u64) as usize;
        let replica = self.random.below(3) as usize;
        self.add(0, Act::MoveReplica { volume: at, replica });
    }

    fn drain(&mut self) {
        let (drive, lasts) = (self.drive(), self.lasts());
        self.add(0, Act::Drain { drive, drain: true });
        self.add(lasts, Act::Drain { drive, drain: false });
    }

    fn rebalance(&mut self) {
        self.add(0, Act::Rebalance);
    }

    fn timing(&mut self) {
        let usual = self.plan.timing;
        let lease_ms = self.random.pick(&[300, 1000, 2000]);
        self.add(0, Act::SetTiming { timing: Timing { lease_ms, ..usual } });
    }

    fn preempt(&mut self) {
        let client = self.random.below(self.plan.clients.len() as u64) as usize;
        self.add(0, Act::Attach { client, preempt: true });
    }

    fn slow(&mut self) {
        let (drive, lasts) = (self.drive(), self.lasts());
        let slow = self.random.pick(&[20, 200, 2000]);
        self.add(0, Act::Ailing { drive, ailment: Ailment { slow, ..Ailment::default() } });
        self.add(lasts, Act::Ailing { drive, ailment: Ailment::default() });
    }

    fn attach_elsewhere(&mut self) {
        let client = self.random.below(self.plan.clients.len() as u64) as usize;
        let preempt = self.random.below(2) == 0;
        if self.random.below(2) == 0 {
            self.add(0, Act::Detach { client });
        } else {
            self.add(0, Act::Attach { client, preempt });
        }
    }
}
