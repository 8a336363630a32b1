//! Every limit in one place, with the assertions that relate them.

/// Smallest logical block, in bytes.
pub const BLOCK_SIZE_MIN: u64 = 512;
/// Largest logical block, in bytes.
pub const BLOCK_SIZE_MAX: u64 = 65_536;

/// Most reactors in one process: one core each.
pub const REACTORS_MAX: usize = 256;

/// Deepest queue that can be opened on a bdev, in requests.
pub const QUEUE_DEPTH_MAX: u32 = 4096;
/// Queue depth where the opener names none, in requests.
pub const QUEUE_DEPTH_DEFAULT: u32 = 256;

/// Most segments in the scatter list of one request.
pub const SEGMENTS_MAX: usize = 256;

/// Longest data transfer of one request, in bytes; longer ones are refused.
pub const TRANSFER_MAX: u64 = 32 << 20;

/// Legs of a mirror.
pub const MIRROR_LEGS_MIN: usize = 2;
/// Legs of a mirror.
pub const MIRROR_LEGS_MAX: usize = 4;

/// Children of a stripe or a linear bdev.
pub const CHILDREN_MAX: usize = 64;

/// Most entries in the regions table of the memory registry.
pub const REGIONS_MAX: usize = 4096;
/// Most mappings at once that others can take away: regions of guest memory, what else a front end shares, and windows
/// of device registers.
pub const WATCHED_MAPPINGS_MAX: usize = 8192;

/// Longest name of a bdev, in bytes.
pub const NAME_LENGTH_MAX: usize = 255;

/// Longest JSON-RPC request (one object or batch), in bytes.
pub const RPC_REQUEST_SIZE_MAX: usize = 4 << 20;
/// Deepest nesting of a JSON-RPC request.
pub const RPC_REQUEST_DEPTH_MAX: usize = 64;
/// Most requests of one RPC client in flight; further bytes stay in the socket.
pub const RPC_REQUESTS_IN_FLIGHT_MAX: usize = 1024;
/// Answers, in bytes, that one RPC client may leave unread before nothing more is read from it.
pub const RPC_ANSWERS_PENDING_MAX: usize = 1 << 20;
/// Most RPC clients at once.
pub const RPC_CLIENTS_MAX: usize = 128;

const _: () = {
    assert!(BLOCK_SIZE_MIN.is_power_of_two() && BLOCK_SIZE_MAX.is_power_of_two());
    assert!(TRANSFER_MAX.is_multiple_of(BLOCK_SIZE_MAX));
    // A transfer in blocks of the smallest size fits in a request's 32-bit block count.
    assert!(TRANSFER_MAX / BLOCK_SIZE_MIN <= u32::MAX as u64);
    // A segment's length is 32 bits, its count 16.
    assert!(TRANSFER_MAX <= u32::MAX as u64);
    assert!(SEGMENTS_MAX <= u16::MAX as usize);
    assert!(QUEUE_DEPTH_DEFAULT <= QUEUE_DEPTH_MAX);
    assert!(MIRROR_LEGS_MIN >= 2 && MIRROR_LEGS_MAX <= CHILDREN_MAX);
    assert!(WATCHED_MAPPINGS_MAX > REGIONS_MAX);
    // A child index is a byte in several slabs.
    assert!(CHILDREN_MAX <= 256);
};
