//! What a node wants the log to know of it: that it is there, its drives, whom it hears, what it wants attached. Whatever the picture does not show is
//! proposed, one proposal at a time for each purpose, until it does.

use std::collections::BTreeMap;
use std::time::Duration;

use super::io::Start;
use crate::base::{Time, Uuid};
use crate::consensus::RequestId;
use crate::mesh::ids::{NodeId, VolumeId};
use crate::mesh::picture::{AttachMode, Command, DriveSpec, OpenDrive, Picture};

/// How long after a proposal was decided, or a change was seen, is looked again.
const PAUSE: Duration = Duration::from_millis(20);
/// How often is looked when nothing happens.
const IDLE: Duration = Duration::from_secs(1);
/// How long what was refused is left alone.
const AGAIN: Duration = Duration::from_millis(500);
/// How long whom a node hears must stay the same before it is reported, unless it is news that a link has gone.
const STEADY: Duration = Duration::from_millis(100);

/// A drive that is there.
#[derive(Clone, Debug)]
pub(super) struct FoundDrive {
    pub uuid: Uuid,
    pub open_count: u64,
    pub nonce: u64,
    pub previous: Vec<u64>,
    pub identity: u64,
    pub add: Option<DriveSpec>,
}

/// A volume to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attaching {
    pub tag: u64,
    pub volume: VolumeId,
    pub mode: AttachMode,
    pub preempt: bool,
}

/// What a proposal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Join,
    Start,
    Drive(Uuid),
    Report,
    Attach(Attaching),
    Ask(u64),
}

/// Something to be proposed.
pub(super) struct Want {
    pub purpose: Purpose,
    pub command: Command,
}

/// What a node wants.
pub(super) struct Wants {
    drives: Vec<FoundDrive>,
    /// Drives that are gone, with the nonces that they were opened with.
    closing: Vec<(Uuid, u64)>,
    attaching: Vec<Attaching>,
    detaching: Vec<(u64, VolumeId)>,
    proposed: BTreeMap<RequestId, Purpose>,
    /// What was refused, and when it may be proposed again.
    refused: Vec<(Purpose, Time)>,
    due: Time,
    /// Whom the node heard when it was last looked, and since when.
    reach: Vec<NodeId>,
    reach_since: Time,
}

impl Wants {
    pub fn new(now: Time) -> Wants {
        Wants {
            drives: Vec::new(),
            closing: Vec::new(),
            attaching: Vec::new(),
            detaching: Vec::new(),
            proposed: BTreeMap::new(),
            refused: Vec::new(),
            due: now,
            reach: Vec::new(),
            reach_since: now,
        }
    }

    pub fn due(&self) -> Time {
        self.due
    }

    /// Something has changed: look soon.
    pub fn look(&mut self, now: Time) {
        self.due = self.due.min(now + PAUSE);
    }

    pub fn drive_found(&mut self, drive: FoundDrive) {
        self.drives.retain(|known| known.uuid != drive.uuid);
        self.closing.retain(|(uuid, _)| *uuid != drive.uuid);
        self.drives.push(drive);
        self.due = Time::ZERO;
    }

    /// The drive is not here any more: the log is to know, so that another node may open it.
    pub fn drive_lost(&mut self, uuid: Uuid) {
        let lost = self.drives.iter().filter(|drive| drive.uuid == uuid);
        self.closing.extend(lost.map(|drive| (uuid, drive.nonce)));
        self.drives.retain(|drive| drive.uuid != uuid);
        self.due = Time::ZERO;
    }

    pub fn attach(&mut self, attaching: Attaching) {
        self.attaching.push(attaching);
        self.due = Time::ZERO;
    }

    pub fn is_attaching(&self, volume: VolumeId) -> bool {
        self.attaching.iter().any(|attaching| attaching.volume == volume)
            || self.proposed.values().any(|purpose| matches!(purpose, Purpose::Attach(attaching) if attaching.volume == volume))
    }

    pub fn detach(&mut self, tag: u64, volume: VolumeId) {
        self.detaching.push((tag, volume));
    }

    /// The attachment has ended: these asked for it.
    pub fn detached(&mut self, volume: VolumeId) -> Vec<u64> {
        let (ended, rest) = std::mem::take(&mut self.detaching)
            .into_iter()
            .partition(|(_, detaching)| *detaching == volume);
        self.detaching = rest;
        let ended: Vec<(u64, VolumeId)> = ended;
        ended.into_iter().map(|(tag, _)| tag).collect()
    }

    pub fn proposed(&mut self, request: RequestId, purpose: Purpose) {
        self.proposed.insert(request, purpose);
    }

    /// A proposal has been decided; what it was for. What the log has refused is not proposed again at once.
    pub fn decided(&mut self, now: Time, request: RequestId, accepted: bool) -> Option<Purpose> {
        let purpose = self.proposed.remove(&request)?;
        self.look(now);
        if !accepted {
            self.refused.push((purpose, now + AGAIN));
        }
        Some(purpose)
    }

    /// A snapshot has taken the place of entries: what became of the proposals is not known. Gives the operators who wait.
    pub fn forget_proposals(&mut self) -> Vec<u64> {
        self.due = Time::ZERO;
        let mut asked = Vec::new();
        for purpose in std::mem::take(&mut self.proposed).into_values() {
            match purpose {
                Purpose::Ask(tag) => asked.push(tag),
                Purpose::Attach(attaching) => self.attaching.push(attaching),
                _ => {}
            }
        }
        asked
    }

    fn is_under_way(&self, test: impl Fn(&Purpose) -> bool) -> bool {
        self.proposed.values().chain(self.refused.iter().map(|(purpose, _)| purpose)).any(test)
    }

    /// What is to be proposed now.
    pub fn wanted(
        &mut self,
        now: Time,
        start: &Start,
        picture: &Picture,
        reach: &[NodeId],
        store: Option<Uuid>,
    ) -> Vec<Want> {
        self.due = now + IDLE;
        self.refused.retain(|(_, until)| now < *until);
        let mut wanted = Vec::new();
        let known = picture.node(start.node).filter(|node| node.uuid == start.uuid);
        let Some(node) = known else {
            if !self.is_under_way(|purpose| *purpose == Purpose::Join) {
                let (domains, token) = (start.domains.clone(), start.token);
                let command =
                    Command::AddNode { node: start.node, uuid: start.uuid, domains, token };
                wanted.push(Want { purpose: Purpose::Join, command });
            }
            return wanted;
        };
        let Some(incarnation) = node.incarnation.filter(|_| node.origin == start.origin) else {
            if !self.is_under_way(|purpose| *purpose == Purpose::Start) {
                let command = Command::StartNode {
                    node: start.node,
                    uuid: start.uuid,
                    origin: start.origin,
                    addresses: start.addresses.clone(),
                    domains: start.domains.clone(),
                    store,
                };
                wanted.push(Want { purpose: Purpose::Start, command });
            }
            return wanted;
        };
        for drive in &self.drives {
            if self.is_under_way(|purpose| *purpose == Purpose::Drive(drive.uuid)) {
                continue;
            }
            let command = match (picture.drive_by_uuid(drive.uuid), &drive.add) {
                (Some(known), _) if known.nonce == drive.nonce && known.node == start.node => {
                    continue;
                }
                (Some(_), _) => Command::OpenDrive(OpenDrive {
                    uuid: drive.uuid,
                    node: start.node,
                    incarnation,
                    open_count: drive.open_count,
                    nonce: drive.nonce,
                    previous: drive.previous.clone(),
                    identity: drive.identity,
                }),
                (None, Some(spec)) => {
                    Command::AddDrive { node: start.node, uuid: drive.uuid, spec: spec.clone() }
                }
                (None, None) => continue,
            };
            wanted.push(Want { purpose: Purpose::Drive(drive.uuid), command });
        }
        self.closing.retain(|(uuid, nonce)| {
            let known = picture.drive_by_uuid(*uuid);
            known.is_some_and(|drive| {
                drive.nonce == *nonce && drive.node == start.node && !drive.closed
            })
        });
        for &(uuid, nonce) in &self.closing {
            if !self.is_under_way(|purpose| *purpose == Purpose::Drive(uuid)) {
                let command = Command::CloseDrive { uuid, node: start.node, nonce };
                wanted.push(Want { purpose: Purpose::Drive(uuid), command });
            }
        }
        if reach != self.reach {
            self.reach = reach.to_vec();
            self.reach_since = now;
        }
        let reported = node.reach.iter().eq(reach.iter());
        if !reported && !self.is_under_way(|purpose| *purpose == Purpose::Report) {
            let lost = node.reach.iter().any(|other| !reach.contains(other));
            if lost || now >= self.reach_since + STEADY {
                let command = Command::Report {
                    node: start.node,
                    incarnation,
                    reach: reach.to_vec(),
                    load: 0,
                };
                wanted.push(Want { purpose: Purpose::Report, command });
            } else {
                self.due = self.due.min(self.reach_since + STEADY);
            }
        }
        for attaching in std::mem::take(&mut self.attaching) {
            let Attaching { volume, mode, preempt, .. } = attaching;
            let command = Command::Attach { volume, node: start.node, incarnation, mode, preempt };
            wanted.push(Want { purpose: Purpose::Attach(attaching), command });
        }
        wanted
    }
}
