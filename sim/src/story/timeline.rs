//! The story as lines of text.

use std::fmt::Write;

use weft::mesh::ids::NodeId;
use weft::mesh::route::Route;
use weft::mesh::story::Event;

use super::{Entry, Message, Recorder, What};
use crate::plan::MS;

/// The story, one line for each thing that happened, and with `messages` for each packet.
pub fn text(recorder: &Recorder, messages: bool) -> String {
    let mut lines: Vec<(u64, String)> =
        recorder.entries.iter().map(|entry| (entry.time, line(entry))).collect();
    if messages {
        lines.extend(recorder.messages.iter().map(|message| (message.sent, sent(message))));
    }
    lines.sort_by_key(|(time, _)| *time);
    let mut text = String::new();
    for (_, line) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

fn sent(message: &Message) -> String {
    let (from, to) = (message.from + 1, message.to + 1);
    let arrives = match message.arrived {
        Some(arrived) => format!("{} µs", (arrived - message.sent) / 1000),
        None => "lost".into(),
    };
    format!("{:>12.6}    n{from} → n{to} ({arrives}) {}", message.sent as f64 / 1e9, message.text)
}

/// One line.
pub fn line(entry: &Entry) -> String {
    let who = entry.host.map_or("—".into(), |host| format!("n{}", host + 1));
    format!("{:>10.3} s  {who:<3} {}", entry.time as f64 / 1e9, words(&entry.what))
}

/// What happened, in words.
pub fn words(what: &What) -> String {
    match what {
        What::Told(event) => tell(event),
        What::Said(text) => text.clone(),
        What::Stalled(_, text) => format!("⏱ {text}"),
    }
}

fn way(to: NodeId, route: &Route) -> String {
    match route.relays() {
        [] => format!("{to} directly"),
        relays => {
            let names: Vec<String> = relays.iter().map(NodeId::to_string).collect();
            format!("{to} through {}", names.join(" and "))
        }
    }
}

/// What a daemon tells, in words.
pub fn tell(event: &Event) -> String {
    let ms = |time: &std::time::Duration| time.as_nanos() as u64 / MS;
    match event {
        Event::Lease { held: true } => "may serve: its lease is valid".into(),
        Event::Lease { held: false } => "may not serve: its lease has run out".into(),
        Event::Link { to, up: true } => format!("reaches {to}, and is reached by it"),
        Event::Link { to, up: false } => format!("does not reach {to} any more"),
        Event::Routed { to, route } => format!("now reaches {}", way(*to, route)),
        Event::Unreachable { replica } => format!("finds no way to {replica}"),
        Event::Evicted { group, epoch, replica } => {
            format!("{replica} of {group} is left behind: {epoch}")
        }
        Event::FenceWait { group, replica } => {
            format!("waits until {replica} of {group} serves nothing any more")
        }
        Event::Fenced { group, replica, waited, early: true } => {
            format!(
                "{replica} of {group} has confirmed that it is left behind, after {} ms",
                ms(waited)
            )
        }
        Event::Fenced { group, replica, waited, early: false } => {
            format!(
                "the lease of {replica} of {group} has run out for certain, after {} ms",
                ms(waited)
            )
        }
        Event::RoundBegun { group, epoch, replica, source } => {
            format!("{replica} of {group} is made equal to {source}: {epoch}")
        }
        Event::UnionKnown { group, replica, blocks } => {
            format!("{replica} of {group} has {blocks} blocks to look at")
        }
        Event::RoundEnded { group, replica, copied } => {
            format!("{replica} of {group} is equal again; {copied} blocks copied")
        }
        Event::SessionOpen { group, replica, epoch } => {
            format!("has a session with {replica} of {group}: {epoch}")
        }
        Event::Stalled { volume, group, took } => {
            format!("⏱ an I/O on {volume} ({group}) took {} ms", ms(took))
        }
        Event::Blocked { group } => format!("⏸ {group} has no replica to go on with"),
        Event::Attached { volume, generation } => format!("has attached {volume} ({generation})"),
        Event::Detached { volume, generation } => format!("has lost {volume} ({generation})"),
        Event::Leader { leads: true } => "leads the mesh log".into(),
        Event::Leader { leads: false } => "leads the mesh log no more".into(),
        Event::Installed { index } => format!("has caught up by a snapshot of {index}"),
        Event::Mended { replica, lost: false } => {
            format!("mended blocks of {replica} from another")
        }
        Event::Mended { replica, lost: true } => format!("blocks of {replica} are lost"),
        Event::DriveGivenUp { replica } => format!("gives up the drive of {replica}"),
        Event::Stopping { why } => format!("stops: {why}"),
        #[allow(unreachable_patterns)]
        other => format!("{other:?}"),
    }
}
