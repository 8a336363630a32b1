//! Plans drawn from a seed: a mesh of some shape, users of some kind, and one of several mixes of faults.

use clap::ValueEnum;
use weft::mesh::picture::{AttachMode, Layout, Timing};

use super::{ClientPlan, DrivePlan, Expectations, MS, Mix, Plan, SECOND, faults, narrow, volume};
use crate::random::Random;
use crate::world::drive::Speed;
use crate::world::network::Quality;

/// What limits the plans that are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Hosts of each mesh; drawn from the seed if not given.
    pub hosts: Option<usize>,
    /// Length of the busy part, in seconds; drawn if not given.
    pub seconds: Option<u64>,
    /// The mix of faults; drawn if not given.
    pub theme: Option<Theme>,
}

/// Mixes of faults: each seed is of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Theme {
    /// Nothing goes wrong.
    Quiet,
    /// Links are cut, slow, lossy.
    Network,
    /// Daemons die, hosts lose power.
    Crash,
    /// Daemons rest for longer than their leases, clocks change their rates.
    Time,
    /// Drives fail, hang, are slow, lose blocks.
    Drives,
    /// Drives are moved, replaced, cloned; drives and stores fall back to old images.
    Images,
    /// Members change, volumes and replicas come and go.
    Change,
    /// All of it.
    Everything,
    /// Few blocks, many clients, and faults in quick succession: what needs several things at one moment.
    Narrow,
}

impl Theme {
    /// All of them, as often as they are drawn.
    pub const DRAWN: [Theme; 12] = [
        Theme::Quiet,
        Theme::Network,
        Theme::Network,
        Theme::Crash,
        Theme::Crash,
        Theme::Time,
        Theme::Drives,
        Theme::Images,
        Theme::Change,
        Theme::Everything,
        Theme::Everything,
        Theme::Everything,
    ];
}

/// The plan of a seed. The same for ever under the same limits.
pub fn plan(seed: u64, limits: Limits) -> Plan {
    let mut random = Random::new(seed ^ 0x5745_4654_5349_4d00);
    let theme = random.pick(&Theme::DRAWN);
    let is_narrow = Random::new(seed ^ 0x4e41_5252_4f57).below(8) == 0;
    let theme = limits.theme.unwrap_or(if is_narrow { Theme::Narrow } else { theme });
    if theme == Theme::Narrow {
        return narrow::plan(seed, limits, random);
    }
    let drawn = random.pick(&[2, 3, 3, 3, 4, 5, 5]);
    let hosts = limits.hosts.unwrap_or(drawn);
    let members =
        random.pick(&[1, 3, 3, 3, 5]).min(if hosts.is_multiple_of(2) { hosts - 1 } else { hosts });
    let drawn = random.between(4, 16);
    let seconds = limits.seconds.unwrap_or(drawn);
    let mut plan = Plan {
        name: format!("{theme:?}").to_lowercase(),
        seed,
        hosts,
        members,
        drives: draw_drives(&mut random, hosts),
        volumes: Vec::new(),
        clients: Vec::new(),
        timing: draw_timing(&mut random),
        network: Quality { latency: random.between(5_000, 300_000), ..Quality::GOOD },
        clocks: Vec::new(),
        acts: Vec::new(),
        length: seconds * SECOND,
        recovery: 60 * SECOND,
        expects: Expectations::default(),
    };
    plan.clocks = draw_clocks(&mut random, hosts, plan.timing.drift_ppm as i32);
    for at in 0..random.between(1, 2) as usize {
        draw_volume(&mut plan, at, &mut random);
    }
    let mut plan = faults::draw(plan, theme, random);
    plan.acts.sort_by_key(|(time, _)| *time);
    plan
}

fn draw_drives(random: &mut Random, hosts: usize) -> Vec<DrivePlan> {
    let mut drives = Vec::new();
    for host in 0..hosts {
        for _ in 0..random.between(1, 2) {
            let slower = random.pick(&[1, 1, 1, 3]);
            let good = Speed::GOOD;
            let speed = Speed {
                read: good.read * slower,
                write: good.write * slower,
                flush: good.flush * slower,
            };
            drives.push(DrivePlan { host, class: String::new(), speed });
        }
    }
    drives
}

fn draw_timing(random: &mut Random) -> Timing {
    let usual = Timing::default();
    match random.below(4) {
        0 => Timing { lease_ms: 300, io_timeout_ms: 100, drive_timeout_ms: 300, ..usual },
        1 => Timing { revoke_ms: 2_000, ..usual },
        _ => usual,
    }
}

/// Clocks that are as wrong as they may be, mostly: errors show at the limits.
pub(super) fn draw_clocks(random: &mut Random, hosts: usize, drift: i32) -> Vec<i32> {
    let rate = |random: &mut Random| match random.below(4) {
        0 => drift,
        1 => -drift,
        2 => 0,
        _ => random.between(0, 2 * drift as u64) as i32 - drift,
    };
    (0..hosts).map(|_| rate(random)).collect()
}

fn draw_volume(plan: &mut Plan, at: usize, random: &mut Random) {
    let copies = random.pick(&[1, 2, 2, 2, 3, 3]).min(plan.hosts as u8);
    let mut spec = volume(random.pick(&[256, 512, 1024]), copies);
    if random.below(3) == 0 {
        spec.layout = Layout::Striped { width: 2, strip_blocks: random.pick(&[4, 16, 64]) };
    }
    plan.volumes.push(spec);
    let mode = random.pick(&[
        AttachMode::Exclusive,
        AttachMode::Exclusive,
        AttachMode::SharedWrite,
        AttachMode::SharedWrite,
        AttachMode::SharedRead,
    ]);
    let mut hosts: Vec<usize> = (0..plan.hosts).collect();
    random.shuffle(&mut hosts);
    let clients = random.between(1, hosts.len().min(3) as u64) as usize;
    for &host in &hosts[..clients] {
        plan.clients.push(ClientPlan {
            host,
            volume: at,
            mode,
            attaches: true,
            depth: random.between(1, 8) as usize,
            pause: Some(random.between(MS, 20 * MS)),
            mix: Mix { hot_blocks: random.pick(&[4, 24, 100]), ..Mix::USUAL },
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_plan_again_and_others_give_others() {
        let limits = Limits::default();
        let all: Vec<Plan> = (0..200).map(|seed| plan(seed, limits)).collect();
        for (seed, drawn) in (0..).zip(&all) {
            assert_eq!(*drawn, plan(seed, limits));
            assert!(drawn.acts.is_sorted_by_key(|(time, _)| *time));
            assert!(drawn.acts.iter().all(|(time, _)| *time <= drawn.length));
        }
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
