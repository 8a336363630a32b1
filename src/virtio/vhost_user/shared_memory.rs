//! The memory that a back end is given: regions of ours, at our own addresses.

use std::sync::Arc;

use super::frontend::{Frontend, duplicate};
use super::payload::MemoryRegion;
use super::protocol_features::ProtocolFeatures;
use super::request::Request;
use super::wire::MEMORY_TABLE_MAX;
use crate::base::{Error, ErrorKind, Result};
use crate::memory::Region;

/// Regions that a back end has. Owned by whoever owns the [`Frontend`], which it is handed for each change.
///
/// Guest addresses are addresses of this process.
#[derive(Debug, Default)]
pub struct SharedMemory {
    regions: Vec<Arc<Region>>,
}

impl SharedMemory {
    /// What the back end has.
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// Gives the back end of `frontend` these regions, the first of its session.
    ///
    /// # Errors
    /// `NoSpace` when they are more than it takes; `Unsupported` for memory without a file behind it; as for every request.
    pub async fn set(&mut self, frontend: &Frontend, regions: Vec<Arc<Region>>) -> Result<()> {
        check_count(frontend, regions.len())?;
        if frontend.has(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
            for region in regions {
                self.add(frontend, region).await?;
            }
            return Ok(());
        }
        set_table(frontend, &regions).await?;
        self.regions = regions;
        Ok(())
    }

    /// Gives it one more. When this returns, the back end can use it.
    ///
    /// # Errors
    /// As for [`SharedMemory::set`].
    pub async fn add(&mut self, frontend: &Frontend, region: Arc<Region>) -> Result<()> {
        check_count(frontend, self.regions.len() + 1)?;
        if frontend.has(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
            let file = file_of(&region)?;
            let request = Request::AddMemReg(describe(&region), file);
            frontend.order_and_wait(request).await?;
            self.regions.push(region);
            return Ok(());
        }
        self.regions.push(region);
        let result = set_table(frontend, &self.regions).await;
        if result.is_err() {
            self.regions.pop();
        }
        result
    }

    /// Takes one away, if it has it. When this returns, the back end does not use it any more.
    ///
    /// # Errors
    /// As for every request.
    pub async fn remove(&mut self, frontend: &Frontend, region: &Region) -> Result<()> {
        let found = self.regions.iter().position(|other| other.start() == region.start());
        let Some(index) = found else { return Ok(()) };
        if frontend.has(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
            frontend.order_and_wait(Request::RemMemReg(describe(region))).await?;
            self.regions.remove(index);
            return Ok(());
        }
        let region = self.regions.remove(index);
        let result = set_table(frontend, &self.regions).await;
        if result.is_err() {
            self.regions.insert(index, region);
        }
        result
    }
}

fn describe(region: &Region) -> MemoryRegion {
    let address = region.start().as_ptr() as u64;
    MemoryRegion {
        guest_address: address,
        size: region.len() as u64,
        user_address: address,
        offset: region.backing().map_or(0, |backing| backing.offset()),
    }
}

fn file_of(region: &Region) -> Result<std::os::fd::OwnedFd> {
    let backing = region.backing().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "memory that a vhost-user back end could be given: this has no file behind it (huge pages have one)",
        )
    })?;
    duplicate(backing.file())
}

async fn set_table(frontend: &Frontend, regions: &[Arc<Region>]) -> Result<()> {
    let table = regions.iter().map(|region| Ok((describe(region), file_of(region)?)));
    let table = table.collect::<Result<Vec<_>>>()?;
    frontend.order_and_wait(Request::SetMemTable(table)).await
}

fn check_count(frontend: &Frontend, count: usize) -> Result<()> {
    let agreement = frontend.agreement();
    let slots = match frontend.has(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
        true => agreement.memory_slots,
        false => agreement.memory_slots.min(MEMORY_TABLE_MAX),
    };
    if count <= slots {
        return Ok(());
    }
    let address = frontend.address();
    Err(Error::new(
        ErrorKind::NoSpace,
        format!("vhost-user {address}: {count} regions of memory; the back end takes {slots}"),
    ))
}
