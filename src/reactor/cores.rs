//! Which cores the reactors run on: parsing what the user names, checking it against what the system
//! allows, and pinning.

use std::fmt;
use std::str::FromStr;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::base::{Error, ErrorKind, Result, limits};

/// Highest core number that the kernel's fixed-size mask can name, plus one.
const CORES_MAX: usize = CpuSet::MAX_CPU;

/// An ordered list of distinct cores, at least one. Reactor `i` runs on its `i`th.
///
/// Written as SPDK's `-m` takes it: a hexadecimal mask (`0x3`; without `0x` when it cannot be meant
/// otherwise, as in `ff`), or a list of numbers and ranges, with or without brackets (`[0,2-3]`, `0,2-3`).
/// A lone number without `0x`, such as `3`, is a mask too, as it is for SPDK; `[3]` is core 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreList(Vec<usize>);

impl CoreList {
    /// The list of `cores`, in this order.
    ///
    /// # Errors
    /// `Invalid` when it is empty, names a core twice, more cores than there can be reactors, or a number
    /// that no core can have.
    pub fn new(cores: Vec<usize>) -> Result<CoreList> {
        if cores.is_empty() {
            return Err(Error::invalid("the core list names no core"));
        }
        if cores.len() > limits::REACTORS_MAX {
            return Err(Error::invalid(format!(
                "the core list names {} cores ({} is the most)",
                cores.len(),
                limits::REACTORS_MAX
            )));
        }
        if let Some(core) = cores.iter().find(|&&core| core >= CORES_MAX) {
            return Err(Error::invalid(format!(
                "the core list names core {core} ({} is the highest possible)",
                CORES_MAX - 1
            )));
        }
        if let Some(core) =
            cores.iter().enumerate().find_map(|(i, core)| cores[..i].contains(core).then_some(core))
        {
            return Err(Error::invalid(format!("the core list names core {core} twice")));
        }
        Ok(CoreList(cores))
    }

    /// The first core that this thread may run on.
    ///
    /// # Errors
    /// When the system does not tell the allowed cores.
    pub fn first_allowed() -> Result<CoreList> {
        let allowed = allowed()?;
        CoreList::new(allowed.into_iter().take(1).collect())
    }

    /// All cores that this thread may run on (the first ones, when there may not be so many reactors).
    ///
    /// # Errors
    /// When the system does not tell the allowed cores.
    pub fn all_allowed() -> Result<CoreList> {
        let allowed = allowed()?;
        CoreList::new(allowed.into_iter().take(limits::REACTORS_MAX).collect())
    }

    /// The cores, in order.
    pub fn cores(&self) -> &[usize] {
        &self.0
    }

    /// The cores as a hexadecimal mask, without `0x`.
    pub fn mask(&self) -> String {
        mask(&self.0)
    }

    /// Checks that this thread may run on each core. To be asked before anything is pinned: a pinned
    /// thread sees its own core only.
    ///
    /// # Errors
    /// `Invalid`, with the cores that are allowed.
    pub fn check_allowed(&self) -> Result<()> {
        let allowed = allowed()?;
        let forbidden: Vec<usize> =
            self.0.iter().copied().filter(|core| !allowed.contains(core)).collect();
        if forbidden.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "cannot run on core{} {}: this process may use {} (see taskset, cgroups and the number of \
             cores of the machine)",
            if forbidden.len() == 1 { "" } else { "s" },
            CoreList(forbidden),
            CoreList(allowed)
        )))
    }
}

/// `cores` as a hexadecimal mask, without `0x`.
pub(super) fn mask(cores: &[usize]) -> String {
    let digits = cores.iter().max().map_or(1, |highest| highest / 4 + 1);
    (0..digits)
        .rev()
        .map(|digit| {
            let bits = cores.iter().filter(|&&core| core / 4 == digit);
            let value = bits.fold(0, |value, core| value | 1 << (core % 4));
            char::from_digit(value, 16).unwrap_or('0')
        })
        .collect()
}

/// The cores that the calling thread may run on.
fn allowed() -> Result<Vec<usize>> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if cores.is_empty() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the system does not tell which cores this process may use",
        ));
    }
    Ok(cores.into_iter().map(|core| core.id).collect())
}

/// Keeps the calling thread on one core while it lives, and then gives it back the cores it had.
pub(super) struct Pinned(CpuSet);

impl Pinned {
    pub(super) fn to(core: usize) -> Result<Pinned> {
        let before = sched_getaffinity(None)
            .map_err(|errno| Error::os("cannot read this thread's core mask", errno))?;
        if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
            return Err(Error::new(
                ErrorKind::NotPermitted,
                format!("cannot pin a reactor to core {core}"),
            )
            .because(std::io::Error::last_os_error()));
        }
        Ok(Pinned(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Err(error) = sched_setaffinity(None, &self.0) {
            tracing::debug!(%error, "cannot give a thread its cores back");
        }
    }
}

impl FromStr for CoreList {
    type Err = Error;

    fn from_str(text: &str) -> Result<CoreList> {
        let trimmed = text.trim();
        let cores = if let Some(list) = trimmed.strip_prefix('[') {
            list.strip_suffix(']').and_then(parse_list)
        } else if trimmed.contains([',', '-']) {
            parse_list(trimmed)
        } else {
            let digits = trimmed.strip_prefix("0x").or_else(|| trimmed.strip_prefix("0X"));
            parse_mask(digits.unwrap_or(trimmed))
        };
        let cores = cores.ok_or_else(|| {
            Error::invalid(format!(
                "'{text}' is neither a core mask nor a core list (write 0x3, [0,2-3] or 0,2-3)"
            ))
        })?;
        CoreList::new(cores).map_err(|error| error.context(format!("in '{text}'")))
    }
}

fn parse_mask(digits: &str) -> Option<Vec<usize>> {
    if digits.is_empty() {
        return None;
    }
    let mut cores = Vec::new();
    for (place, digit) in digits.chars().rev().enumerate() {
        let digit = digit.to_digit(16)?;
        cores.extend((0..4).filter(|bit| digit & (1 << bit) != 0).map(|bit| place * 4 + bit));
    }
    Some(cores)
}

/// Reads numbers and ranges (`0,2-3`), the kernel's way to write a set of cores.
pub(super) fn parse_list(list: &str) -> Option<Vec<usize>> {
    // `usize::from_str` would take a sign.
    let number = |text: &str| -> Option<usize> {
        let text = text.trim();
        if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
    };
    let mut cores = Vec::new();
    for part in list.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        // A range that is too long is cut where `CoreList::new` refuses it anyway.
        if last < first || last - first > CORES_MAX {
            return None;
        }
        cores.extend(first..=last);
        if cores.len() > 2 * CORES_MAX {
            return None;
        }
    }
    Some(cores)
}

impl fmt::Display for CoreList {
    /// As a list with ranges: `0,2-3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut separator = "";
        while let Some(&first) = rest.first() {
            let run = rest.iter().zip(first..).take_while(|(core, next)| *core == next).count();
            write!(f, "{separator}{first}")?;
            if run > 1 {
                write!(f, "-{}", first + run - 1)?;
            }
            rest = &rest[run..];
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(all(test, not(weft_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_spdk_are_read() {
        for (text, cores) in [
            ("0x3", vec![0, 1]),
            ("0X10", vec![4]),
            ("3", vec![0, 1]),
            ("ff", (0..8).collect()),
            ("0x80000000000000001", vec![0, 67]),
            ("[0,1-3]", vec![0, 1, 2, 3]),
            ("0,2-3", vec![0, 2, 3]),
            (" [ 5 , 2 - 3 ] ", vec![5, 2, 3]),
            ("[3]", vec![3]),
            ("1-1", vec![1]),
        ] {
            let list: CoreList = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(list.cores(), cores, "{text}");
        }
    }

    #[test]
    fn bad_input_is_refused_with_the_text_in_the_message() {
        for text in [
            "",
            " ",
            "0x",
            "0x0",
            "[]",
            "[",
            "]",
            "0x3g",
            "[0",
            "0]",
            "1-",
            "-1",
            "3-1",
            "0,,1",
            "0,0",
            "[0-1,1]",
            "+1,2",
            "1;2",
            "0-99999999999",
            "[99999]",
            "0-1023",
            "0x3,4",
            "é",
        ] {
            let error = text.parse::<CoreList>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(error.to_string().contains(&format!("'{text}'")), "{error}");
        }
    }

    #[test]
    fn lists_are_written_short_and_masks_hexadecimal() {
        let list = CoreList::new(vec![0, 2, 3, 4, 9]).unwrap();
        assert_eq!(list.to_string(), "0,2-4,9");
        assert_eq!(list.mask(), "21d");
        assert_eq!(list.to_string().parse::<CoreList>().unwrap(), list);
        assert_eq!(list.mask().parse::<CoreList>().unwrap(), list);
    }

    #[test]
    fn a_core_that_is_not_allowed_is_named() {
        let all = CoreList::all_allowed().unwrap();
        all.check_allowed().unwrap();
        let beyond = CORES_MAX - 1;
        if all.cores().contains(&beyond) {
            return;
        }
        let error = CoreList::new(vec![beyond]).unwrap().check_allowed().unwrap_err();
        assert!(error.to_string().contains(&beyond.to_string()), "{error}");
        assert!(error.to_string().contains(&all.to_string()), "{error}");
    }

    #[test]
    fn pinning_ends_with_its_guard() {
        // On a thread of its own: the test harness may use this one again.
        std::thread::spawn(|| {
            let before = CoreList::all_allowed().unwrap();
            let core = before.cores()[0];
            let pinned = Pinned::to(core).unwrap();
            assert_eq!(CoreList::all_allowed().unwrap().cores(), [core]);
            drop(pinned);
            assert_eq!(CoreList::all_allowed().unwrap(), before);
        })
        .join()
        .unwrap();
    }
}
