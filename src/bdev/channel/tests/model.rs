//! Random requests over devices of random poverty, against plain memory.

use proptest::prelude::*;

use super::*;
use crate::memory::Segment;

const BLOCKS: u64 = 96;

/// Pieces of a payload: they are contiguous in `memory` with gaps, so that what is written beside shows.
fn pieces(memory: &mut [u8], lengths: &[usize]) -> Vec<Segment> {
    let mut rest = memory;
    let mut segments = Vec::new();
    for &length in lengths {
        let (piece, after) = std::mem::take(&mut rest).split_at_mut(length);
        // SAFETY: as in `with_payload`.
        segments.push(unsafe { segment_of(piece) });
        rest = after.get_mut(3..).unwrap_or_default();
    }
    segments
}

#[derive(Clone, Debug)]
struct Step {
    opcode: Opcode,
    lba: u64,
    blocks: u32,
    /// Lengths of the segments are cut by these.
    cuts: Vec<u16>,
    skew: usize,
    /// For comparisons: whether the payload is what the device holds.
    equal: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let opcodes = vec![
        Opcode::Read,
        Opcode::Write,
        Opcode::Unmap,
        Opcode::WriteZeroes,
        Opcode::Compare,
        Opcode::CompareAndWrite,
        Opcode::Flush,
    ];
    (
        prop::sample::select(opcodes),
        0..BLOCKS,
        1..40u32,
        prop::collection::vec(1..3000u16, 0..12),
        prop::sample::select(vec![0usize, 0, 64, 8, 1]),
        any::<bool>(),
    )
        .prop_map(|(opcode, lba, blocks, cuts, skew, equal)| {
            let blocks = blocks.min((BLOCKS - lba) as u32);
            Step { opcode, lba, blocks, cuts, skew, equal }
        })
}

fn info() -> impl Strategy<Value = Info> {
    (
        prop::sample::select(vec![512u32, 1536, 4096, 1 << 20]),
        prop::sample::select(vec![1u16, 2, 3, 33]),
        prop::sample::select(vec![1u32, 4, 64, 512, 4096]),
        prop::sample::select(vec![0u32, 1, 8, 32]),
        prop::collection::vec(any::<bool>(), 6),
    )
        .prop_map(|(transfer_max, segments_max, memory_alignment, boundary, extra)| {
            let mut info = small_info(BLOCKS);
            info.limits.transfer_max = transfer_max;
            info.limits.segments_max = segments_max;
            info.limits.memory_alignment = memory_alignment;
            info.limits.boundary = boundary;
            let optional = OpcodeSet::BLOCK.iter().skip(2).zip(extra);
            info.native = optional
                .filter(|&(_, native)| native)
                .fold(OpcodeSet::READ_WRITE, |set, (opcode, _)| set.with(opcode));
            info
        })
}

/// What the device should hold and answer, and the bytes that a read should bring.
fn expect(model: &mut [u8], step: &Step, payload: &[u8]) -> (Status, Option<Vec<u8>>) {
    let range = step.lba as usize * 512..(step.lba as usize + step.blocks as usize) * 512;
    let medium = &mut model[range];
    match step.opcode {
        Opcode::Read => return (Status::SUCCESS, Some(medium.to_vec())),
        Opcode::Write => medium.copy_from_slice(payload),
        Opcode::Unmap | Opcode::WriteZeroes => medium.fill(0),
        Opcode::Compare if medium != payload => return (Status::COMPARE_FAILURE, None),
        Opcode::CompareAndWrite if *medium != payload[..medium.len()] => {
            return (Status::COMPARE_FAILURE, None);
        }
        Opcode::CompareAndWrite => {
            let length = medium.len();
            medium.copy_from_slice(&payload[length..]);
        }
        _ => {}
    }
    (Status::SUCCESS, None)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever a driver cannot take, requests do what they say, on a driver that completes out of order
    /// and checks that it gets only what it takes.
    #[test]
    fn requests_do_what_they_say(
        info in info(),
        room in 1..6usize,
        steps in prop::collection::vec(step(), 1..12),
        order in prop::collection::vec(any::<u8>(), 64),
    ) {
        let mut rig = Rig::with(info, context(), room);
        let mut model = vec![0u8; BLOCKS as usize * 512];
        let mut order = order.into_iter().cycle().map(usize::from);
        for (number, step) in steps.into_iter().enumerate() {
            let length = step.blocks as usize * 512 * step.opcode.payload_factor() as usize;
            let mut contents: Vec<u8> =
                (0..length).map(|at| (at / 7 + number * 31) as u8).collect();
            if step.equal {
                let start = step.lba as usize * 512;
                let same = (step.blocks as usize * 512).min(length);
                contents[..same].copy_from_slice(&model[start..start + same]);
            }
            // Lengths of the segments: the cuts, and what is left.
            let mut lengths = Vec::new();
            let mut left = length;
            for &cut in &step.cuts {
                let piece = usize::from(cut).min(left);
                lengths.push(piece);
                left -= piece;
            }
            lengths.push(left);
            lengths.retain(|&length| length > 0);
            let mut memory = Vec::new();
            let room = length + 3 * lengths.len() + 64;
            let memory = payload(&mut memory, room, step.skew);
            memory.fill(0xaa);
            let mut at = 0;
            let mut from = 0;
            for &piece in &lengths {
                memory[at..at + piece].copy_from_slice(&contents[from..from + piece]);
                at += piece + 3;
                from += piece;
            }
            let segments = pieces(memory, &lengths);
            // SAFETY: the request completes within this round.
            let request = unsafe {
                Request::scattered(step.opcode, Lba(step.lba), step.blocks, &segments, 7)
            };
            let (status, read) = expect(&mut model, &step, &contents);
            rig.submit(request);
            let mut done = Vec::new();
            for _ in 0..10_000 {
                done = rig.poll();
                if !done.is_empty() {
                    break;
                }
                let held = rig.script.held().len();
                if held > 0 {
                    rig.script.end(order.next().unwrap_or(0) % held, Status::SUCCESS);
                }
            }
            prop_assert_eq!(&done, &[(7, status)], "{:?}", step);
            prop_assert_eq!(rig.channel.outstanding(), 0);
            prop_assert!(rig.script.memory() == model, "contents after {step:?}");
            if let Some(expected) = read {
                contents = expected;
            }
            let mut at = 0;
            let mut from = 0;
            for &piece in &lengths {
                prop_assert!(memory[at..at + piece] == contents[from..from + piece]);
                prop_assert!(memory[at + piece..at + piece + 3] == [0xaa; 3]);
                at += piece + 3;
                from += piece;
            }
        }
        prop_assert!(rig.cx.pool().stats().in_use <= 1, "only the zeros are kept");
    }
}
