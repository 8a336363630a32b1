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
        match *self.digests[at].get_or_insert(digest) {
            known if known == digest => Ok(()),
            known => Err(format!(
                "n{}'s picture at {applied} is {digest:016x}, another's was {known:016x}",
                host + 1
            )),
        }
    }
}
