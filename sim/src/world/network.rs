//! Links between nodes: latency, loss, duplication, reordering, cuts.

use crate::random::Random;

/// How a link behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// Time on the way, in nanoseconds.
    pub latency: u64,
    /// What comes on top, in nanoseconds: around this.
    pub jitter: u64,
    /// Packets lost, of a million.
    pub loss: u32,
    /// Packets that arrive twice, of a million.
    pub twice: u32,
    /// Packets that are overtaken, of a million: they come up to `late` later.
    pub overtaken: u32,
    /// How much later, in nanoseconds.
    pub late: u64,
}

impl Quality {
    /// A good network in one room.
    pub const GOOD: Quality =
        Quality { latency: 20_000, jitter: 5_000, loss: 0, twice: 0, overtaken: 0, late: 0 };
}

/// What becomes of a packet: when it arrives, and when once more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// When it arrives; it may not.
    pub first: Option<u64>,
    /// When a copy of it arrives.
    pub second: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    quality: Quality,
    /// How many faults cut it at present.
    cuts: u32,
    /// When the last packet that was not overtaken arrives.
    last: u64,
}

/// All links, each in one direction.
pub struct Network {
    nodes: usize,
    links: Vec<Link>,
    random: Random,
}

impl Network {
    /// Good links between `nodes` nodes.
    pub fn new(nodes: usize, random: Random) -> Network {
        let link = Link { quality: Quality::GOOD, cuts: 0, last: 0 };
        Network { nodes, links: vec![link; nodes * nodes], random }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    /// What becomes of a packet that is sent now.
    pub fn send(&mut self, now: u64, from: usize, to: usize) -> Fate {
        let link = self.links[from * self.nodes + to];
        let quality = link.quality;
        if link.cuts > 0 || (quality.loss > 0 && self.random.chance(quality.loss)) {
            return Fate::default();
        }
        let mut fate = Fate { first: Some(self.arrival(now, from, to)), second: None };
        if quality.twice > 0 && self.random.chance(quality.twice) {
            fate.second = Some(now + quality.latency + self.random.around(quality.late.max(1)));
        }
        fate
    }

    fn arrival(&mut self, now: u64, from: usize, to: usize) -> u64 {
        let quality = self.links[from * self.nodes + to].quality;
        let arrival = now + quality.latency + self.random.around(quality.jitter);
        if quality.overtaken > 0 && self.random.chance(quality.overtaken) {
            return arrival + self.random.below(quality.late.max(1));
        }
        let link = self.link(from, to);
        link.last = link.last.max(arrival);
        link.last
    }

    /// Cuts a link in one direction. Each cut is to be mended once.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.link(from, to).cuts += 1;
    }

    /// Takes one cut away.
    pub fn mend(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
    }

    /// Takes all cuts away, and makes all links as good as this.
    pub fn mend_all(&mut self, quality: Quality) {
        for link in &mut self.links {
            (link.cuts, link.quality) = (0, quality);
        }
    }

    /// Changes how a link behaves in one direction.
    pub fn set_quality(&mut self, from: usize, to: usize, quality: Quality) {
        self.link(from, to).quality = quality;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_one_way_and_counted() {
        let mut network = Network::new(3, Random::new(1));
        network.cut(0, 1);
        network.cut(0, 1);
        assert_eq!(network.send(0, 0, 1), Fate::default());
        assert!(network.send(0, 1, 0).first.is_some());
        network.mend(0, 1);
        assert_eq!(network.send(0, 0, 1), Fate::default());
        network.mend(0, 1);
        assert!(network.send(0, 0, 1).first.is_some());
    }

    #[test]
    fn packets_keep_their_order_unless_they_are_overtaken() {
        let mut network = Network::new(2, Random::new(2));
        let arrivals = |network: &mut Network| -> Vec<u64> {
            (0..1000).filter_map(|at| network.send(at * 100, 0, 1).first).collect()
        };
        assert!(arrivals(&mut network).is_sorted());
        let rough = Quality { loss: 100_000, overtaken: 50_000, late: 1_000_000, ..Quality::GOOD };
        network.set_quality(0, 1, rough);
        let arrived = arrivals(&mut network);
        assert!(!arrived.is_sorted());
        assert!((800..990).contains(&arrived.len()), "{} of 1000 arrived", arrived.len());
    }
}
