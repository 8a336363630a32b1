//! Buffers for one reactor, by size class, carved out of registered regions.
//!
//! A pool belongs to one reactor and is never shared, so taking and giving back a buffer is a push
//! or pop on a free list. It grows a region at a time and gives memory back only when it is dropped:
//! a device never sees a region of a pool come and go under load.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::page::{HUGE_PAGE_SIZE, HugePages};
use super::region::Region;
use super::registry::{RegionId, RegionView, Registry};
use super::segment::Segment;
use super::source::{RegionOptions, Sharing, Source};
use crate::base::{ByteCount, Error, ErrorKind, Result};

/// Sizes of the classes, in bytes. Each is a multiple of the largest memory page that NVMe and
/// O_DIRECT commonly ask for (4 KiB), and buffers are aligned to 4 KiB at least.
const CLASS_SIZES: [usize; 6] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20];

const _: () = assert!(CLASS_SIZES[CLASS_SIZES.len() - 1] <= HUGE_PAGE_SIZE);

/// How a pool gets its memory.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// Huge pages or not.
    pub huge_pages: HugePages,
    /// Whether other processes can be given the memory.
    pub sharing: Sharing,
    /// NUMA node that the memory should lie on; a reactor's pool gets its core's unless told otherwise.
    pub numa_node: Option<u32>,
    /// Where the memory comes from.
    pub source: Source,
    /// By how much it grows at a time.
    pub grow: ByteCount,
    /// How much memory it may take in all.
    pub max: ByteCount,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            huge_pages: HugePages::Try,
            sharing: Sharing::WhereFree,
            numa_node: None,
            source: Source::System,
            grow: ByteCount(4 << 20),
            max: ByteCount(1 << 30),
        }
    }
}

/// A pool of such memory.
impl From<RegionOptions> for PoolOptions {
    fn from(memory: RegionOptions) -> PoolOptions {
        let RegionOptions { huge_pages, sharing, numa_node, source } = memory;
        let default = PoolOptions::default();
        // What DPDK says of a block stands in front of it, in a huge page that is lost to others: fewer blocks.
        let grow = match source {
            Source::System => default.grow,
            #[cfg(feature = "dpdk")]
            Source::Dpdk(_) => ByteCount(16 << 20),
        };
        PoolOptions { huge_pages, sharing, numa_node, source, grow, ..default }
    }
}

impl PoolOptions {
    /// What the pool's regions are like.
    pub fn region(&self) -> RegionOptions {
        RegionOptions {
            huge_pages: self.huge_pages,
            sharing: self.sharing,
            numa_node: self.numa_node,
            source: self.source,
        }
    }
}

/// What a pool holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Memory taken from the system.
    pub reserved: ByteCount,
    /// Buffers given out and not back yet.
    pub in_use: u64,
    /// Buffers given out since the start.
    pub taken: u64,
    /// Requests that were refused because `max` was reached or the system had no memory.
    pub refused: u64,
}

/// A reactor's buffers. Cloning gives another handle to the same pool.
#[derive(Clone, Debug)]
pub struct Pool(Rc<Inner>);

/// Buffers of one size that nobody has.
type FreeList = Vec<(NonNull<u8>, RegionId)>;

#[derive(Debug)]
struct Inner {
    registry: Arc<Registry>,
    options: PoolOptions,
    free: [RefCell<FreeList>; CLASS_SIZES.len()],
    regions: RefCell<Vec<RegionView>>,
    /// The part of the newest region that no class has yet.
    fresh: Cell<Option<(NonNull<u8>, usize, RegionId)>>,
    stats: Cell<PoolStats>,
    /// Pools for other NUMA nodes that were made from this one, while somebody has them.
    elsewhere: RefCell<Vec<(u32, Weak<Inner>)>>,
}

impl Pool {
    /// An empty pool; it takes memory when the first buffer is asked for.
    pub fn new(registry: Arc<Registry>, options: PoolOptions) -> Pool {
        Pool(Rc::new(Inner {
            registry,
            options,
            free: Default::default(),
            regions: RefCell::default(),
            fresh: Cell::new(None),
            stats: Cell::default(),
            elsewhere: RefCell::default(),
        }))
    }

    /// The pool for memory on NUMA node `node`: this one, if it is there already or no node is named; else a
    /// pool like this one, with a limit of its own. For what a device on another node than the reactor's core reads and
    /// writes all the time, such as the queues of a drive.
    #[must_use]
    pub fn near(&self, node: Option<u32>) -> Pool {
        let Some(node) = node.filter(|_| node != self.0.options.numa_node) else {
            return self.clone();
        };
        let mut elsewhere = self.0.elsewhere.borrow_mut();
        elsewhere.retain(|(_, pool)| pool.strong_count() > 0);
        let known = elsewhere.iter().find(|(at, _)| *at == node);
        if let Some(inner) = known.and_then(|(_, pool)| pool.upgrade()) {
            return Pool(inner);
        }
        let options = PoolOptions { numa_node: Some(node), ..self.0.options };
        let pool = Pool::new(Arc::clone(&self.0.registry), options);
        elsewhere.push((node, Rc::downgrade(&pool.0)));
        pool
    }

    /// A buffer of at least `length` bytes, aligned to 4 KiB, of unspecified contents. It is of the smallest class that holds
    /// them, unless there is no more memory for that.
    ///
    /// # Errors
    /// `Invalid` for a length of zero or beyond the largest class (2 MiB); `NoMemory` when the pool is at
    /// its limit or the system has no memory.
    pub fn take(&self, length: usize) -> Result<Buffer> {
        let class =
            CLASS_SIZES.iter().position(|&size| length <= size && length > 0).ok_or_else(|| {
                Error::invalid(format!("a buffer of {length} bytes (1 to 2 MiB is possible)"))
            })?;
        let inner = &self.0;
        let recycled = inner.free[class].borrow_mut().pop();
        let ((address, region), class) = match recycled {
            Some(free) => (free, class),
            None => inner.carve_or_longer(class).inspect_err(|_| {
                inner.count(|stats| stats.refused += 1);
            })?,
        };
        inner.count(|stats| {
            stats.taken += 1;
            stats.in_use += 1;
        });
        Ok(Buffer::new(Rc::clone(inner), address, CLASS_SIZES[class] as u32, region, class as u8))
    }

    /// What the pool holds and has done.
    pub fn stats(&self) -> PoolStats {
        self.0.stats.get()
    }

    /// The registry that the pool's regions are in.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.0.registry
    }

    /// How the pool gets its memory.
    pub fn options(&self) -> PoolOptions {
        self.0.options
    }
}

impl Inner {
    fn count(&self, change: impl FnOnce(&mut PoolStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    /// A new buffer of this class; where there is no memory for one, a longer one that nobody has. Memory stays with its
    /// class: without this, who needs short buffers could starve beside any number of long ones.
    #[cold]
    fn carve_or_longer(&self, class: usize) -> Result<((NonNull<u8>, RegionId), usize)> {
        let carved = self.carve(CLASS_SIZES[class]).map(|buffer| (buffer, class));
        carved.or_else(|error| {
            let mut longer = class + 1..CLASS_SIZES.len();
            longer
                .find_map(|class| Some((self.free[class].borrow_mut().pop()?, class)))
                .ok_or(error)
        })
    }

    fn carve(&self, size: usize) -> Result<(NonNull<u8>, RegionId)> {
        // Aligning each buffer to its own size keeps one within a huge page, so that a driver
        // that maps page by page sees it contiguous.
        let fits = self.fresh.get().and_then(|(start, left, region)| {
            let skip = start.as_ptr().align_offset(size);
            (skip.checked_add(size)? <= left).then_some((start, left, region, skip))
        });
        let (start, left, region, skip) = match fits {
            Some(fits) => fits,
            None => {
                let (start, length, region) = self.grow(size)?;
                (start, length, region, 0)
            }
        };
        // SAFETY: `skip + size <= left`, the bytes that are left from `start` in its region.
        let (buffer, rest) = unsafe { (start.add(skip), start.add(skip + size)) };
        self.fresh.set(Some((rest, left - skip - size, region)));
        Ok((buffer, region))
    }

    fn grow(&self, at_least: usize) -> Result<(NonNull<u8>, usize, RegionId)> {
        let length = at_least.max(self.options.grow.0 as usize);
        if self.stats.get().reserved.0 + length as u64 > self.options.max.0 {
            return Err(Error::new(
                ErrorKind::NoMemory,
                format!("the reactor's buffer pool is at its limit of {} bytes", self.options.max),
            ));
        }
        let region = Arc::new(Region::allocate(length, self.options.region())?);
        let (start, length) = (region.start(), region.len());
        let view = self.registry.add(region)?;
        let id = view.id;
        self.regions.borrow_mut().push(view);
        self.count(|stats| stats.reserved = stats.reserved + ByteCount(length as u64));
        Ok((start, length, id))
    }

    fn give_back(&self, address: NonNull<u8>, region: RegionId, class: u8) {
        self.free[usize::from(class)].borrow_mut().push((address, region));
        self.count(|stats| stats.in_use -= 1);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Every buffer holds the pool, so none is out.
        for view in self.regions.get_mut() {
            self.registry.remove(view.id);
        }
    }
}

/// A run of DMA-able memory, owned; goes back to its pool when dropped.
///
/// While a request that carries a [`Segment`] of it is outstanding the owner neither drops it nor
/// looks at it: [`Buffer::segment`] is `unsafe` for this reason.
#[derive(Debug)]
pub struct Buffer {
    pool: Rc<Inner>,
    address: NonNull<u8>,
    length: u32,
    region: RegionId,
    class: u8,
}

impl Buffer {
    fn new(
        pool: Rc<Inner>,
        address: NonNull<u8>,
        length: u32,
        region: RegionId,
        class: u8,
    ) -> Buffer {
        Buffer { pool, address, length, region, class }
    }

    /// Where it starts; aligned to 4 KiB at least.
    #[inline]
    pub fn address(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Length in bytes: that of its size class.
    #[inline]
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Never: a buffer holds at least 4 KiB.
    #[inline]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The first `length` bytes as a segment for a request.
    ///
    /// # Safety
    /// The buffer is neither dropped nor looked at between the submission and the completion of
    /// a request that carries the segment (an opcode that only reads it allows looking).
    ///
    /// # Panics
    /// When the buffer is shorter than `length`.
    #[inline]
    pub unsafe fn segment(&self, length: u32) -> Segment {
        assert!(length <= self.length);
        // SAFETY: the memory is ours until drop; the rest is the caller's promise.
        unsafe { Segment::new(self.address, length, self.region) }
    }

    /// The bytes. Initially whatever the last user left, zeros at first.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: pool memory is zeroed at mmap and never unmapped before the buffer is dropped; by the
        // contract of `segment` no device writes to it now.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.len()) }
    }

    /// The bytes, to change.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; and the buffer is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.len()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(self.address, self.region, self.class);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(max: u64) -> Pool {
        let options = PoolOptions {
            huge_pages: HugePages::Never,
            grow: ByteCount(2 << 20),
            max: ByteCount(max),
            ..PoolOptions::default()
        };
        Pool::new(Registry::new(), options)
    }

    #[test]
    fn buffers_are_aligned_distinct_and_reused() {
        let pool = pool(8 << 20);
        let a = pool.take(1).unwrap();
        let b = pool.take(4096).unwrap();
        let c = pool.take(200_000).unwrap();
        assert_eq!((a.len(), b.len(), c.len()), (4096, 4096, 256 << 10));
        assert_ne!(a.address(), b.address());
        for buffer in [&a, &b, &c] {
            assert_eq!(buffer.address().align_offset(4096), 0);
        }
        let address = a.address();
        drop(a);
        assert_eq!(pool.take(10).unwrap().address(), address);
    }

    #[test]
    fn the_limit_holds_and_says_so() {
        let pool = pool(2 << 20);
        let _all = pool.take(2 << 20).unwrap();
        let error = pool.take(4096).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoMemory);
        assert_eq!(pool.stats().refused, 1);
        assert!(pool.take(0).is_err());
        assert!(pool.take((2 << 20) + 1).is_err());
    }

    #[test]
    fn a_longer_buffer_serves_where_there_is_no_memory_for_a_short_one() {
        let pool = pool(2 << 20);
        let long: Vec<Buffer> = (0..8).map(|_| pool.take(256 << 10).unwrap()).collect();
        assert!(pool.take(4096).is_err());
        let address = long[7].address();
        drop(long);
        let short = pool.take(4096).unwrap();
        assert_eq!((short.address(), short.len()), (address, 256 << 10));
        drop(short);
        let long: Vec<Buffer> = (0..8).map(|_| pool.take(256 << 10).unwrap()).collect();
        assert_eq!(pool.stats().in_use, long.len() as u64, "it went back to its class");
    }

    #[test]
    fn a_pool_near_a_node_is_shared_while_it_is_used() {
        let own = pool(4 << 20);
        assert!(Rc::ptr_eq(&own.near(None).0, &own.0));
        let other = own.near(Some(3));
        assert_eq!(other.options().numa_node, Some(3));
        assert!(Rc::ptr_eq(&other.near(Some(3)).0, &other.0), "there already");
        assert!(Rc::ptr_eq(&own.near(Some(3)).0, &other.0), "one for each node");
        assert!(!Rc::ptr_eq(&own.near(Some(2)).0, &other.0));
        // A buffer alone keeps it.
        let buffer = own.near(Some(4)).take(1).unwrap();
        assert_eq!(own.near(Some(4)).stats().in_use, 1);
        drop(buffer);
        assert_eq!(own.near(Some(4)).stats(), PoolStats::default(), "a new one");
        assert_eq!(own.stats(), PoolStats::default());
    }

    #[test]
    fn regions_leave_the_registry_with_the_pool() {
        let pool = pool(8 << 20);
        let registry = Arc::clone(pool.registry());
        let buffer = pool.take(1).unwrap();
        drop(pool);
        let mut subscription = registry.subscribe();
        let mut seen = 0;
        subscription.catch_up(|_| (), |_| seen += 1);
        assert_eq!(seen, 1, "the buffer keeps its pool");
        drop(buffer);
        subscription.catch_up(|_| seen -= 1, |_| ());
        assert_eq!(seen, 0);
    }
}
