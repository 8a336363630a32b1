//! The store under power loss at every point: what was acknowledged is there whole, and no half of anything.

use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;
use weft::base::Uuid;
use weft::consensus::store::{Batch, Operation, RedbStore, Restored};
use weft::consensus::{BatchId, Index, NodeId, Opening};

use crate::network::Random;

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

#[derive(Debug, Default)]
struct Disk {
    bytes: Vec<u8>,
    changes: Vec<Change>,
}

impl Disk {
    fn perform(&mut self, change: &Change) {
        match change {
            Change::Write(offset, data) => {
                let end = *offset as usize + data.len();
                if self.bytes.len() < end {
                    self.bytes.resize(end, 0);
                }
                self.bytes[*offset as usize..end].copy_from_slice(data);
            }
            Change::Length(length) => self.bytes.resize(*length as usize, 0),
            Change::Sync => {}
        }
    }
}

/// A disk that notes what happens to it.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Disk>>);

impl Recorder {
    fn note(&self, change: Change) {
        let mut disk = self.0.lock().unwrap();
        disk.perform(&change);
        disk.changes.push(change);
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().changes.len()
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let disk = self.0.lock().unwrap();
        let range = offset as usize..offset as usize + out.len();
        let bytes = disk.bytes.get(range).ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        self.note(Change::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.note(Change::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.note(Change::Write(offset, data.to_vec()));
        Ok(())
    }
}

const NODE: NodeId = NodeId(1);

fn open(disk: Recorder) -> weft::base::Result<(RedbStore, Restored)> {
    RedbStore::open_on(disk, NODE, Uuid::from_u128(7))
}

/// A batch whose parts all tell its number.
fn batch(number: u64) -> Batch {
    let opening = Opening { store: Uuid::from_u128(9), count: number, session: number };
    let state: Arc<[u8]> = vec![number as u8; 700 * (number as usize % 7)].into();
    let peers = (1..4).map(|node| Operation::Peer(NodeId(node), opening));
    let operations = peers.chain([Operation::Snapshot(Index(number), state)]).collect();
    Batch { id: BatchId(number), operations }
}

/// The number of the last batch that is there, and that it is there whole.
fn number(restored: &Restored) -> u64 {
    let Some((index, state)) = &restored.snapshot else {
        assert!(restored.peers.is_empty());
        return 0;
    };
    assert_eq!(restored.peers.len(), 3);
    assert!(restored.peers.iter().all(|(_, opening)| opening.count == index.0));
    assert_eq!(state.len(), 700 * (index.0 as usize % 7));
    assert!(state.iter().all(|byte| *byte == index.0 as u8));
    index.0
}

/// What may be on the disk when the power fails after the first `count` changes.
fn survives(changes: &[Change], count: usize, random: &mut Random, variant: u64) -> Recorder {
    let synced = changes[..count]
        .iter()
        .rposition(|change| matches!(change, Change::Sync))
        .map_or(0, |at| at + 1);
    let mut disk = Disk::default();
    changes[..synced].iter().for_each(|change| disk.perform(change));
    let mut loose: Vec<Change> = changes[synced..count].to_vec();
    match variant {
        // All of it, or none.
        0 => {}
        1 => loose.clear(),
        // Some, torn, in another order; the length of the file stays where it is.
        _ => {
            loose.retain(|change| matches!(change, Change::Length(_)) || random.chance(60));
            for change in &mut loose {
                if let Change::Write(_, data) = change
                    && random.chance(30)
                {
                    data.truncate(random.below(1 + data.len() as u64 / 512) as usize * 512);
                }
            }
            loose.sort_by_key(|change| match change {
                Change::Length(_) => 0,
                _ => 1 + random.next() % 1000,
            });
        }
    }
    loose.iter().for_each(|change| disk.perform(change));
    disk.changes.clear();
    Recorder(Arc::new(Mutex::new(disk)))
}

#[test]
fn acknowledged_batches_survive_power_loss_at_every_point() {
    let disk = Recorder::default();
    let (mut store, _) = open(disk.clone()).unwrap();
    let mut acknowledged = vec![(disk.count(), 0)];
    let begin = disk.count();
    for number in 1..=25 {
        store.apply(&batch(number)).unwrap();
        acknowledged.push((disk.count(), number));
    }
    let changes = disk.0.lock().unwrap().changes.clone();
    let mut random = Random::new(1);
    for count in begin..=changes.len() {
        let least = acknowledged.iter().rev().find(|(at, _)| *at <= count).unwrap().1;
        for variant in 0..4 {
            let survivor = survives(&changes, count, &mut random, variant);
            let (_, restored) = open(survivor)
                .unwrap_or_else(|error| panic!("after {count} changes, {variant}: {error}"));
            let found = number(&restored);
            assert!((least..=least + 1).contains(&found), "{found} after {least}");
            assert_eq!(restored.identity.opened, 2);
        }
    }
}

#[test]
fn a_store_counts_its_openings_and_knows_whose_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (store, first) = RedbStore::open(&path, NODE, Uuid::from_u128(1)).unwrap();
    let busy = RedbStore::open(&path, NODE, Uuid::from_u128(1)).unwrap_err();
    assert_eq!(busy.kind(), weft::base::ErrorKind::Busy);
    drop(store);
    let (store, second) = RedbStore::open(&path, NODE, Uuid::from_u128(2)).unwrap();
    drop(store);
    assert_eq!((first.identity.opened, second.identity.opened), (1, 2));
    assert_eq!(second.identity.store, Uuid::from_u128(1));
    let other = RedbStore::open(&path, NodeId(2), Uuid::from_u128(2)).unwrap_err();
    assert_eq!(other.kind(), weft::base::ErrorKind::Invalid);

    let foreign = folder.path().join("text");
    std::fs::write(&foreign, "no database at all, but long enough to look at").unwrap();
    let error = RedbStore::open(&foreign, NODE, Uuid::from_u128(2)).unwrap_err();
    assert_eq!(error.kind(), weft::base::ErrorKind::Invalid, "{error}");
}
