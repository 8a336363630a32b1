//! A store in one file, by the embedded database redb. Each batch is one transaction, synced once.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `about` | `format` | `weftlog` and the version, one byte |
//! | | `identity` | [`Identity`] |
//! | | `vote` | [`Vote`] |
//! | | `snapshot` | the index (8 bytes, little-endian) and the snapshot's bytes |
//! | `log` | the index | [`Entry`] |
//! | `peers` | the node | [`Opening`] |
//!
//! Values are in postcard's encoding where a type is named.

use std::path::Path;
use std::sync::Arc;

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, Table,
    TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::entry::{Entry, Opening};
use super::super::ids::{Index, NodeId};
use super::batch::{Batch, Identity, Operation, Restored, Vote};
use crate::base::{Error, ErrorKind, Result, Uuid};

const ABOUT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("about");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const PEERS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("peers");

const FORMAT: &[u8] = b"weftlog\x01";
/// Memory that the database may use to keep pages: it is read at the start only.
const CACHE_BYTES: usize = 4 << 20;

/// An open store. The file is locked for others while it lives.
#[derive(Debug)]
pub struct RedbStore {
    database: Database,
}

impl RedbStore {
    /// Opens the store of `node`, or makes it with the UUID `fresh` when there is no file. The opening is counted, and that
    /// is durable.
    ///
    /// # Errors
    /// `Busy` when another process has it open; `Invalid` when the file is no store, or the store of another
    /// node; `Corrupt` when it is damaged; those of the system when it cannot be read or written.
    pub fn open(path: &Path, node: NodeId, fresh: Uuid) -> Result<(RedbStore, Restored)> {
        let named = |error: Error| error.context(format!("store {}", path.display()));
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        Self::begin(database.map_err(database_error).map_err(named)?, node, fresh).map_err(named)
    }

    /// The same over any storage.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn open_on(
        storage: impl StorageBackend,
        node: NodeId,
        fresh: Uuid,
    ) -> Result<(RedbStore, Restored)> {
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).create_with_backend(storage);
        Self::begin(database.map_err(database_error)?, node, fresh)
    }

    fn begin(database: Database, node: NodeId, fresh: Uuid) -> Result<(RedbStore, Restored)> {
        let transaction = database.begin_write().map_err(failed)?;
        let mut identity = Self::identify(&transaction, node, fresh)?;
        identity.opened += 1;
        let mut about = transaction.open_table(ABOUT).map_err(failed)?;
        put(&mut about, "identity", &identity)?;
        drop(about);
        transaction.open_table(LOG).map_err(failed)?;
        transaction.open_table(PEERS).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        let store = RedbStore { database };
        let restored = store.load(identity)?;
        Ok((store, restored))
    }

    /// Who the store is; a file without any table becomes a store.
    fn identify(transaction: &WriteTransaction, node: NodeId, fresh: Uuid) -> Result<Identity> {
        let is_empty = transaction.list_tables().map_err(failed)?.next().is_none();
        let mut about = transaction.open_table(ABOUT).map_err(|_| foreign())?;
        if is_empty {
            about.insert("format", FORMAT).map_err(failed)?;
            return Ok(Identity { store: fresh, node, opened: 0 });
        }
        let format = about.get("format").map_err(failed)?.ok_or_else(foreign)?;
        if format.value() != FORMAT {
            return Err(foreign());
        }
        let identity: Identity = get(&about, "identity")?.ok_or_else(foreign)?;
        if identity.node != node {
            return Err(Error::invalid(format!(
                "it was made for node {}, and this is node {node}",
                identity.node
            )));
        }
        Ok(identity)
    }

    fn load(&self, identity: Identity) -> Result<Restored> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let about = transaction.open_table(ABOUT).map_err(failed)?;
        let snapshot = match about.get("snapshot").map_err(failed)? {
            Some(value) => {
                let (index, bytes) = value.value().split_first_chunk::<8>().ok_or_else(damaged)?;
                Some((Index(u64::from_le_bytes(*index)), Arc::from(bytes)))
            }
            None => None,
        };
        let mut restored = Restored {
            identity,
            vote: get::<Vote>(&about, "vote")?,
            snapshot,
            first: Index(1),
            entries: Vec::new(),
            peers: Vec::new(),
        };
        let log = transaction.open_table(LOG).map_err(failed)?;
        for row in log.iter().map_err(failed)? {
            let (index, value) = row.map_err(failed)?;
            if restored.entries.is_empty() {
                restored.first = Index(index.value());
            }
            if index.value() != restored.first.0 + restored.entries.len() as u64 {
                return Err(damaged());
            }
            restored.entries.push(decode::<Entry>(value.value())?);
        }
        let peers = transaction.open_table(PEERS).map_err(failed)?;
        for row in peers.iter().map_err(failed)? {
            let (node, value) = row.map_err(failed)?;
            restored.peers.push((NodeId(node.value()), decode::<Opening>(value.value())?));
        }
        Ok(restored)
    }

    /// Makes a batch durable: when this returns without an error, all of it is.
    ///
    /// # Errors
    /// Those of the system when it cannot be written. Then nothing is known of the batch, and the store must not be used any more.
    pub fn apply(&mut self, batch: &Batch) -> Result<()> {
        let transaction = self.database.begin_write().map_err(failed)?;
        {
            let mut about = transaction.open_table(ABOUT).map_err(failed)?;
            let mut log = transaction.open_table(LOG).map_err(failed)?;
            let mut peers = transaction.open_table(PEERS).map_err(failed)?;
            for operation in &batch.operations {
                match operation {
                    Operation::Vote(vote) => put(&mut about, "vote", vote)?,
                    Operation::Entries { first, entries } => write(&mut log, *first, entries)?,
                    Operation::Trim(index) => {
                        log.retain_in(..=index.0, |_, _| false).map_err(failed)?;
                    }
                    Operation::Snapshot(index, bytes) => {
                        let value = [&index.0.to_le_bytes()[..], bytes].concat();
                        about.insert("snapshot", &value[..]).map_err(failed)?;
                    }
                    Operation::Peer(node, opening) => {
                        peers.insert(node.0, &encode(opening)?[..]).map_err(failed)?;
                    }
                }
            }
        }
        transaction.commit().map_err(failed)
    }
}

fn write(log: &mut Table<'_, u64, &'static [u8]>, first: Index, entries: &[Entry]) -> Result<()> {
    if log.last().map_err(failed)?.is_some_and(|(last, _)| last.value() >= first.0) {
        log.retain_in(first.0.., |_, _| false).map_err(failed)?;
    }
    for (index, entry) in (first.0..).zip(entries) {
        log.insert(index, &encode(entry)?[..]).map_err(failed)?;
    }
    Ok(())
}

fn put(about: &mut Table<'_, &str, &[u8]>, key: &str, value: &impl Serialize) -> Result<()> {
    about.insert(key, &encode(value)?[..]).map_err(failed)?;
    Ok(())
}

fn get<T: DeserializeOwned>(
    about: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<T>> {
    about.get(key).map_err(failed)?.map(|value| decode(value.value())).transpose()
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(|error| Error::invalid(format!("not storable: {error}")))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    postcard::from_bytes(bytes).map_err(|_| damaged())
}

fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "the store is damaged: what it holds does not fit together")
}

fn foreign() -> Error {
    Error::invalid("the file is no store of a mesh log")
}

fn failed(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error) => Error::os("the store failed", error),
        redb::Error::Corrupted(what) => Error::new(ErrorKind::Corrupt, "the store").because(what),
        error => Error::new(ErrorKind::Io, "the store failed").because(error),
    }
}

fn database_error(error: DatabaseError) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            Error::new(ErrorKind::Busy, "another process has it open")
        }
        DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() == std::io::ErrorKind::InvalidData =>
        {
            foreign()
        }
        error => failed(error),
    }
}
