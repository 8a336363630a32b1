mod model;

use super::*;
use crate::base::{Lba, Status};
use crate::bdev::device::Info;
use crate::bdev::qos::QosLimits;
use crate::bdev::request::{Completion, RequestFlags};
use crate::bdev::testing::{
    Script, context, context_with_pool, poor_info, scripted, segment_of, small_info,
};
use crate::bdev::{HistogramLayout, HistogramOptions, OpClass, ResetMode};

struct Rig {
    cx: Context,
    device: Arc<Device>,
    script: Arc<Script>,
    channel: Channel,
    completions: Completions,
}

impl Rig {
    fn new(info: Info) -> Rig {
        Rig::with(info, context(), 8)
    }

    fn with(info: Info, cx: Context, room: usize) -> Rig {
        let (device, script) = scripted(info, room);
        let channel = device.open_channel(&cx, 8).unwrap();
        Rig { cx, device, script, channel, completions: Completions::with_capacity(16) }
    }

    fn submit(&mut self, request: Request) {
        self.cx.turn();
        assert_eq!(self.channel.submit(&mut [request]), 1, "{request:?}");
    }

    fn poll(&mut self) -> Vec<(u64, Status)> {
        poll(&mut self.channel, &self.cx, &mut self.completions)
    }

    /// Submits and lets the driver end all it gets with success.
    fn run(&mut self, request: Request) -> Status {
        self.submit(request);
        for _ in 0..1000 {
            let done = self.poll();
            if let [(token, status)] = done[..] {
                assert_eq!(token, request.ticket.token);
                assert_eq!(self.channel.outstanding(), 0);
                return status;
            }
            self.script.end_all();
        }
        panic!("{request:?} never completes");
    }
}

fn poll(channel: &mut Channel, cx: &Context, completions: &mut Completions) -> Vec<(u64, Status)> {
    cx.turn();
    completions.clear();
    channel.poll(completions);
    completions.as_slice().iter().map(|done| (done.token, done.status)).collect()
}

fn bare(opcode: Opcode, lba: u64, blocks: u32, token: u64) -> Request {
    Request::bare(opcode, Lba(lba), blocks, token)
}

fn with_payload(opcode: Opcode, lba: u64, blocks: u32, bytes: &mut [u8]) -> Request {
    // SAFETY: the tests keep their payloads until the requests have completed.
    Request::new(opcode, Lba(lba), blocks, unsafe { segment_of(bytes) }, 7)
}

/// `length` bytes at an address of `skew` modulo 512.
fn payload(memory: &mut Vec<u8>, length: usize, skew: usize) -> &mut [u8] {
    memory.resize(length + 1024, 0);
    let start = memory.as_ptr().align_offset(512) + skew;
    &mut memory[start..start + length]
}

#[test]
fn bad_requests_get_the_precise_status() {
    let mut rig = Rig::new(small_info(64));
    let mut memory = Vec::new();
    let bytes = payload(&mut memory, 4096, 0);
    let cases = [
        (with_payload(Opcode::Read, 57, 8, bytes), Status::LBA_OUT_OF_RANGE),
        (with_payload(Opcode::Read, u64::MAX, 8, bytes), Status::LBA_OUT_OF_RANGE),
        (with_payload(Opcode::Write, 0, 7, bytes), Status::INVALID_FIELD),
        (with_payload(Opcode::CompareAndWrite, 0, 8, bytes), Status::INVALID_FIELD),
        (with_payload(Opcode::Read, 0, 0, &mut []), Status::INVALID_FIELD),
        (bare(Opcode::WriteZeroes, 0, 0, 7), Status::INVALID_FIELD),
        (bare(Opcode::Unmap, 64, 0, 7), Status::SUCCESS),
        (bare(Opcode::Unmap, 65, 0, 7), Status::LBA_OUT_OF_RANGE),
        (bare(Opcode::Unmap, 0, 65, 7), Status::LBA_OUT_OF_RANGE),
        (bare(Opcode::NvmeAdmin, 0, 0, 7), Status::INVALID_OPCODE),
    ];
    for (request, status) in cases {
        assert_eq!(rig.run(request), status, "{request:?}");
    }
    assert!(rig.script.held().is_empty());
    let errors = rig.device.iostat().errors;
    assert_eq!(errors[&Status::LBA_OUT_OF_RANGE], 4);
}

#[test]
fn what_a_device_lacks_is_named() {
    let mut read_only = small_info(64);
    read_only.native = OpcodeSet::EMPTY.with(Opcode::Read);
    read_only.volatile_write_cache = true;
    let mut rig = Rig::new(read_only);
    let mut memory = Vec::new();
    let bytes = payload(&mut memory, 512, 0);
    for opcode in [Opcode::Write, Opcode::WriteZeroes, Opcode::Unmap] {
        let request = with_payload(opcode, 0, 1, bytes);
        assert_eq!(rig.run(request), Status::NAMESPACE_WRITE_PROTECTED);
    }
    // A cache without a flush cannot be made durable; do not say that it was.
    assert_eq!(rig.run(bare(Opcode::Flush, 0, 0, 7)), Status::INVALID_OPCODE);
    assert_eq!(rig.run(with_payload(Opcode::Compare, 0, 1, bytes)), Status::SUCCESS);
    let supported = OpcodeSet::EMPTY.with(Opcode::Read).with(Opcode::Compare).with(Opcode::Reset);
    assert_eq!(rig.device.supported(), supported);
}

#[test]
fn splits_at_transfer_and_boundary() {
    let mut rig = Rig::new(poor_info(256));
    let mut memory = Vec::new();
    let bytes = payload(&mut memory, 30 * 512, 0);
    let start = bytes.as_ptr() as usize;
    rig.submit(with_payload(Opcode::Write, 10, 30, bytes));
    let parts = [(10, 6), (16, 8), (24, 8), (32, 8)];
    let seen: Vec<(u64, u32)> = rig.script.held().iter().map(|&(_, l, b)| (l.0, b)).collect();
    assert_eq!(seen, parts);
    assert_eq!(rig.script.segments(1), [(start + 6 * 512, 8 * 512)], "in place, not copied");
    // The first failure counts, and nothing completes before all parts have.
    rig.script.end(3, Status::SUCCESS);
    rig.script.end(1, Status::WRITE_FAULT);
    assert_eq!(rig.poll(), []);
    rig.script.end(0, Status::CAPACITY_EXCEEDED);
    assert_eq!(rig.poll(), []);
    rig.script.end(0, Status::SUCCESS);
    assert_eq!(rig.poll(), [(7, Status::WRITE_FAULT)]);
    assert_eq!(rig.poll(), []);
}

#[test]
fn no_parts_are_made_after_a_failure() {
    let mut rig = Rig::with(poor_info(256), context(), 8);
    rig.submit(bare(Opcode::Unmap, 0, 256, 7));
    // Half of the depth, so that others get through.
    assert_eq!(rig.script.held().len(), 4);
    rig.script.end(0, Status::WRITE_FAULT);
    assert_eq!(rig.poll(), []);
    assert_eq!(rig.script.end_all(), 3);
    assert_eq!(rig.poll(), [(7, Status::WRITE_FAULT)]);
    assert!(rig.script.held().is_empty());
}

#[test]
fn misaligned_payloads_go_through_a_buffer() {
    let mut rig = Rig::new(poor_info(256));
    rig.script.fill(|at| (at / 512) as u8);
    let mut memory = Vec::new();
    let bytes = payload(&mut memory, 20 * 512, 3);
    assert_eq!(rig.run(with_payload(Opcode::Read, 5, 20, bytes)), Status::SUCCESS);
    assert!(bytes.iter().enumerate().all(|(at, &byte)| usize::from(byte) == 5 + at / 512));
    bytes.fill(0xee);
    assert_eq!(rig.run(with_payload(Opcode::Write, 100, 20, bytes)), Status::SUCCESS);
    assert!(rig.script.memory()[100 * 512..120 * 512].iter().all(|&byte| byte == 0xee));
    assert_eq!(rig.cx.pool().stats().in_use, 0);
}

#[test]
fn without_buffers_a_copy_is_interrupted_or_waits() {
    // One region of 2 MiB in all, of which the test takes most.
    let cx = context_with_pool(2 << 20);
    let taken: Vec<_> = (0..7).map(|_| cx.pool().take(256 << 10).unwrap()).collect();
    let small: Vec<_> = (0..63).map(|_| cx.pool().take(4096).unwrap()).collect();
    let mut rig = Rig::with(poor_info(256), cx, 8);
    let mut memory = Vec::new();
    let bytes = payload(&mut memory, 20 * 512, 3);
    // One buffer of 4 KiB is left, and serves one part after the other.
    assert_eq!(rig.run(with_payload(Opcode::Read, 0, 20, bytes)), Status::SUCCESS);
    let last = rig.cx.pool().take(4096).unwrap();
    let status = rig.run(with_payload(Opcode::Read, 0, 20, bytes));
    assert_eq!(status, Status::COMMAND_INTERRUPTED);
    drop((last, taken, small));
    assert_eq!(rig.run(with_payload(Opcode::Read, 0, 20, bytes)), Status::SUCCESS);
}

#[test]
fn a_marked_request_keeps_its_mark() {
    let mut rig = Rig::new(small_info(64));
    let mut memory = Vec::new();
    let bytes = payload(&mut memory, 512, 0);
    let marked = with_payload(Opcode::Read, 3, 1, bytes).with_flags(RequestFlags::DETOUR);
    rig.submit(marked);
    rig.submit(with_payload(Opcode::Read, 4, 1, bytes));
    rig.script.end_all();
    rig.completions.clear();
    rig.channel.poll(&mut rig.completions);
    let flags = |done: &Completion| (done.token, done.flags);
    let mut seen: Vec<_> = rig.completions.as_slice().iter().map(flags).collect();
    seen.sort_by_key(|&(_, flags)| flags == RequestFlags::DETOUR);
    assert_eq!(seen, [(7, RequestFlags::NONE), (7, RequestFlags::DETOUR)]);
}

#[test]
fn reset_waits_for_those_before_and_holds_up_those_after() {
    let mut info = small_info(64);
    info.native = info.native.without(Opcode::Reset);
    let mut rig = Rig::new(info);
    rig.submit(bare(Opcode::Unmap, 0, 1, 1));
    rig.submit(bare(Opcode::Unmap, 1, 1, 2));
    rig.submit(bare(Opcode::Reset, 0, 0, 3));
    assert_eq!(rig.channel.submit(&mut [bare(Opcode::Unmap, 2, 1, 4)]), 0);
    rig.script.end(0, Status::SUCCESS);
    assert_eq!(rig.poll(), [(1, Status::SUCCESS)]);
    assert_eq!(rig.poll(), []);
    rig.script.end(0, Status::SUCCESS);
    let mut done = rig.poll();
    done.extend(rig.poll());
    assert_eq!(done, [(2, Status::SUCCESS), (3, Status::SUCCESS)]);
    rig.submit(bare(Opcode::Unmap, 2, 1, 4));
    assert_eq!(rig.script.held().len(), 1);
}

/// Ticks per second so many that a second never ends.
const NEVER: u64 = 1 << 60;

fn one_per_second() -> QosLimits {
    QosLimits { rw_ios_per_sec: 1, ..QosLimits::default() }
}

#[test]
fn limited_requests_wait_in_order_and_go_when_limits_are_lifted() {
    let mut rig = Rig::new(small_info(64));
    rig.device.set_qos_limits_at(one_per_second(), NEVER);
    assert_eq!(rig.device.qos_limits(), one_per_second());
    let mut memory = Vec::new();
    let bytes = payload(&mut memory, 512, 0);
    for lba in 0..5 {
        rig.submit(with_payload(Opcode::Read, lba, 1, bytes));
    }
    // Unmap is under no limit.
    rig.submit(bare(Opcode::Unmap, 60, 1, 1));
    assert_eq!(rig.script.end_all(), 2);
    assert_eq!(rig.poll().len(), 2);
    assert_eq!(rig.poll(), []);
    assert_eq!(rig.channel.outstanding(), 4);
    rig.device.set_qos_limits_at(QosLimits::default(), NEVER);
    rig.poll();
    let order: Vec<u64> = rig.script.held().iter().map(|held| held.1.0).collect();
    assert_eq!(order, [1, 2, 3, 4]);
    rig.script.end_all();
    assert_eq!(rig.poll().len(), 4);
}

#[test]
fn channels_share_the_limit_of_the_device() {
    let mut rig = Rig::new(small_info(64));
    let mut other = rig.device.open_channel(&rig.cx, 8).unwrap();
    rig.device.set_qos_limits_at(one_per_second(), NEVER);
    let mut memory = Vec::new();
    let bytes = payload(&mut memory, 512, 0);
    rig.submit(with_payload(Opcode::Read, 0, 1, bytes));
    rig.submit(with_payload(Opcode::Read, 1, 1, bytes));
    assert_eq!(other.submit(&mut [with_payload(Opcode::Read, 2, 1, bytes)]), 1);
    assert_eq!(rig.script.held().len(), 1);
}

#[test]
fn written_zeros_are_paid_for_part_by_part() {
    let mut info = small_info(4096);
    info.native = OpcodeSet::READ_WRITE;
    let mut rig = Rig::new(info);
    let limits = QosLimits { w_mbytes_per_sec: 1, ..QosLimits::default() };
    rig.device.set_qos_limits_at(limits, NEVER);
    rig.submit(bare(Opcode::WriteZeroes, 0, 2048, 7));
    assert_eq!(rig.script.held().len(), 1, "256 KiB, then wait");
    rig.device.set_qos_limits_at(QosLimits::default(), NEVER);
    rig.poll();
    assert_eq!(rig.script.held().len(), 4);
    rig.script.end_all();
    assert_eq!(rig.poll(), [(7, Status::SUCCESS)]);
}

#[test]
fn a_closing_device_ends_what_waits_and_lets_the_rest_finish() {
    let mut rig = Rig::new(poor_info(256));
    let mut memory = Vec::new();
    let bytes = payload(&mut memory, 16 * 512, 0);
    rig.submit(bare(Opcode::Unmap, 0, 200, 1));
    rig.submit(with_payload(Opcode::Read, 0, 8, &mut bytes[..4096]));
    rig.device.set_qos_limits_at(one_per_second(), NEVER);
    rig.submit(with_payload(Opcode::Read, 0, 1, &mut bytes[..512]));
    rig.submit(with_payload(Opcode::Read, 1, 1, &mut bytes[..512]));
    rig.device.start_closing();
    rig.submit(bare(Opcode::Flush, 0, 0, 9));
    let mut done = rig.poll();
    for _ in 0..100 {
        rig.script.end_all();
        done.extend(rig.poll());
    }
    done.sort_by_key(|&(token, status)| (token, status));
    let gone = Status::INVALID_NAMESPACE;
    assert_eq!(
        done,
        [(1, Status::SUCCESS), (7, Status::SUCCESS), (7, Status::SUCCESS), (7, gone), (9, gone)]
    );
    assert_eq!(rig.channel.outstanding(), 0);
    assert!(rig.device.open_channel(&rig.cx, 8).is_err());
}

fn compare_and_write(lba: u64, old: &[u8], new: &[u8], memory: &mut Vec<u8>) -> Request {
    let bytes = payload(memory, old.len() + new.len(), 0);
    bytes[..old.len()].copy_from_slice(old);
    bytes[old.len()..].copy_from_slice(new);
    with_payload(Opcode::CompareAndWrite, lba, (old.len() / 512) as u32, bytes)
}

#[test]
fn compare_and_write_writes_when_equal() {
    let mut rig = Rig::new(poor_info(256));
    let mut memory = Vec::new();
    let (zeros, ones) = (vec![0; 20 * 512], vec![1; 20 * 512]);
    assert_eq!(rig.run(compare_and_write(10, &zeros, &ones, &mut memory)), Status::SUCCESS);
    assert!(rig.script.memory()[10 * 512..30 * 512].iter().all(|&byte| byte == 1));
    let request = compare_and_write(10, &zeros, &ones, &mut memory);
    assert_eq!(rig.run(request), Status::COMPARE_FAILURE);
    assert_eq!(rig.device.supported().without(Opcode::NvmeIo), OpcodeSet::BLOCK);
}

#[test]
fn compare_and_write_keeps_out_writes_of_other_channels() {
    let mut rig = Rig::new(poor_info(64));
    let mut other = rig.device.open_channel(&rig.cx, 8).unwrap();
    let mut completions = Completions::with_capacity(16);
    let (mut memory, mut plain, mut late) = (Vec::new(), Vec::new(), Vec::new());
    // A write that is plain, since nobody has used compare-and-write yet.
    let bytes = payload(&mut plain, 512, 0);
    bytes.fill(5);
    assert_eq!(other.submit(&mut [with_payload(Opcode::Write, 3, 1, bytes)]), 1);
    let (zeros, ones) = ([0; 512], [1; 512]);
    rig.submit(compare_and_write(3, &zeros, &ones, &mut memory));
    assert_eq!(rig.script.held(), [(Opcode::Write, Lba(3), 1)], "waits for the write");
    assert_eq!(rig.poll(), []);
    rig.script.end_all();
    assert_eq!(poll(&mut other, &rig.cx, &mut completions), [(7, Status::SUCCESS)]);
    rig.poll();
    assert_eq!(rig.script.held(), [(Opcode::Read, Lba(3), 1)]);
    // Now a write from the other channel has to wait, one elsewhere and a read have not.
    let bytes = payload(&mut late, 512, 0);
    bytes.fill(6);
    let mut requests = [
        with_payload(Opcode::Write, 3, 1, bytes),
        with_payload(Opcode::Read, 3, 1, payload(&mut plain, 512, 0)),
    ];
    assert_eq!(other.submit(&mut requests), 2);
    for _ in 0..3 {
        poll(&mut other, &rig.cx, &mut completions);
    }
    assert_eq!(rig.script.held().iter().filter(|held| held.0 == Opcode::Write).count(), 0);
    for _ in 0..5 {
        rig.script.end_all();
        let done = rig.poll();
        assert!(done.is_empty() || done == [(7, Status::COMPARE_FAILURE)]);
        poll(&mut other, &rig.cx, &mut completions);
    }
    assert_eq!((rig.channel.outstanding(), other.outstanding()), (0, 0));
    assert!(rig.script.memory()[3 * 512..4 * 512].iter().all(|&byte| byte == 6));
}

#[test]
fn a_closing_device_ends_what_waits_for_a_range() {
    let mut rig = Rig::new(poor_info(64));
    let mut other = rig.device.open_channel(&rig.cx, 8).unwrap();
    let (mut memory, mut plain) = (Vec::new(), Vec::new());
    let bytes = payload(&mut plain, 512, 0);
    assert_eq!(other.submit(&mut [with_payload(Opcode::Write, 3, 1, bytes)]), 1);
    rig.submit(compare_and_write(3, &[0; 512], &[1; 512], &mut memory));
    rig.device.start_closing();
    assert_eq!(rig.poll(), []);
    rig.script.end_all();
    let done = poll(&mut other, &rig.cx, &mut Completions::with_capacity(1));
    assert_eq!(done, [(7, Status::SUCCESS)]);
    let mut done = rig.poll();
    done.extend(rig.poll());
    assert_eq!(done, [(7, Status::INVALID_NAMESPACE)]);
    assert!(rig.script.held().is_empty());
}

#[test]
fn concurrent_increments_are_all_counted() {
    // Each channel in turn tries to add one to the number in block 0, one step at a time.
    let (device, script) = scripted(poor_info(64), 8);
    let cx = context();
    let mut channels: Vec<_> = (0..3).map(|_| device.open_channel(&cx, 8).unwrap()).collect();
    let mut payloads = vec![Vec::new(); 3];
    let mut guesses = [0u64; 3];
    let mut completions = Completions::with_capacity(16);
    let mut successes = 0;
    for round in 0..600 {
        let which = (round * 7 / 3) % 3;
        let channel = &mut channels[which];
        if channel.outstanding() == 0 {
            let number = |value: u64| {
                let mut block = vec![0; 512];
                block[..8].copy_from_slice(&value.to_le_bytes());
                block
            };
            let (old, new) = (number(guesses[which]), number(guesses[which] + 1));
            let request = compare_and_write(0, &old, &new, &mut payloads[which]);
            assert_eq!(channel.submit(&mut [request]), 1);
        }
        if !script.held().is_empty() && round % 2 == 0 {
            script.end(round % script.held().len(), Status::SUCCESS);
        }
        match poll(channel, &cx, &mut completions)[..] {
            [(7, Status::SUCCESS)] => {
                successes += 1;
                guesses[which] += 1;
            }
            [(7, Status::COMPARE_FAILURE)] => guesses[which] += 1,
            [] => {}
            ref other => panic!("{other:?}"),
        }
    }
    for _ in 0..100 {
        script.end_all();
        for channel in &mut channels {
            let done = poll(channel, &cx, &mut completions);
            successes += done.iter().filter(|(_, status)| status.is_success()).count();
        }
    }
    let stored = u64::from_le_bytes(script.memory()[..8].try_into().unwrap());
    assert!(stored > 10, "{stored}");
    assert_eq!(stored, successes as u64);
}

#[test]
fn a_channel_may_be_dropped_with_requests_outstanding() {
    let mut rig = Rig::new(poor_info(256));
    let mut memory = Vec::new();
    let bytes = payload(&mut memory, 20 * 512, 1);
    rig.submit(with_payload(Opcode::Read, 0, 20, bytes));
    rig.submit(bare(Opcode::WriteZeroes, 0, 100, 1));
    let (zeros, ones) = ([0; 512], [1; 512]);
    let mut other = Vec::new();
    rig.submit(compare_and_write(0, &zeros, &ones, &mut other));
    let Rig { cx, device, channel, .. } = rig;
    drop(channel);
    assert_eq!(device.open_channels(), 0);
    assert_eq!(cx.pool().stats().in_use, 0);
    // Nobody is left who could hold up a new one.
    let mut channel = device.open_channel(&cx, 8).unwrap();
    assert_eq!(channel.submit(&mut [bare(Opcode::WriteZeroes, 0, 1, 1)]), 1);
}

#[test]
fn completions_that_find_no_room_come_later() {
    let mut rig = Rig::new(poor_info(64));
    rig.script.end_at_once();
    let mut requests: Vec<_> = (0..8).map(|t| bare(Opcode::Unmap, t, 9, t)).collect();
    assert_eq!(rig.channel.submit(&mut requests), 8);
    assert_eq!(rig.channel.submit(&mut [bare(Opcode::Unmap, 0, 9, 9)]), 0, "no room");
    let mut tokens = Vec::new();
    for _ in 0..100 {
        rig.completions.clear();
        rig.completions.set_limit(1);
        rig.channel.poll(&mut rig.completions);
        tokens.extend(rig.completions.as_slice().iter().map(|done| done.token));
    }
    tokens.sort_unstable();
    assert_eq!(tokens, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn counters_and_their_resets() {
    let mut rig = Rig::new(small_info(64));
    let mut memory = Vec::new();
    let bytes = payload(&mut memory, 4096, 0);
    rig.run(with_payload(Opcode::Read, 0, 8, bytes));
    rig.run(with_payload(Opcode::Write, 0, 8, bytes));
    rig.run(bare(Opcode::Unmap, 0, 2, 7));
    rig.run(bare(Opcode::Flush, 0, 0, 7));
    rig.run(bare(Opcode::Unmap, 0, 65, 7));
    let geometry = rig.device.geometry();
    let stat = rig.device.iostat();
    let seen = |class| (stat.class(class).ops, stat.bytes(class, geometry));
    assert_eq!(seen(OpClass::Read), (1, 4096));
    assert_eq!(seen(OpClass::Write), (1, 4096));
    assert_eq!(seen(OpClass::Unmap), (1, 1024));
    assert_eq!(seen(OpClass::Other), (1, 0));
    let read = *stat.class(OpClass::Read);
    assert!(read.latency_ticks > 0 && read.latency_ticks == read.latency_ticks_max);
    assert_eq!(rig.device.iostat_per_channel(), [(0, stat.clone())]);

    rig.device.reset_iostat(ResetMode::None);
    assert_eq!(rig.device.iostat(), stat);
    rig.device.reset_iostat(ResetMode::Error);
    assert!(rig.device.iostat().errors.is_empty());
    assert_eq!(rig.device.iostat().classes, stat.classes);
    // Extremes start over at once, also before the channel has noticed.
    rig.device.reset_iostat(ResetMode::MaxMin);
    let class = *rig.device.iostat().class(OpClass::Read);
    assert_eq!((class.ops, class.latency_ticks_max), (1, 0));
    assert_eq!(class.latency_ticks_min, u64::MAX);
    rig.device.reset_iostat(ResetMode::All);
    assert_eq!(rig.device.iostat(), crate::bdev::IoStat::default());
    rig.run(with_payload(Opcode::Read, 0, 8, bytes));
    let class = *rig.device.iostat().class(OpClass::Read);
    assert!(class.ops == 1 && class.latency_ticks_max == class.latency_ticks);
    // A channel that closes leaves its counters to the device.
    let Rig { device, channel, .. } = rig;
    drop(channel);
    assert_eq!(device.iostat().class(OpClass::Read).ops, 1);
}

#[test]
fn histograms_record_what_was_asked_for() {
    let mut rig = Rig::new(small_info(64));
    let mut memory = Vec::new();
    let bytes = payload(&mut memory, 512, 0);
    assert!(rig.device.histogram().is_none());
    rig.run(with_payload(Opcode::Read, 0, 1, bytes));
    let reads = OpcodeSet::EMPTY.with(Opcode::Read);
    let options = HistogramOptions { opcodes: reads, ..HistogramOptions::default() };
    let layout = HistogramLayout::new(&options, 1_000_000_000).unwrap();
    rig.device.set_histogram(Some((layout, options)));
    rig.run(with_payload(Opcode::Read, 0, 1, bytes));
    rig.run(with_payload(Opcode::Write, 0, 1, bytes));
    let mut other = rig.device.open_channel(&rig.cx, 8).unwrap();
    other.submit(&mut [with_payload(Opcode::Read, 0, 1, bytes)]);
    rig.script.end_all();
    poll(&mut other, &rig.cx, &mut Completions::with_capacity(1));
    assert_eq!(rig.device.histogram().unwrap().total(), 2);
    drop(other);
    assert_eq!(rig.device.histogram().unwrap().total(), 2, "closed channels count");
    rig.device.set_histogram(Some((layout, options)));
    assert_eq!(rig.device.histogram().unwrap().total(), 0, "enabled again, from zero");
    rig.device.disable_histogram();
    rig.run(with_payload(Opcode::Read, 0, 1, bytes));
    assert!(rig.device.histogram().is_none() && rig.device.histogram_options().is_none());
}
