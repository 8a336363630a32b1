//! On which NUMA node memory lies.

use std::io;
use std::ptr::NonNull;

use tracing::debug;

/// Most nodes that the kernel has (`CONFIG_NODES_SHIFT` is 10 at most).
const NODES_MAX: u32 = 1024;
const WORD_BITS: u32 = u64::BITS;
// Of get_mempolicy(2): the node rather than the policy; of an address rather than of the thread.
const MPOL_F_NODE: libc::c_ulong = 1;
const MPOL_F_ADDR: libc::c_ulong = 2;

/// Asks for memory that has not been touched yet to lie on `node`. What the system refuses (a container, a node
/// that there is not) is logged as a detail: memory elsewhere is slower, nothing else.
///
/// The node is preferred, and no more: bound to it, a page that the node has not got would end the process.
pub(super) fn prefer(start: NonNull<u8>, length: usize, node: u32) {
    if let Err(error) = try_prefer(start, length, node) {
        debug!(node, length, %error, "memory cannot be placed on a NUMA node");
    }
}

fn try_prefer(start: NonNull<u8>, length: usize, node: u32) -> io::Result<()> {
    if node >= NODES_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut mask = [0u64; (NODES_MAX / WORD_BITS) as usize];
    mask[(node / WORD_BITS) as usize] = 1 << (node % WORD_BITS);
    // The kernel reads one bit less than it is told.
    let bits = libc::c_ulong::from(NODES_MAX + 1);
    // SAFETY: it reads `mask`, which has that many bits, and changes no memory's contents.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            start.as_ptr(),
            length,
            libc::MPOL_PREFERRED,
            mask.as_ptr(),
            bits,
            0,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The node that the page at `address` lies on; touches the page. `None` where the system does not tell.
pub(super) fn node_of(address: NonNull<u8>) -> Option<u32> {
    let mut node: libc::c_int = -1;
    // SAFETY: it writes `node`; a null mask of no bits is not written.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut node,
            std::ptr::null_mut::<libc::c_ulong>(),
            0,
            address.as_ptr(),
            MPOL_F_NODE | MPOL_F_ADDR,
        )
    };
    if result == 0 { u32::try_from(node).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The policy of the memory at `address`: its mode, and the first word of its nodes.
    fn policy(address: NonNull<u8>) -> Option<(i32, u64)> {
        let mut mode: libc::c_int = -1;
        let mut mask = [0u64; (NODES_MAX / WORD_BITS) as usize];
        // SAFETY: it writes `mode` and `mask`, which has that many bits.
        let result = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut mode,
                mask.as_mut_ptr(),
                libc::c_ulong::from(NODES_MAX),
                address.as_ptr(),
                MPOL_F_ADDR,
            )
        };
        (result == 0).then_some((mode, mask[0]))
    }

    fn page() -> NonNull<u8> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let page = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                4096,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
            )
        };
        NonNull::new(page.unwrap().cast()).unwrap()
    }

    #[test]
    fn a_preference_reaches_the_kernel() {
        let (here, elsewhere) = (page(), page());
        let Some(before) = policy(here) else {
            println!("skipped: this system does not tell of memory policies");
            return;
        };
        let placed = try_prefer(here, 4096, 0);
        prefer(elsewhere, 4096, NODES_MAX - 1);
        prefer(elsewhere, 4096, NODES_MAX);
        match placed.map_err(|error| error.raw_os_error()) {
            Ok(()) => {
                assert_eq!(policy(here), Some((libc::MPOL_PREFERRED, 1)));
                assert_eq!(node_of(here), Some(0));
            }
            Err(Some(libc::EPERM | libc::ENOSYS)) => {
                println!("skipped: this system does not let memory be placed");
            }
            Err(other) => panic!("{other:?}"),
        }
        assert_eq!(policy(elsewhere), Some(before), "a node that is not there changes nothing");
        for page in [here, elsewhere] {
            // SAFETY: the mapping made above, unmapped once.
            unsafe { rustix::mm::munmap(page.as_ptr().cast(), 4096) }.unwrap();
        }
    }
}
