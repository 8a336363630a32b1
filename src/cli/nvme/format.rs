//! `weft nvme format`: a namespace's block size, and erasing it.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::own_label;
use super::passthrough::Controller;
use crate::base::{ByteCount, Error, ErrorKind, Result, format_size};
use crate::cli::output::{Format, elements, print_json, text};
use crate::cli::session::Session;
use crate::nvme::pci::{HEAD_BYTES, Image, TAIL_BYTES};
use crate::nvme::spec::{
    AdminOpcode, IdentifyController, IdentifyNamespace, LbaFormat, SubmissionEntry,
};

/// Formatting may take as long as writing the whole drive.
const FORMAT_TIMEOUT: Duration = Duration::from_secs(3600);
/// The most that one look at the drive reads at once, in bytes.
const READ_MAX: u64 = 64 << 10;

/// Formats a namespace: ERASES IT, and may change its block size
///
/// Refused while something uses its bdev, and when there is a partition table, a file system, a RAID or volume manager's
/// label or a Weft label on it, unless forced.
#[derive(Debug, Args)]
pub struct FormatCommand {
    /// Controller of the daemon
    controller: String,
    /// Which namespace
    #[arg(long, value_name = "NSID")]
    namespace: u32,
    /// Block size in bytes: the fastest format without metadata that has it
    #[arg(long, value_name = "BYTES", conflicts_with = "lbaf")]
    block_size: Option<u32>,
    /// Number of the LBA format [default: the present one]
    #[arg(long, value_name = "INDEX")]
    lbaf: Option<u8>,
    /// Also sees to it that nothing of the old data can be read, however one tries
    #[arg(long)]
    secure_erase: bool,
    /// Throws away the key of an encrypting drive: as --secure-erase, at once
    #[arg(long, conflicts_with = "secure_erase")]
    crypto_erase: bool,
    /// Formats it even if it is in use or holds something
    #[arg(long)]
    force: bool,
}

/// Secure Erase Settings of Format NVM (Base Specification, section 5.14).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Erase {
    None = 0,
    UserData = 1,
    Cryptographic = 2,
}

impl FormatCommand {
    /// Runs it.
    ///
    /// # Errors
    /// Why it was refused, and what the drive answers.
    pub fn run(&self, session: &mut Session) -> Result<()> {
        let format = session.format();
        let bdevs = session.call("bdev_get_bdevs", json!({}))?;
        let mut controller = Controller::new(session, &self.controller);
        let about = controller.identify()?;
        let before = self.namespace(&mut controller, self.namespace)?;
        let index = self.choose(&about, &before)?;
        if !self.force {
            for nsid in self.affected(&about, &mut controller)? {
                self.check(&mut controller, &about, &bdevs, nsid)?;
            }
        }
        controller.command(&format_command(self.namespace, index, self.erase()), FORMAT_TIMEOUT)?;
        let after = self.namespace(&mut controller, self.namespace)?;
        match format {
            Format::Json => print_json(&json!({
                "controller": self.controller, "namespace": self.namespace, "lbaf": after.format_index(),
                "block_size": after.data_size(), "num_blocks": after.nsze,
            })),
            Format::Text => println!(
                "Namespace {} of {} is formatted: {}, {}",
                self.namespace,
                self.controller,
                format_text(after.format()),
                size_text(&after)
            ),
        }
        Ok(())
    }

    fn namespace(&self, controller: &mut Controller<'_>, nsid: u32) -> Result<IdentifyNamespace> {
        let namespace = controller.identify_namespace(nsid)?;
        if namespace.nsze > 0 {
            return Ok(namespace);
        }
        let text = format!("{} has no active namespace {nsid}", self.controller);
        Err(Error::new(ErrorKind::NotFound, text))
    }

    fn erase(&self) -> Erase {
        match (self.secure_erase, self.crypto_erase) {
            (_, true) => Erase::Cryptographic,
            (true, false) => Erase::UserData,
            (false, false) => Erase::None,
        }
    }

    /// The index of the format that was asked for.
    fn choose(&self, about: &IdentifyController, now: &IdentifyNamespace) -> Result<usize> {
        if !about.supports_format() {
            let text = format!("{} has no Format command", self.controller);
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if self.crypto_erase && !about.supports_cryptographic_erase() {
            let text = format!("{} has no cryptographic erase (--secure-erase?)", self.controller);
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let formats = &now.lbaf[..now.format_count()];
        let refuse = |what: String| {
            let list: Vec<String> = formats
                .iter()
                .enumerate()
                .filter(|(_, format)| format.data_size().is_some())
                .map(|(index, format)| format!("{index}: {}", format_text(Some(*format))))
                .collect();
            Err(Error::invalid(format!("{}: {what}; it has {}", self.controller, list.join(", "))))
        };
        let index = match (self.block_size, self.lbaf) {
            (Some(size), _) => formats
                .iter()
                .enumerate()
                .filter(|(_, format)| {
                    format.data_size() == Some(size) && format.metadata_size() == 0
                })
                .min_by_key(|(_, format)| format.relative_performance())
                .map(|(index, _)| index),
            (None, Some(index)) => Some(usize::from(index)),
            (None, None) => Some(now.format_index()),
        };
        let chosen = index.and_then(|index| Some((index, formats.get(index)?)));
        match chosen.filter(|(_, format)| format.data_size().is_some()) {
            None => refuse(match (self.block_size, self.lbaf) {
                (Some(size), _) => format!("no format with blocks of {size} bytes and no metadata"),
                _ => "no such format".into(),
            }),
            Some((_, format)) if format.metadata_size() > 0 && !self.force => {
                refuse("that format has metadata, which only --force chooses".into())
            }
            Some((index, _)) => Ok(index),
        }
    }

    /// The namespaces that lose their data: some controllers can only format all at once (FNA).
    fn affected(
        &self,
        about: &IdentifyController,
        controller: &mut Controller<'_>,
    ) -> Result<Vec<u32>> {
        const ERASE_APPLIES_TO_ALL: u8 = 1 << 1;
        let all = about.format_applies_to_all()
            || self.erase() != Erase::None && about.fna & ERASE_APPLIES_TO_ALL != 0;
        if !all {
            return Ok(vec![self.namespace]);
        }
        let namespaces = controller.namespaces()?;
        if namespaces.iter().any(|nsid| *nsid != self.namespace) {
            let text = format!(
                "{} formats all of its namespaces at once ({namespaces:?}): --force does that",
                self.controller
            );
            return Err(Error::new(ErrorKind::Busy, text));
        }
        Ok(vec![self.namespace])
    }

    /// Refuses a namespace that somebody would miss.
    fn check(
        &self,
        controller: &mut Controller<'_>,
        about: &IdentifyController,
        bdevs: &Value,
        nsid: u32,
    ) -> Result<()> {
        let name = format!("{}n{nsid}", self.controller);
        let busy = |why: String| {
            let text = format!("{name} {why}: formatting would destroy it (--force does)");
            Err(Error::new(ErrorKind::Busy, text))
        };
        let bdev = bdevs.as_array().into_iter().flatten().find(|bdev| is_named(bdev, &name));
        if let Some(bdev) = bdev
            && bdev["claimed"] == json!(true)
        {
            return busy(format!("is in use ({})", text(bdev, "claim_type")));
        }
        let namespace = self.namespace(controller, nsid)?;
        let image = read_image(controller, about, &namespace, nsid).map_err(|error| {
            error.context(format!("{name}: cannot tell what is on it (--force)"))
        })?;
        let mut found: Vec<String> = image.signatures().into_iter().map(str::to_owned).collect();
        found.extend(own_label(&image.head));
        if found.is_empty() { Ok(()) } else { busy(format!("holds {}", found.join(", "))) }
    }
}

fn is_named(bdev: &Value, name: &str) -> bool {
    bdev["name"] == json!(name) || elements(bdev, "aliases").contains(&json!(name))
}

/// The first and last bytes of a namespace.
fn read_image(
    controller: &mut Controller<'_>,
    about: &IdentifyController,
    namespace: &IdentifyNamespace,
    nsid: u32,
) -> Result<Image> {
    let block_size = namespace
        .data_size()
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, "the namespace tells no block size"))?;
    // What the controller calls a page is at least 4 KiB.
    let most = about.transfer_bytes_max(4096).unwrap_or(READ_MAX).min(READ_MAX);
    let step = (most / u64::from(block_size)).max(1);
    let mut range = |bytes: usize, from_end: bool| -> Result<Vec<u8>> {
        let blocks = (bytes as u64).div_ceil(block_size.into()).min(namespace.nsze);
        let start = if from_end { namespace.nsze - blocks } else { 0 };
        let mut contents = Vec::new();
        let mut done = 0;
        while done < blocks {
            let count = step.min(blocks - done);
            contents.extend(controller.read(nsid, start + done, count as u16, block_size)?);
            done += count;
        }
        Ok(contents)
    };
    Ok(Image { head: range(HEAD_BYTES, false)?, tail: range(TAIL_BYTES, true)? })
}

/// Format NVM (Base Specification, section 5.14): LBA format in bits 3:0 and, its upper part, 13:12; no metadata
/// settings, no protection information; secure erase settings in bits 11:9.
fn format_command(nsid: u32, index: usize, erase: Erase) -> SubmissionEntry {
    let mut entry = SubmissionEntry::new(AdminOpcode::FORMAT_NVM, nsid);
    let index = index as u32;
    entry.cdw10 = index & 0xf | (index >> 4 & 0b11) << 12 | (erase as u32) << 9;
    entry
}

fn format_text(format: Option<LbaFormat>) -> String {
    let Some((format, bytes)) = format.and_then(|format| Some((format, format.data_size()?)))
    else {
        return "unknown block size".into();
    };
    match format.metadata_size() {
        0 => format!("blocks of {bytes} bytes"),
        metadata => format!("blocks of {bytes} bytes and {metadata} of metadata"),
    }
}

fn size_text(namespace: &IdentifyNamespace) -> String {
    let size = u64::from(namespace.data_size().unwrap_or(0));
    format_size(ByteCount(namespace.nsze.saturating_mul(size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> FormatCommand {
        FormatCommand {
            controller: "N".into(),
            namespace: 1,
            block_size: None,
            lbaf: None,
            secure_erase: false,
            crypto_erase: false,
            force: false,
        }
    }

    fn identify() -> (Box<IdentifyController>, Box<IdentifyNamespace>) {
        let mut about = IdentifyController::zeroed();
        about.oacs = 1 << 1;
        let mut namespace = IdentifyNamespace::zeroed();
        namespace.nlbaf = 4;
        namespace.flbas = 1;
        for (index, format) in [
            LbaFormat::new(9, 8),
            LbaFormat::new(9, 0),
            LbaFormat(LbaFormat::new(12, 0).0 | 2 << 24),
            LbaFormat::new(12, 0),
            LbaFormat::new(0, 0),
        ]
        .into_iter()
        .enumerate()
        {
            namespace.lbaf[index] = format;
        }
        (about, namespace)
    }

    #[test]
    fn the_fastest_format_of_the_block_size_is_chosen() {
        let (about, namespace) = identify();
        let choose = |change: fn(&mut FormatCommand)| {
            let mut command = command();
            change(&mut command);
            command.choose(&about, &namespace)
        };
        assert_eq!(choose(|_| {}).unwrap(), 1);
        assert_eq!(choose(|command| command.block_size = Some(4096)).unwrap(), 3);
        assert_eq!(choose(|command| command.block_size = Some(512)).unwrap(), 1);
        assert_eq!(choose(|command| command.lbaf = Some(2)).unwrap(), 2);
        let with_metadata = |command: &mut FormatCommand| {
            command.lbaf = Some(0);
            command.force = true;
        };
        assert_eq!(choose(with_metadata).unwrap(), 0);
        for (change, needle) in [
            (
                (|command| command.block_size = Some(8192)) as fn(&mut FormatCommand),
                "blocks of 8192",
            ),
            (|command| command.lbaf = Some(0), "metadata"),
            (|command| command.lbaf = Some(4), "no such format"),
            (|command| command.lbaf = Some(5), "no such format"),
            (|command| command.crypto_erase = true, "cryptographic"),
        ] {
            let error = choose(change).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }

    #[test]
    fn the_command_has_its_fields_in_place() {
        assert_eq!(format_command(3, 0, Erase::None).cdw10, 0);
        let entry = format_command(3, 0x25, Erase::Cryptographic);
        assert_eq!((entry.opcode, entry.nsid), (0x80, 3));
        assert_eq!(entry.cdw10, 5 | 2 << 9 | 2 << 12);
    }
}
