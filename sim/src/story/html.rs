//! The story as one page that needs nothing else: a space-time diagram to move about in, and the timeline under it.
//!
//! The page itself is `page.html`; what is made here is the data that it draws.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weft::mesh::story::Event;

use super::{Recorder, What, timeline};
use crate::plan::Act;
use crate::world::host::Rest;

const PAGE: &str = include_str!("page.html");

/// The page of a run with so many hosts.
pub fn page(
    name: &str,
    about: &str,
    hosts: usize,
    story: &Recorder,
    wrong: Option<&str>,
) -> String {
    let last = story.entries.last().map_or(0, |entry| entry.time);
    let end = story.messages.last().map_or(last, |message| message.sent.max(last)) + 50_000_000;
    let begin = story.acts.first().map_or(0, |(time, _)| time.saturating_sub(400_000_000));
    let acted_last = story.acts.last().map_or(end, |(time, _)| time + 4_000_000_000);
    let data = json!({
        "hosts": hosts,
        "about": about,
        "wrong": wrong,
        "end": end,
        "view": [begin, end.min(acted_last)],
        "entries": entries(story),
        "messages": messages(story),
        "leases": leases(story, hosts, end),
        "states": states(story, hosts, end),
        "cuts": cuts(story, hosts, end),
        "stalls": stalls(story),
        "replicas": replicas(story, end),
    });
    // A closing tag within the data would end the script.
    let data = data.to_string().replace("</", "<\\/");
    PAGE.replace("TITLE", name).replace("/*DATA*/null", &data)
}

fn entries(story: &Recorder) -> Vec<Value> {
    let acts: Vec<u64> = story.acts.iter().map(|(time, _)| *time).collect();
    let entry = |entry: &super::Entry| {
        let host = entry.host.map_or(-1, |host| host as i64);
        let kind = match &entry.what {
            What::Stalled(..) => "stall",
            What::Said(_) if entry.host.is_none() && acts.contains(&entry.time) => "act",
            What::Said(_) | What::Told(_) => "",
        };
        json!([entry.time, host, timeline::words(&entry.what), kind])
    };
    story.entries.iter().map(entry).collect()
}

fn messages(story: &Recorder) -> Vec<Value> {
    let all = story.messages.iter();
    all.map(|it| json!([it.sent, it.arrived, it.from, it.to, it.kind as u8, it.text])).collect()
}

/// The times between a beginning and an end, for each of `count` things.
struct Spans {
    open: Vec<Option<u64>>,
    closed: Vec<(usize, u64, u64)>,
}

impl Spans {
    fn new(count: usize) -> Spans {
        Spans { open: vec![None; count], closed: Vec::new() }
    }

    fn set(&mut self, which: usize, time: u64, is_on: bool) {
        if is_on {
            self.open[which].get_or_insert(time);
        } else if let Some(since) = self.open[which].take() {
            self.closed.push((which, since, time));
        }
    }

    fn end(mut self, time: u64) -> Vec<(usize, u64, u64)> {
        (0..self.open.len()).for_each(|which| self.set(which, time, false));
        self.closed
    }
}

fn leases(story: &Recorder, hosts: usize, end: u64) -> Vec<Value> {
    let mut spans = Spans::new(hosts);
    for &(time, host, held) in &story.leases {
        spans.set(host, time, held);
    }
    spans.end(end).into_iter().map(|(host, from, to)| json!([host, from, to])).collect()
}

fn states(story: &Recorder, hosts: usize, end: u64) -> Vec<Value> {
    let mut down = Spans::new(hosts);
    let mut states = Vec::new();
    for (time, act) in &story.acts {
        match act {
            Act::Rest { host, rest, length } => {
                let until = time + length;
                let text = format!("n{} is {rest}", host + 1);
                let kind = if *rest == Rest::Suspended { "down" } else { "resting" };
                states.push(json!([host, time, until, text, kind]));
            }
            Act::Crash { host, .. } => down.set(*host, *time, true),
            _ => {}
        }
    }
    for entry in &story.entries {
        let (Some(host), What::Said(text)) = (entry.host, &entry.what) else { continue };
        if text.starts_with("the daemon starts") {
            let began = down.open[host].is_some_and(|since| since <= entry.time);
            down.set(host, entry.time, !began);
            down.set(host, entry.time, false);
        }
    }
    let is_down = |(host, from, to): (usize, u64, u64)| {
        json!([host, from, to, format!("n{} is down", host + 1), "down"])
    };
    states.extend(down.end(end).into_iter().map(is_down));
    states
}

fn cuts(story: &Recorder, hosts: usize, end: u64) -> Vec<Value> {
    let mut counts = vec![0_i32; hosts * hosts];
    let mut spans = Spans::new(hosts * hosts);
    let mended = story.entries.iter().find(|entry| match &entry.what {
        What::Said(text) => text == "everything is mended",
        _ => false,
    });
    let mended = mended.map_or(end, |entry| entry.time);
    for (time, act) in &story.acts {
        let (from, to, change) = match act {
            Act::Cut { from, to } => (from, to, 1),
            Act::Mend { from, to } => (from, to, -1),
            _ => continue,
        };
        let link = from * hosts + to;
        counts[link] += change;
        spans.set(link, *time, counts[link] > 0);
    }
    let cut = |(link, from, to): (usize, u64, u64)| {
        let (one, other) = (link / hosts, link % hosts);
        let text = format!("n{} does not reach n{}", one + 1, other + 1);
        json!([one, other, from, to, text])
    };
    spans.end(mended).into_iter().map(cut).collect()
}

fn stalls(story: &Recorder) -> Vec<Value> {
    let stall = |entry: &super::Entry| match (&entry.what, entry.host) {
        (What::Stalled(took, text), Some(host)) => {
            Some(json!([host, entry.time.saturating_sub(*took), entry.time, text]))
        }
        _ => None,
    };
    story.entries.iter().filter_map(stall).collect()
}

/// What each replica of which something is told was good for, as the first daemon to know it says.
fn replicas(story: &Recorder, end: u64) -> Vec<Value> {
    let mut changes: BTreeMap<String, Vec<(u64, &str, String)>> = BTreeMap::new();
    for entry in &story.entries {
        let What::Told(event) = &entry.what else { continue };
        let (name, state) = match event {
            Event::Evicted { group, replica, .. } => (format!("{replica} {group}"), "left behind"),
            Event::RoundBegun { group, replica, .. } => {
                (format!("{replica} {group}"), "being filled")
            }
            Event::RoundEnded { group, replica, .. } => (format!("{replica} {group}"), "in sync"),
            _ => continue,
        };
        let known = changes.entry(name).or_insert_with(|| vec![(0, "in sync", String::new())]);
        if known.last().is_some_and(|(_, last, _)| *last != state) {
            known.push((entry.time, state, timeline::tell(event)));
        }
    }
    let spans = |(name, known): (String, Vec<(u64, &str, String)>)| {
        let ends = known.iter().skip(1).map(|(time, ..)| *time).chain([end]);
        let spans: Vec<Value> = known
            .iter()
            .zip(ends)
            .map(|((from, state, why), to)| json!([from, to, state, why]))
            .collect();
        json!([name, spans])
    };
    changes.into_iter().map(spans).collect()
}
