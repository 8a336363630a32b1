//! NVMe commands of the command line's own, sent through the daemon by `bdev_nvme_send_cmd`.

use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Value, json};
use zerocopy::{FromBytes, IntoBytes};

use crate::base::{Error, ErrorKind, Result};
use crate::cli::session::Session;
use crate::nvme::spec::{
    AdminOpcode, CompletionEntry, IdentifyCns, IdentifyController, IdentifyNamespace, IoOpcode,
    SubmissionEntry,
};

/// SPDK's clients write the padding, and some leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How long a command may take that only asks.
const QUICK: Duration = Duration::from_secs(30);

/// A controller of the daemon.
pub struct Controller<'a> {
    session: &'a mut Session,
    name: &'a str,
}

/// Which queue a command goes to.
#[derive(Clone, Copy)]
enum Target {
    Admin,
    Io,
}

impl<'a> Controller<'a> {
    /// The controller of this name.
    pub fn new(session: &'a mut Session, name: &'a str) -> Controller<'a> {
        Controller { session, name }
    }

    /// Identify Controller.
    ///
    /// # Errors
    /// What the daemon or the controller answers.
    pub fn identify(&mut self) -> Result<IdentifyController> {
        let bytes = self.identify_bytes(0, IdentifyCns::CONTROLLER)?;
        IdentifyController::read_from_bytes(&bytes).map_err(|_| self.short())
    }

    /// Identify Namespace; an empty one where there is none.
    ///
    /// # Errors
    /// As [`Controller::identify`].
    pub fn identify_namespace(&mut self, nsid: u32) -> Result<IdentifyNamespace> {
        let bytes = self.identify_bytes(nsid, IdentifyCns::NAMESPACE)?;
        IdentifyNamespace::read_from_bytes(&bytes).map_err(|_| self.short())
    }

    /// The active namespaces.
    ///
    /// # Errors
    /// As [`Controller::identify`].
    pub fn namespaces(&mut self) -> Result<Vec<u32>> {
        let bytes = self.identify_bytes(0, IdentifyCns::ACTIVE_NAMESPACES)?;
        Ok(crate::nvme::spec::namespace_ids(&bytes).collect())
    }

    fn identify_bytes(&mut self, nsid: u32, cns: u8) -> Result<Vec<u8>> {
        let mut entry = SubmissionEntry::new(AdminOpcode::IDENTIFY, nsid);
        entry.cdw10 = cns.into();
        self.send(Target::Admin, &entry, 4096, QUICK)
    }

    /// Reads `blocks` blocks of `block_size` bytes.
    ///
    /// # Errors
    /// As [`Controller::identify`].
    pub fn read(&mut self, nsid: u32, lba: u64, blocks: u16, block_size: u32) -> Result<Vec<u8>> {
        let mut entry = SubmissionEntry::new(IoOpcode::READ, nsid);
        entry.cdw10 = lba as u32;
        entry.cdw11 = (lba >> 32) as u32;
        entry.cdw12 = u32::from(blocks.saturating_sub(1));
        self.send(Target::Io, &entry, u32::from(blocks).saturating_mul(block_size), QUICK)
    }

    /// Sends an admin command without data.
    ///
    /// # Errors
    /// As [`Controller::identify`].
    pub fn command(&mut self, entry: &SubmissionEntry, timeout: Duration) -> Result<()> {
        self.send(Target::Admin, entry, 0, timeout).map(drop)
    }

    fn send(
        &mut self,
        target: Target,
        entry: &SubmissionEntry,
        length: u32,
        timeout: Duration,
    ) -> Result<Vec<u8>> {
        let mut params = json!({
            "name": self.name,
            "cmd_type": match target { Target::Admin => "admin", Target::Io => "io" },
            "data_direction": "c2h",
            "cmdbuf": BASE64.encode(entry.as_bytes()),
            "timeout_ms": u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        });
        if length > 0 {
            params["data_len"] = length.into();
        }
        // The answer comes after the command's time at the latest.
        self.session.wait_up_to(timeout.saturating_add(QUICK));
        let answer = self.session.call("bdev_nvme_send_cmd", params)?;
        let completion = self.field(&answer, "cpl")?;
        let completion = CompletionEntry::read_from_bytes(&completion).map_err(|_| self.short())?;
        if !completion.status().is_success() {
            let text = format!(
                "{}: command {:02x}h on namespace {}: {}",
                self.name,
                entry.opcode,
                entry.nsid,
                completion.status()
            );
            return Err(Error::new(ErrorKind::Io, text));
        }
        if length == 0 {
            return Ok(Vec::new());
        }
        let data = self.field(&answer, "data")?;
        if data.len() < length as usize { Err(self.short()) } else { Ok(data) }
    }

    fn field(&self, answer: &Value, field: &str) -> Result<Vec<u8>> {
        let text = answer.get(field).and_then(Value::as_str).unwrap_or_default();
        BASE64.decode(text).map_err(|error| self.short().because(error))
    }

    fn short(&self) -> Error {
        Error::new(
            ErrorKind::Corrupt,
            format!("{}: bdev_nvme_send_cmd gave less than was asked for", self.name),
        )
    }
}
