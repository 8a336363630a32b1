//! The picture as bytes, for nodes that were away for long.

use serde::{Deserialize, Serialize};

use super::state::{Drive, Group, Node, Volume};
use super::table::{Entity, Table};
use super::tables::{Admission, Picture, Totals};

/// First byte of a snapshot: the version of its form.
const VERSION: u8 = 1;
/// Bytes in front: the version and the digest, little-endian.
const HEADER_BYTES: usize = 9;

/// A picture that cannot be read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPicture(pub String);

impl std::fmt::Display for BadPicture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a picture that cannot be read back: {}", self.0)
    }
}

impl std::error::Error for BadPicture {}

/// What is written.
#[derive(Serialize)]
struct Written<'a> {
    totals: &'a Totals,
    nodes: Vec<&'a Node>,
    drives: Vec<&'a Drive>,
    volumes: Vec<&'a Volume>,
    groups: Vec<&'a Group>,
    tokens: Vec<&'a Admission>,
}

/// The same, as it is read.
#[derive(Deserialize)]
struct Read {
    totals: Totals,
    nodes: Vec<Node>,
    drives: Vec<Drive>,
    volumes: Vec<Volume>,
    groups: Vec<Group>,
    tokens: Vec<Admission>,
}

impl Picture {
    /// Everything, as bytes: version, digest, then postcard.
    pub fn snapshot(&self) -> Vec<u8> {
        let written = Written {
            totals: &self.totals,
            nodes: self.nodes.values().collect(),
            drives: self.drives.values().collect(),
            volumes: self.volumes.values().collect(),
            groups: self.groups.values().collect(),
            tokens: self.tokens.values().collect(),
        };
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.digest().to_le_bytes());
        // Into memory nothing fails; if it did, what is left would not be read back.
        postcard::to_extend(&written, bytes).unwrap_or_default()
    }

    /// The picture that [`Picture::snapshot`] wrote.
    ///
    /// # Errors
    /// What is wrong with the bytes: another version, cut off, not what the digest says, or not a picture that any log leads to.
    pub fn restore(bytes: &[u8]) -> Result<Picture, BadPicture> {
        let bad = |what: &str| BadPicture(what.to_string());
        let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(bad("cut off"))?;
        if header[0] != VERSION {
            return Err(BadPicture(format!("version {}", header[0])));
        }
        let (read, rest): (Read, _) =
            postcard::take_from_bytes(body).map_err(|error| BadPicture(error.to_string()))?;
        if !rest.is_empty() {
            return Err(bad("more bytes than it has"));
        }
        let mut picture = Picture {
            totals: read.totals,
            nodes: table(read.nodes),
            drives: table(read.drives),
            volumes: table(read.volumes),
            groups: table(read.groups),
            tokens: table(read.tokens),
            ..Picture::default()
        };
        picture.settle();
        if picture.digest().to_le_bytes() != header[1..] {
            return Err(bad("another digest"));
        }
        picture.check_sound().map_err(BadPicture)?;
        picture.index_all();
        Ok(picture)
    }
}

fn table<T: Entity>(values: Vec<T>) -> Table<T> {
    let mut table = Table::default();
    for value in values {
        table.insert(value);
    }
    table
}
