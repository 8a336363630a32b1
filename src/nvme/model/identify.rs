//! Identify (Base Specification, section 5.17).

use zerocopy::IntoBytes;

use super::payload::deliver;
use super::state::Controller;
use crate::base::Status;
use crate::nvme::spec::{
    IdentifyCns, IdentifyController, IdentifyNamespace, NSID_ALL, SubmissionEntry,
};

const BYTES: usize = 4096;

impl Controller {
    pub(super) fn identify(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let cns = entry.cdw10 as u8;
        // Command Set Identifier (CSI): the NVM command set is 0, and the only one.
        let command_set = (entry.cdw11 >> 24) as u8;
        let mut data = self.identify_data(cns, entry.nsid, command_set)?;
        data.resize(BYTES, 0);
        for overlay in &self.overlays {
            if overlay.cns == cns && overlay.nsid.is_none_or(|nsid| nsid == entry.nsid) {
                let places = data.iter_mut().skip(overlay.offset);
                places.zip(&overlay.bytes).for_each(|(place, &byte)| *place = byte);
            }
        }
        let rules = self.rules();
        deliver(&mut self.dma, rules, entry, &data)?;
        Ok(0)
    }

    fn identify_data(&self, cns: u8, nsid: u32, command_set: u8) -> Result<Vec<u8>, Status> {
        match cns {
            IdentifyCns::NAMESPACE | IdentifyCns::ALLOCATED_NAMESPACE => {
                self.identify_namespace(nsid)
            }
            IdentifyCns::CONTROLLER => Ok(self.identify_controller().as_bytes().to_vec()),
            IdentifyCns::ACTIVE_NAMESPACES | IdentifyCns::ALLOCATED_NAMESPACES => {
                self.list_after(nsid)
            }
            IdentifyCns::NAMESPACE_IDENTIFIERS => self.identifiers(nsid),
            _ if command_set != 0 => Err(Status::INVALID_FIELD),
            IdentifyCns::COMMAND_SET_ACTIVE_NAMESPACES => self.list_after(nsid),
            // No command set specific fields for a namespace of the NVM command set without protection information, and
            // no limits on commands without data (NVM Command Set Specification, section 4.1.5.2).
            IdentifyCns::COMMAND_SET_NAMESPACE => {
                self.namespaces.get(&nsid).map(|_| Vec::new()).ok_or(Status::INVALID_NAMESPACE)
            }
            IdentifyCns::COMMAND_SET_CONTROLLER => Ok(Vec::new()),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn identify_namespace(&self, nsid: u32) -> Result<Vec<u8>, Status> {
        if nsid == 0 {
            return Err(Status::INVALID_NAMESPACE);
        }
        if nsid == NSID_ALL {
            // What all namespaces have in common: the formats of the first.
            let mut common = IdentifyNamespace::zeroed();
            if let Some(first) = self.namespaces.values().next() {
                let first = first.identify();
                common.nlbaf = first.nlbaf;
                common.lbaf = first.lbaf;
                common.mc = first.mc;
            }
            return Ok(common.as_bytes().to_vec());
        }
        let identify = match self.namespaces.get(&nsid) {
            Some(namespace) => namespace.identify(),
            None => IdentifyNamespace::zeroed(),
        };
        Ok(identify.as_bytes().to_vec())
    }

    fn list_after(&self, nsid: u32) -> Result<Vec<u8>, Status> {
        if nsid >= 0xffff_fffe {
            return Err(Status::INVALID_NAMESPACE);
        }
        let after = self.namespaces.range(nsid + 1..).take(BYTES / 4);
        Ok(after.flat_map(|(nsid, _)| nsid.to_le_bytes()).collect())
    }

    fn identifiers(&self, nsid: u32) -> Result<Vec<u8>, Status> {
        let namespace = self.namespaces.get(&nsid).ok_or(Status::INVALID_NAMESPACE)?;
        let options = &namespace.options;
        let mut list = Vec::new();
        let mut add = |kind: u8, value: &[u8]| {
            if value.iter().any(|&byte| byte != 0) || kind == 4 {
                list.extend_from_slice(&[kind, value.len() as u8, 0, 0]);
                list.extend_from_slice(value);
            }
        };
        add(1, &options.eui64);
        add(2, &options.nguid);
        add(3, &options.uuid);
        add(4, &[0]);
        Ok(list)
    }

    fn identify_controller(&self) -> Box<IdentifyController> {
        let options = &self.options;
        let mut identify = IdentifyController::zeroed();
        fill(&mut identify.sn, &options.serial);
        fill(&mut identify.mn, "Weft NVMe model");
        fill(&mut identify.fr, "1.0");
        let nqn = format!("nqn.2014-08.org.nvmexpress:uuid:weft-model-{}", options.serial);
        let length = nqn.len().min(223);
        identify.subnqn[..length].copy_from_slice(&nqn.as_bytes()[..length]);
        identify.mdts = options.mdts;
        identify.cntlid = 1;
        identify.ver = options.version.0;
        // A normal shutdown takes up to a second.
        identify.rtd3e = 1_000_000;
        identify.oaes = 1 << 8 | 1 << 9;
        // I/O controller.
        identify.cntrltype = 1;
        identify.crdt = [1, 2, 3];
        identify.oacs = 1 << 1 | u16::from(options.shadow_doorbells) << 8;
        identify.acl = options.abort_limit.saturating_sub(1);
        identify.aerl = options.async_event_limit.saturating_sub(1);
        // One slot, read-only.
        identify.frmw = 1 << 1 | 1;
        // SMART per namespace is not there; extended data are (bit 2).
        identify.lpa = 1 << 2;
        identify.elpe = (super::events::ERROR_LOG_ENTRIES - 1) as u8;
        identify.wctemp = 343;
        identify.cctemp = 353;
        let bytes: u128 = self
            .namespaces
            .values()
            .map(|namespace| u128::from(namespace.options.blocks) * namespace.data_bytes() as u128)
            .sum();
        identify.tnvmcap = bytes.to_le_bytes();
        identify.sqes = 0x66;
        identify.cqes = 0x44;
        identify.nn = self.namespaces.keys().next_back().copied().unwrap_or(1).max(256);
        identify.oncs = options.oncs;
        identify.fuses = u16::from(options.fused);
        // Flush of all namespaces is supported (bits 2:1).
        identify.vwc = u8::from(options.volatile_write_cache) | 0b11 << 1;
        identify.awun = 255;
        identify.acwu = 255;
        identify.sgls = u32::from(options.sgl);
        identify
    }
}

/// Text in a field that is padded with spaces.
fn fill(field: &mut [u8], text: &str) {
    field.fill(b' ');
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
}
