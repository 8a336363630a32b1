//! What devices take for an address.

/// What devices are to be told as an address of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IovaMode {
    /// Its address in this process, which an IOMMU translates.
    Virtual,
    /// Its physical address.
    Physical,
}

impl IovaMode {
    /// As DPDK and its users call it.
    pub fn name(self) -> &'static str {
        match self {
            IovaMode::Virtual => "VA",
            IovaMode::Physical => "PA",
        }
    }
}
