//! The machine's bus over the qtest protocol: I/O ports, memory, and the configuration space of PCI behind two ports.

use super::dialogue::Dialogue;
use crate::base::{Error, ErrorKind, Result};
use crate::reactor::Context;

/// The ports of PCI configuration mechanism 1 (PCI Local Bus Specification, section 3.2.2.3.2).
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;

/// A function on bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl Slot {
    fn config_address(self, offset: u8) -> u32 {
        let device = u32::from(self.device & 0x1f) << 11;
        let function = u32::from(self.function & 0x7) << 8;
        1 << 31 | device | function | u32::from(offset & 0xfc)
    }
}

/// Whether a line is an answer: everything but the notices of interrupts.
pub(super) fn is_answer(line: &str) -> bool {
    !line.starts_with("IRQ")
}

fn expect(dialogue: &Dialogue, what: &str, answer: &str) -> Result<Option<u64>> {
    let wrong = || {
        let what = format!("{}: {what}: QEMU answered {answer:?}", dialogue.name());
        Error::new(ErrorKind::Io, what)
    };
    let mut words = answer.split_whitespace();
    if words.next() != Some("OK") {
        return Err(wrong());
    }
    let Some(word) = words.next() else { return Ok(None) };
    let digits = word.strip_prefix("0x").ok_or_else(wrong)?;
    u64::from_str_radix(digits, 16).map(Some).map_err(|_| wrong())
}

async fn value(
    cx: &Context,
    dialogue: &Dialogue,
    lines: &[std::fmt::Arguments<'_>],
) -> Result<u32> {
    let answer = dialogue.ask(cx, lines).await?;
    match expect(dialogue, "a read", &answer)? {
        Some(value) => Ok(value as u32),
        None => Err(Error::new(
            ErrorKind::Io,
            format!("{}: QEMU answered a read without a value", dialogue.name()),
        )),
    }
}

pub(super) async fn read_memory(cx: &Context, dialogue: &Dialogue, address: u64) -> Result<u32> {
    value(cx, dialogue, &[format_args!("readl {address:#x}")]).await
}

pub(super) async fn write_memory(
    cx: &Context,
    dialogue: &Dialogue,
    address: u64,
    value: u32,
) -> Result<()> {
    let answer = dialogue.ask(cx, &[format_args!("writel {address:#x} {value:#x}")]).await?;
    expect(dialogue, "a write", &answer).map(drop)
}

pub(super) async fn read_config(
    cx: &Context,
    dialogue: &Dialogue,
    slot: Slot,
    offset: u8,
) -> Result<u32> {
    let address = slot.config_address(offset);
    // Both at once: another task's access must not come between.
    let lines = [
        format_args!("outl {CONFIG_ADDRESS:#x} {address:#x}"),
        format_args!("inl {CONFIG_DATA:#x}"),
    ];
    value(cx, dialogue, &lines).await
}

pub(super) async fn write_config(
    cx: &Context,
    dialogue: &Dialogue,
    slot: Slot,
    offset: u8,
    value: u32,
) -> Result<()> {
    let address = slot.config_address(offset);
    let lines = [
        format_args!("outl {CONFIG_ADDRESS:#x} {address:#x}"),
        format_args!("outl {CONFIG_DATA:#x} {value:#x}"),
    ];
    let answer = dialogue.ask(cx, &lines).await?;
    expect(dialogue, "a write to configuration space", &answer).map(drop)
}
