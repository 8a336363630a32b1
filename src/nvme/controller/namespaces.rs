//! The controller's namespaces: what each is like, and how the list changes.

use std::sync::Arc;

use tracing::{info, warn};
use zerocopy::FromBytes;

use super::namespace::Namespace;
use super::{Controller, Notice, PAGE};
use crate::base::{BlockCount, BlockSize, Geometry, Result, Uuid};
use crate::nvme::commands;
use crate::nvme::spec::{
    DeallocatedRead, IdentifyCns, IdentifyNamespace, NamespaceIdentifier, SubmissionEntry, Version,
    namespace_identifiers, namespace_ids,
};

/// Most namespaces of one controller that are looked at.
const NAMESPACES_MAX: usize = 4096;

impl Controller {
    /// Looks at the active namespaces again and tells what changed.
    ///
    /// # Errors
    /// When the controller does not answer. Namespaces stay as they were then.
    pub(super) async fn rescan(&self) -> Result<()> {
        let active = self.active_namespaces().await?;
        let mut found = Vec::new();
        // Of those that do not answer nothing is known, so they stay as they are.
        let mut silent = Vec::new();
        for nsid in active {
            match self.identify_namespace(nsid).await {
                Ok(Some(namespace)) => found.push(Arc::new(namespace)),
                Ok(None) => {}
                Err(error) => {
                    warn!(%error, nsid, "the namespace cannot be identified");
                    silent.push(nsid);
                }
            }
        }
        let mut notices = Vec::new();
        {
            let mut known = self.namespaces.borrow_mut();
            known.retain(|&nsid, old| {
                // A namespace of another identity or block size is another namespace.
                let same = |new: &&Arc<Namespace>| {
                    new.nsid == nsid
                        && new.uuid == old.uuid
                        && new.geometry.block_size == old.geometry.block_size
                };
                let stays = silent.contains(&nsid) || found.iter().any(|new| same(&new));
                if !stays {
                    notices.push(Notice::Removed(Arc::clone(old)));
                }
                stays
            });
            for new in found {
                match known.insert(new.nsid, Arc::clone(&new)) {
                    None => notices.push(Notice::Added(new)),
                    Some(old) if old.geometry != new.geometry => notices.push(Notice::Resized(new)),
                    Some(_) => {}
                }
            }
        }
        for notice in notices {
            info!(controller = self.transport.address(), ?notice, "namespace");
            self.notify(notice).await;
        }
        Ok(())
    }

    /// Every namespace goes.
    pub(super) async fn drop_namespaces(&self) {
        let all = std::mem::take(&mut *self.namespaces.borrow_mut());
        for namespace in all.into_values() {
            self.notify(Notice::Removed(namespace)).await;
        }
    }

    async fn active_namespaces(&self) -> Result<Vec<u32>> {
        let count = self.identify.borrow().nn;
        if self.properties.version < Version::new(1, 1, 0) {
            // Before revision 1.1 there was no list: namespaces 1 to NN.
            return Ok((1..=count.min(NAMESPACES_MAX as u32)).collect());
        }
        let mut active: Vec<u32> = Vec::new();
        loop {
            let after = active.last().copied().unwrap_or(0);
            let command = commands::identify(IdentifyCns::ACTIVE_NAMESPACES, after);
            let page = self.read_page(command).await?;
            // Ascending, as the specification has it; anything else would go round in circles.
            let before = active.len();
            for nsid in namespace_ids(&page) {
                if nsid <= active.last().copied().unwrap_or(0) {
                    break;
                }
                active.push(nsid);
            }
            if active.len() > NAMESPACES_MAX {
                warn!(
                    controller = self.transport.address(),
                    "more than {NAMESPACES_MAX} namespaces; the rest is left out"
                );
                active.truncate(NAMESPACES_MAX);
                return Ok(active);
            }
            if active.len() - before < page.len() / 4 {
                return Ok(active);
            }
        }
    }

    /// What namespace `nsid` is like; `None` for one that is inactive or cannot be driven, which is logged.
    async fn identify_namespace(&self, nsid: u32) -> Result<Option<Namespace>> {
        let command = commands::identify(IdentifyCns::NAMESPACE, nsid);
        let page = self.read_page(command).await?;
        let Ok((data, _)) = IdentifyNamespace::ref_from_prefix(&page) else { return Ok(None) };
        let identifiers = match self.properties.version < Version::new(1, 3, 0) {
            true => Vec::new(),
            false => {
                let command = commands::identify(IdentifyCns::NAMESPACE_IDENTIFIERS, nsid);
                match self.read_page(command).await {
                    Ok(page) => namespace_identifiers(&page).collect(),
                    // Some devices of that revision have no list all the same.
                    Err(_) => Vec::new(),
                }
            }
        };
        match self.describe(nsid, data, &identifiers) {
            Ok(namespace) => Ok(Some(namespace)),
            Err(reason) => {
                let controller = self.transport.address();
                warn!(controller, nsid, "the namespace is left out: {reason}");
                Ok(None)
            }
        }
    }

    fn describe(
        &self,
        nsid: u32,
        data: &IdentifyNamespace,
        identifiers: &[NamespaceIdentifier],
    ) -> std::result::Result<Namespace, String> {
        if data.nsze == 0 {
            return Err("it is not active (no blocks)".into());
        }
        let other_set = identifiers.iter().find_map(|identifier| match identifier {
            NamespaceIdentifier::CommandSet(set) if *set != 0 => Some(*set),
            _ => None,
        });
        if let Some(set) = other_set {
            return Err(format!("its I/O command set is {set:#x}, not NVM (0)"));
        }
        if data.metadata_size() != 0 {
            return Err(format!(
                "its format has {} bytes of metadata with each block; `weft nvme format` can choose one without",
                data.metadata_size()
            ));
        }
        let bytes = data.data_size().ok_or("its block size is impossible")?;
        let block_size = BlockSize::new(u64::from(bytes)).map_err(|error| error.to_string())?;
        let geometry =
            Geometry::new(block_size, BlockCount(data.nsze)).map_err(|error| error.to_string())?;
        let controller = self.identify.borrow();
        let uuid = identifiers.iter().find_map(|identifier| match identifier {
            NamespaceIdentifier::Uuid(bytes) => Some(Uuid::from_bytes(*bytes)),
            _ => None,
        });
        let (nguid, eui64) = (data.nguid(), data.eui64());
        let uuid = uuid.filter(|uuid| !uuid.is_nil()).unwrap_or_else(|| {
            // The same name gives the same UUID after each attach, and on each path to the namespace.
            let name = match (nguid, eui64) {
                (Some(nguid), _) => format!("nguid {nguid:02x?}"),
                (None, Some(eui64)) => format!("eui64 {eui64:02x?}"),
                (None, None) => format!(
                    "{} {} namespace {nsid}",
                    controller.model_number(),
                    controller.serial_number()
                ),
            };
            Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
        });
        let own = data.own_atomic_units();
        let own_or = |own_blocks: u16, controllers: u32| match own && own_blocks != 0 {
            true => u32::from(own_blocks) + 1,
            false => controllers,
        };
        Ok(Namespace {
            nsid,
            geometry,
            uuid,
            nguid,
            eui64,
            shared: data.shared(),
            optimal_boundary: data.optimal_boundary_blocks().unwrap_or(0),
            reads_zeros: data.deallocated_read() == DeallocatedRead::Zeros,
            write_zeroes_deallocates: data.write_zeroes_deallocates(),
            atomic_write: own_or(data.nawun, controller.atomic_write_blocks()),
            atomic_write_power_fail: own_or(
                data.nawupf,
                controller.atomic_write_blocks_power_fail(),
            ),
            atomic_compare_and_write: own_or(
                data.nacwu,
                controller.atomic_compare_and_write_blocks(),
            ),
            atomic_boundary_power_fail: u32::from(data.nabspf),
            preferred_write: match data.optimal_performance_fields() {
                true => u32::from(data.npwg) + 1,
                false => 1,
            },
        })
    }

    /// A page of data that an admin command returns.
    async fn read_page(&self, command: SubmissionEntry) -> Result<Vec<u8>> {
        let (entry, data) = self.admin(command, None, PAGE).await?;
        self.expect_success(&command, &entry)?;
        Ok(data)
    }
}
