//! What all clients asked and were told, in order.

use std::collections::BTreeMap;

use weft::mesh::message::Run;

use super::block::{BlockOperation, Disorder, Kind};
use crate::payload::{self, Blocks, ZERO, value_of};

/// What a client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To read.
    Read,
    /// To write.
    Write,
    /// To write zeroes.
    Zero,
    /// To make stable what was written.
    Flush,
}

/// A request of a client.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The client's host.
    pub host: usize,
    /// The volume, as the run numbers it.
    pub volume: usize,
    /// What it asked.
    pub asked: Asked,
    /// Which blocks.
    pub run: Run,
    /// When it asked, in nanoseconds.
    pub from: u64,
    /// When it was told that it is done; never, if it was not.
    pub until: Option<u64>,
    invoked: u64,
    ended: u64,
    /// The guest changes the buffer meanwhile: the blocks may be what they were before or after.
    is_scribbled: bool,
    /// Where a read's numbers begin in [`History::values`].
    values: usize,
}

/// Who never got an answer.
pub const NEVER: u64 = u64::MAX;

/// All requests.
#[derive(Default)]
pub struct History {
    /// Counts what was asked and told: puts it in order.
    stamp: u64,
    operations: Vec<Operation>,
    values: Vec<u64>,
}

impl History {
    /// A client asks. Gives the request's number.
    pub fn begin(&mut self, now: u64, host: usize, volume: usize, asked: Asked, run: Run) -> usize {
        self.stamp += 1;
        self.operations.push(Operation {
            host,
            volume,
            asked,
            run,
            from: now,
            until: None,
            invoked: self.stamp,
            ended: NEVER,
            is_scribbled: false,
            values: 0,
        });
        self.operations.len() - 1
    }

    /// What a write of this number writes.
    pub fn payload(&self, number: usize) -> Blocks {
        let run = self.operations[number].run;
        Blocks::new((run.first..run.end()).map(|block| value_of(number as u64 + 1, block)))
    }

    /// A request was done, and gave these blocks if it was a read. False if that are not as many as were asked for.
    pub fn end(&mut self, now: u64, number: usize, data: &[Blocks]) -> bool {
        self.stamp += 1;
        let operation = &mut self.operations[number];
        operation.until = Some(now);
        operation.ended = self.stamp;
        operation.values = self.values.len();
        if operation.asked != Asked::Read {
            return true;
        }
        self.values.extend(data.iter().flat_map(Blocks::values));
        self.values.len() - operation.values == operation.run.blocks as usize
    }

    /// The guest changes the buffer of this write.
    pub fn scribble(&mut self, number: usize) {
        self.operations[number].is_scribbled = true;
    }

    /// A request.
    pub fn operation(&self, number: usize) -> &Operation {
        &self.operations[number]
    }

    /// All requests in the order in which they were made.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// What was done to each block of each volume, in the order in which it was asked. Reads that were not answered are left out.
    pub fn by_block(&self) -> BTreeMap<(usize, u64), Vec<BlockOperation>> {
        let mut blocks: BTreeMap<(usize, u64), Vec<BlockOperation>> = BTreeMap::new();
        for (number, operation) in self.operations.iter().enumerate() {
            let kind = match operation.asked {
                Asked::Read if operation.ended == NEVER => continue,
                Asked::Read => Kind::Read,
                Asked::Write | Asked::Zero => Kind::Write,
                Asked::Flush => continue,
            };
            for (at, block) in (operation.run.first..operation.run.end()).enumerate() {
                let value = match operation.asked {
                    Asked::Read => self.values[operation.values + at],
                    Asked::Write => value_of(number as u64 + 1, block),
                    _ => ZERO,
                };
                let history = blocks.entry((operation.volume, block)).or_default();
                let (invoked, ended) = (operation.invoked, operation.ended);
                if operation.is_scribbled {
                    // One of the two is written: neither need be.
                    for value in [value, payload::scribbled(value)] {
                        history.push(BlockOperation { kind, value, invoked, ended: NEVER, number });
                    }
                } else {
                    history.push(BlockOperation { kind, value, invoked, ended, number });
                }
            }
        }
        blocks
    }

    /// A request in words.
    pub fn describe(&self, number: usize) -> String {
        let operation = &self.operations[number];
        let what = match operation.asked {
            Asked::Read => "read",
            Asked::Write => "write",
            Asked::Zero => "zeroing",
            Asked::Flush => "flush",
        };
        let seconds = |time: u64| time as f64 / 1e9;
        let until = match operation.until {
            Some(until) => format!("{:.6} s", seconds(until)),
            None => "never answered".into(),
        };
        format!(
            "{what} #{} by n{} of volume {} blocks {}+{} ({:.6} s – {until})",
            number + 1,
            operation.host + 1,
            operation.volume,
            operation.run.first,
            operation.run.blocks,
            seconds(operation.from),
        )
    }

    /// A disorder in words, with what was done to the block around it.
    pub fn explain(
        &self,
        volume: usize,
        block: u64,
        disorder: &Disorder,
        operations: &[BlockOperation],
    ) -> String {
        let (why, shown_by): (&str, &[usize]) = match disorder {
            Disorder::FromNowhere { read } => ("a read gave what nobody had written", &[*read]),
            Disorder::FromTheFuture { read } => {
                ("a read gave what was written only later", &[*read])
            }
            Disorder::Interleaved { shown_by } => ("a value came back after another", shown_by),
            Disorder::NoOrder { at } => ("no order explains the answers", &[*at]),
        };
        let mut text = format!("volume {volume} block {block}: {why}");
        let near = |operation: &&BlockOperation| {
            let number = operation.number;
            shown_by.iter().any(|shown| number.abs_diff(*shown) <= 12)
        };
        for operation in operations.iter().filter(near) {
            let mark = if shown_by.contains(&operation.number) { ">" } else { " " };
            let value = payload::describe(operation.value);
            text += &format!("\n  {mark} {} = {value}", self.describe(operation.number));
        }
        text
    }
}
