//! `weft nvme bind` and `unbind`: drivers of drives.

use clap::Args;
use serde_json::{Value, json};

use super::own_label;
use crate::base::{ByteCount, Error, ErrorKind, Result, parse_size};
use crate::cli::host;
use crate::cli::output::{Columns, Format, print_json};
use crate::cli::session::Session;
use crate::nvme::pci::{
    Binder, HostPaths, InUse, Iommu, KernelDrive, Outcome, PciAddress, PciFunction, SystemKernel,
    VFIO_DRIVER, hand_over, nvme_functions,
};

/// Gives drives to Weft: takes them from the kernel's driver and binds them to VFIO
///
/// A drive that is in use (mounted, swap, part of a volume, partitioned, with a file system on it, open) is refused,
/// with the reason. A drive that holds a leg of a Weft mirror is not: Weft is where it belongs. Binding changes nothing
/// on the drive.
#[derive(Debug, Args)]
pub struct BindCommand {
    #[command(flatten)]
    drives: Drives,
    /// The driver to bind
    #[arg(long, default_value = VFIO_DRIVER, value_name = "NAME")]
    driver: String,
    /// Lets this user drive them, by name or number: gives him /dev/vfio/GROUP
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Makes the reserve of huge pages at least this large, over all NUMA nodes
    #[arg(long, value_name = "SIZE", value_parser = read_size)]
    huge_pages: Option<ByteCount>,
}

/// Gives drives back to the kernel
#[derive(Debug, Args)]
pub struct UnbindCommand {
    #[command(flatten)]
    drives: Drives,
}

#[derive(Debug, Args)]
struct Drives {
    /// PCI addresses, as weft nvme list shows them
    #[arg(value_name = "ADDRESS", required_unless_present = "all")]
    addresses: Vec<PciAddress>,
    /// All NVMe drives of this host
    #[arg(long, conflicts_with = "addresses")]
    all: bool,
    /// Also drives that are in use: what uses them loses them
    #[arg(long)]
    force: bool,
}

fn read_size(text: &str) -> std::result::Result<ByteCount, String> {
    parse_size(text).map_err(|error| error.to_string())
}

impl Drives {
    fn addresses(&self, paths: &HostPaths) -> Vec<PciAddress> {
        if self.all {
            return nvme_functions(paths).into_iter().map(|function| function.address).collect();
        }
        let mut addresses = self.addresses.clone();
        addresses.sort();
        addresses.dedup();
        addresses
    }
}

impl BindCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When a drive was refused or could not be bound.
    pub fn run(&self, session: &Session) -> Result<()> {
        let paths = HostPaths::system();
        let added = self.huge_pages.map(|size| host::reserve_huge_pages(&paths, size, None));
        let user = self.user.as_deref().map(host::user_number).transpose()?;
        let kernel = SystemKernel::default();
        let binder =
            Binder { paths: &paths, kernel: &kernel, force: self.drives.force, own: &own_label };
        let rows: Vec<Row> = self
            .drives
            .addresses(&paths)
            .into_iter()
            .map(|address| {
                let model = model(&paths, address);
                let outcome = binder.bind(address, &self.driver).and_then(|outcome| {
                    if let (Some(user), false) = (user, matches!(outcome, Outcome::Refused(_))) {
                        hand_over(&paths, address, user)?;
                    }
                    Ok(outcome)
                });
                Row::new(&paths, address, model, outcome)
            })
            .collect();
        report(session, &rows, "bound")?;
        if session.format() == Format::Text {
            host::huge_page_notes(&paths).iter().for_each(|note| eprintln!("note: {note}"));
            if Iommu::read(&paths).unsafe_without {
                eprintln!(
                    "note: VFIO may do without an IOMMU here: nothing keeps a drive from writing to any memory"
                );
            }
        }
        if let Some(Err(error)) = added {
            return Err(error);
        }
        verdict(&rows, "bound")
    }
}

impl UnbindCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When a drive was refused or did not go back.
    pub fn run(&self, session: &Session) -> Result<()> {
        let paths = HostPaths::system();
        let kernel = SystemKernel::default();
        let binder =
            Binder { paths: &paths, kernel: &kernel, force: self.drives.force, own: &own_label };
        let row = |address| Row::new(&paths, address, None, binder.unbind(address));
        let mut rows: Vec<Row> = self.drives.addresses(&paths).into_iter().map(row).collect();
        // The kernel's driver knows the model only now.
        rows.iter_mut().for_each(|row| row.model = model(&paths, row.address));
        report(session, &rows, "unbound")?;
        verdict(&rows, "unbound")
    }
}

fn model(paths: &HostPaths, address: PciAddress) -> Option<String> {
    KernelDrive::read(paths, &PciFunction::read(paths, address).ok()?)?.model
}

/// What became of one drive.
struct Row {
    address: PciAddress,
    model: Option<String>,
    driver: Option<String>,
    group: Option<String>,
    outcome: Result<Outcome>,
    notes: Vec<String>,
}

impl Row {
    fn new(
        paths: &HostPaths,
        address: PciAddress,
        model: Option<String>,
        outcome: Result<Outcome>,
    ) -> Row {
        let now = PciFunction::read(paths, address).ok();
        let notes = now.as_ref().map(|function| group_notes(paths, function)).unwrap_or_default();
        Row {
            address,
            model,
            driver: now.as_ref().and_then(|function| function.driver.clone()),
            group: now.and_then(|function| function.iommu_group),
            outcome,
            notes,
        }
    }

    fn done(&self) -> bool {
        matches!(self.outcome, Ok(Outcome::Already | Outcome::Changed { .. }))
    }

    /// In one word, and in a line that says why.
    fn words(&self, verb: &'static str) -> (&'static str, String) {
        match &self.outcome {
            Ok(Outcome::Already) => ("unchanged", format!("was {verb} already")),
            Ok(Outcome::Changed { from }) => {
                (verb, format!("was with {}", from.as_deref().unwrap_or("no driver")))
            }
            Ok(Outcome::Refused(uses)) => ("refused", join(uses)),
            Err(error) => {
                let text = error.to_string();
                let prefix = format!("{}: ", self.address);
                ("failed", text.strip_prefix(&prefix).unwrap_or(&text).to_owned())
            }
        }
    }

    fn json(&self, verb: &'static str) -> Value {
        let (result, reason) = self.words(verb);
        let uses = match &self.outcome {
            Ok(Outcome::Refused(uses)) => uses.iter().map(InUse::to_string).collect(),
            _ => Vec::new(),
        };
        json!({
            "address": self.address, "model": self.model, "driver": self.driver,
            "iommu_group": self.group, "result": result, "reason": reason, "in_use": uses,
            "notes": self.notes,
        })
    }
}

fn join(uses: &[InUse]) -> String {
    let texts: Vec<String> =
        uses.iter().filter(|one| one.refuses()).map(InUse::to_string).collect();
    texts.join("; ")
}

/// VFIO gives out a group only when nobody else drives any function of it.
fn group_notes(paths: &HostPaths, function: &PciFunction) -> Vec<String> {
    if function.driver.as_deref() != Some(VFIO_DRIVER) {
        return Vec::new();
    }
    let blocking = |member: &PciAddress| -> Option<String> {
        let driver = PciFunction::read(paths, *member).ok()?.driver?;
        // Bridges do no DMA of their own; VFIO knows their driver.
        let harmless = driver.starts_with("vfio") || driver == "pcieport" || driver == "pci-stub";
        (!harmless).then(|| {
            format!(
                "IOMMU group {} also has {member} (driver {driver}): VFIO gives the group out only without that driver",
                function.iommu_group.as_deref().unwrap_or("?")
            )
        })
    };
    function.group_members.iter().filter_map(blocking).collect()
}

fn report(session: &Session, rows: &[Row], verb: &'static str) -> Result<()> {
    match session.format() {
        Format::Json => print_json(&rows.iter().map(|row| row.json(verb)).collect()),
        Format::Text if rows.is_empty() => println!("There is no NVMe drive on this host."),
        Format::Text => {
            println!("{}", table(rows, verb));
            for row in rows {
                row.notes.iter().for_each(|note| eprintln!("note: {}: {note}", row.address));
            }
        }
    }
    Ok(())
}

fn table(rows: &[Row], verb: &'static str) -> String {
    let mut columns = Columns::new(&["address", "model", "driver", "group", "result", "why"]);
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    for row in rows {
        let (result, reason) = row.words(verb);
        columns.row([
            row.address.to_string(),
            or_none(&row.model),
            or_none(&row.driver),
            or_none(&row.group),
            result.into(),
            reason,
        ]);
    }
    columns.text()
}

fn verdict(rows: &[Row], verb: &str) -> Result<()> {
    let left = rows.iter().filter(|row| !row.done()).count();
    if left == 0 {
        return Ok(());
    }
    let in_use = rows.iter().any(|row| matches!(row.outcome, Ok(Outcome::Refused(_))));
    let hint = if in_use { " (free them first; --force takes them all the same)" } else { "" };
    let text = format!("{left} of {} drives could not be {verb}{hint}", rows.len());
    Err(Error::new(ErrorKind::Busy, text))
}
