//! Bindings to the parts of DPDK that Weft uses: starting the environment abstraction layer (EAL), memory on huge pages
//! and its addresses, the list of PCI functions.
//!
//! Without the feature `link` the crate is empty and needs nothing installed. With it, the bindings are made at
//! build time against the headers that pkg-config finds. Names are DPDK's; its own manual describes them.

#[cfg(feature = "link")]
mod raw {
    #![allow(
        missing_docs,
        non_camel_case_types,
        non_snake_case,
        non_upper_case_globals,
        dead_code,
        unused_qualifications,
        clippy::all,
        clippy::undocumented_unsafe_blocks,
        reason = "made by bindgen"
    )]
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

#[cfg(feature = "link")]
pub use raw::*;

/// The error number that the last call of this thread into DPDK left.
#[cfg(feature = "link")]
pub fn rte_errno() -> i32 {
    // SAFETY: it reads a number in storage of the calling thread.
    unsafe { weft_rte_errno() }
}

/// Clears that number: some functions of 22.11 give back what an earlier one left.
#[cfg(feature = "link")]
pub fn clear_rte_errno() {
    // SAFETY: it writes a number in storage of the calling thread.
    unsafe { weft_clear_rte_errno() }
}

/// DPDK's text for an error number, the system's or its own.
#[cfg(feature = "link")]
pub fn error_text(errno: i32) -> String {
    // SAFETY: any number is admitted; it gives back a string that stays until this thread's next call.
    let text = unsafe { std::ffi::CStr::from_ptr(rte_strerror(errno)) };
    text.to_string_lossy().into_owned()
}

#[cfg(all(test, feature = "link"))]
mod tests {
    use super::*;

    #[test]
    fn errors_have_texts() {
        assert_eq!(error_text(12), "Cannot allocate memory");
        assert!(!error_text(100_000).is_empty());
        assert_eq!(rte_errno(), 0);
        clear_rte_errno();
    }

    #[test]
    fn the_library_is_the_one_of_the_headers() {
        // SAFETY: it gives back a constant string.
        let version = unsafe { std::ffi::CStr::from_ptr(rte_version()) };
        assert!(version.to_string_lossy().starts_with("DPDK "), "{version:?}");
    }
}
