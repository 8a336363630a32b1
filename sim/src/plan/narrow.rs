//! Narrow plans: one volume of few blocks, several clients that are after the same ones, drives and links that keep I/O under way for long, and
//! faults in quick succession. What goes wrong only when several things meet goes wrong here first.

use weft::mesh::picture::{AttachMode, Timing};

use super::draw::{Limits, Theme, draw_clocks};
use super::{ClientPlan, DrivePlan, Expectations, MS, Mix, Plan, SECOND, faults, volume};
use crate::random::Random;
use crate::world::drive::Speed;
use crate::world::network::Quality;

/// The narrow plan of a seed.
pub fn plan(seed: u64, limits: Limits, mut random: Random) -> Plan {
    let drawn = random.pick(&[2, 3, 3, 4]);
    let hosts = limits.hosts.unwrap_or(drawn);
    let timing = Timing {
        lease_ms: 300,
        io_timeout_ms: 100,
        drive_timeout_ms: 300,
        revoke_ms: 1_000,
        ..Timing::default()
    };
    // A round trip must fit a heartbeat of the log (50 ms) with room to spare, jitter included.
    let latency = random.pick(&[50_000, 500_000, MS, 2 * MS]);
    let jitter = latency / random.pick(&[1, 2, 10]);
    let mut plan = Plan {
        name: "narrow".into(),
        seed,
        hosts,
        members: random.pick(&[1, 3]).min(if hosts.is_multiple_of(2) { hosts - 1 } else { hosts }),
        drives: Vec::new(),
        volumes: Vec::new(),
        clients: Vec::new(),
        timing,
        network: Quality { latency, jitter, ..Quality::GOOD },
        clocks: draw_clocks(&mut random, hosts, timing.drift_ppm as i32),
        acts: Vec::new(),
        length: limits.seconds.unwrap_or(8) * SECOND,
        recovery: 60 * SECOND,
        expects: Expectations::default(),
    };
    for host in 0..hosts {
        let slower = random.pick(&[1, 10, 50, 200]);
        let Speed { read, write, flush } = Speed::GOOD;
        let speed = Speed { read: read * slower, write: write * slower, flush: flush * slower };
        plan.drives.push(DrivePlan { host, class: String::new(), speed });
    }
    let copies = random.pick(&[2, 2, 3]).min(hosts as u8);
    let blocks = random.pick(&[64, 128, 256]);
    plan.volumes.push(volume(blocks, copies));
    let mode = random.pick(&[AttachMode::Exclusive, AttachMode::SharedWrite]);
    let mix = Mix {
        writes: random.pick(&[40, 60]),
        zeroes: random.pick(&[0, 0, 10]),
        flushes: 0,
        hot: random.pick(&[50, 80, 95]),
        hot_blocks: random.pick(&[2, 8, 24]),
        scribbled: 0,
    };
    for host in 0..hosts.min(3) {
        plan.clients.push(ClientPlan {
            host,
            volume: 0,
            mode,
            attaches: true,
            depth: 8,
            pause: Some(random.between(MS, 6 * MS)),
            mix,
        });
    }
    let mut plan = faults::draw(plan, Theme::Narrow, random);
    plan.acts.sort_by_key(|(time, _)| *time);
    plan
}
