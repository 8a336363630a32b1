//! The log is the only authority: who has applied the same prefix knows the same, and nobody's prefix goes back.

use weft::consensus::Index;
use weft::mesh::picture::Picture;

/// What all daemons have applied.
pub struct Authority {
    /// The picture's digest at each index.
    digests: Vec<Option<u64>>,
    applied: Vec<Index>,
}

impl Authority {
    /// For so many hosts.
    pub fn new(hosts: usize) -> Authority {
        Authority { digests: Vec::new(), applied: vec![Index::default(); hosts] }
    }

    /// A daemon starts: what it had applied and not kept is forgotten.
    pub fn restarted(&mut self, host: usize) {
        self.applied[host] = Index::default();
    }

    /// A daemon has done something.
    ///
    /// # Errors
    /// What is wrong.
    pub fn look(&mut self, host: usize, picture: &Picture) -> Result<(), String> {
        let (applied, before) = (picture.applied(), self.applied[host]);
        if applied == before {
            return Ok(());
        }
        if applied < before {
            return Err(format!("n{}'s prefix went back from {before} to {applied}", host + 1));
        }
        self.applied[host] = applied;
        let (at, digest) = (applied.0 as usize, picture.digest());
        if self.digests.len() <= at {
            self.digests.resize(at + 1, None);
        }
        if self.digests[at].is_none() {
            self.digests[at] = Some(digest);
            return sound(picture);
        }
        match self.digests[at].unwrap_or(digest) {
            known if known == digest => Ok(()),
            known => Err(format!(
                "n{}'s picture at {applied} is {digest:016x}, another's was {known:016x}",
                host + 1
            )),
        }
    }
}

/// What is true of every picture: each group has a replica that holds all that was acknowledged, and no attachment is older than the start of its
/// node's daemon.
fn sound(picture: &Picture) -> Result<(), String> {
    for group in picture.groups() {
        if !group.replicas.iter().any(|replica| replica.state.is_holder()) {
            return Err(format!("{} has no holder in {}", group.id, group.epoch));
        }
    }
    for volume in picture.volumes() {
        for attachment in &volume.attachments {
            let start = picture.node(attachment.node).and_then(|node| node.incarnation);
            if start.is_some_and(|start| start.0 > attachment.generation.index().0) {
                let (node, volume) = (attachment.node, volume.id);
                return Err(format!("{node} has started, and is still attached to {volume}"));
            }
        }
    }
    Ok(())
}
