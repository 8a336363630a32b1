//! Who watches a run: sees every step, judges what can be judged at once, and writes the story down if there is someone to read it.

use weft::base::Time;
use weft::mesh::node::{Output, Packet};
use weft::mesh::story::Event;

use crate::check::authority::Authority;
use crate::payload::Blocks;
use crate::plan::Expectations;
use crate::story::{Recorder, timeline};
use crate::world::machine::{Machine, Observer};
use crate::world::network::Fate;

/// Watches a run.
pub struct Watch {
    authority: Authority,
    expects: Expectations,
    /// The story, if it is wanted.
    pub recorder: Option<Recorder>,
    /// What went wrong first.
    pub wrong: Option<String>,
}

impl Watch {
    /// Watches so many hosts.
    pub fn new(hosts: usize, expects: Expectations, recorder: Option<Recorder>) -> Watch {
        Watch { authority: Authority::new(hosts), expects, recorder, wrong: None }
    }

    /// Notes something for the story.
    pub fn say(&mut self, now: u64, host: Option<usize>, text: impl FnOnce() -> String) {
        if let Some(recorder) = &mut self.recorder {
            recorder.say(now, host, text());
        }
    }

    /// A request took long.
    pub fn stalled(&mut self, now: u64, host: usize, took: u64, text: impl FnOnce() -> String) {
        if let Some(recorder) = &mut self.recorder {
            recorder.stalled(now, host, took, text());
        }
    }

    /// Something is wrong; the first counts.
    pub fn blame(&mut self, why: String) {
        self.wrong.get_or_insert(why);
    }
}

impl<M: Machine> Observer<M> for Watch {
    fn started(&mut self, _now: u64, host: usize) {
        self.authority.restarted(host);
    }

    fn stepped(
        &mut self,
        now: u64,
        host: usize,
        machine: &M,
        local: Time,
        outputs: &[Output<Blocks>],
    ) {
        if let Err(why) = self.authority.look(host, machine.picture()) {
            self.blame(why);
        }
        let evicts = |output: &Output<Blocks>| match output {
            Output::Story(event @ Event::Evicted { .. }) => Some(timeline::tell(event)),
            _ => None,
        };
        if self.expects.keeps_replicas
            && let Some(evicted) = outputs.iter().find_map(evicts)
        {
            self.blame(format!("no replica was to be left behind, but {evicted}"));
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.stepped(now, host, machine, local, outputs);
        }
    }

    fn sent(&mut self, now: u64, from: usize, to: usize, packet: &Packet<Blocks>, fate: Fate) {
        if let Some(recorder) = &mut self.recorder {
            recorder.sent(now, from, to, packet, fate);
        }
    }
}
