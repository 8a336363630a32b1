//! What every node knows after it applied the same entries, beside the application's own state.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::entry::{Configuration, Opening};
use super::ids::{Index, NodeId};
use super::requests::Requests;

/// The replicated state of the log itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Who votes, and the entry that says so.
    pub configuration: Option<(Index, Configuration)>,
    /// Which requests were applied.
    pub requests: Requests,
    /// The last opening of each member's store.
    pub openings: BTreeMap<NodeId, Opening>,
}

impl State {
    /// The id of the configuration; 0 before the first.
    pub fn configuration_id(&self) -> u32 {
        self.configuration.as_ref().map_or(0, |(_, configuration)| configuration.id)
    }

    /// Whether a node is a member.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.configuration.as_ref().is_some_and(|(_, configuration)| configuration.names(node))
    }

    /// A member opened its store. Of two openings of one store the higher stays.
    pub fn opened(&mut self, node: NodeId, opening: Opening) {
        let member = self.configuration.as_ref().and_then(|(_, all)| all.member(node));
        let is_named = member.is_some_and(|member| member.store == opening.store);
        let is_old = self.openings.get(&node).is_some_and(|known| opening.contradicts(known));
        if is_named && !is_old {
            self.openings.insert(node, opening);
        }
    }

    /// A snapshot's bytes: this state, its length before it (4 bytes, little-endian), and the application's after.
    pub fn seal(own: &[u8], application: &[u8]) -> Arc<[u8]> {
        let length = u32::try_from(own.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(4 + own.len() + application.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(own);
        bytes.extend_from_slice(application);
        bytes.into()
    }

    /// This state as bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Into a growing vector, and of types that postcard can hold: it cannot fail.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Takes a snapshot's bytes apart; nothing when they are not one.
    pub fn open(bytes: &[u8]) -> Option<(State, Arc<[u8]>)> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (own, application) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        Some((postcard::from_bytes(own).ok()?, application.into()))
    }
}
