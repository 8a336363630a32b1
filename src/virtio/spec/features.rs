//! Feature bits: what device and driver agree on.

use std::fmt;

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        impl Features {
            $($(#[$doc])* pub const $name: Features = Features(1 << $bit);)*

            /// Bits that have a name here, and the name.
            const NAMES: &[(Features, &str)] = &[$((Features::$name, $text)),*];
        }
    };
}

/// A set of feature bits (VIRTIO 2.2).
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(transparent)]
pub struct Features(pub u64);

features! {
    /// `size_max` of the configuration space holds (5.2.3).
    BLOCK_SIZE_MAX = 1, "SIZE_MAX";
    /// `seg_max` of the configuration space holds (5.2.3).
    BLOCK_SEG_MAX = 2, "SEG_MAX";
    /// The device cannot be written (5.2.3).
    BLOCK_READ_ONLY = 5, "RO";
    /// `blk_size` of the configuration space holds (5.2.3).
    BLOCK_BLK_SIZE = 6, "BLK_SIZE";
    /// The device takes flushes (5.2.3).
    BLOCK_FLUSH = 9, "FLUSH";
    /// The topology of the configuration space holds (5.2.3).
    BLOCK_TOPOLOGY = 10, "TOPOLOGY";
    /// The driver can switch the write cache (5.2.3).
    BLOCK_CONFIG_WCE = 11, "CONFIG_WCE";
    /// There may be several virtqueues (5.2.3).
    BLOCK_MQ = 12, "MQ";
    /// The device takes discards (5.2.3).
    BLOCK_DISCARD = 13, "DISCARD";
    /// The device writes zeros without being sent them (5.2.3).
    BLOCK_WRITE_ZEROES = 14, "WRITE_ZEROES";
    /// The device erases beyond recovery (5.2.3).
    BLOCK_SECURE_ERASE = 16, "SECURE_ERASE";
    /// vhost-user: writes to guest memory are to be logged ("Migration").
    LOG_ALL = 26, "LOG_ALL";
    /// Descriptors may point to tables of descriptors (6).
    INDIRECT_DESC = 28, "INDIRECT_DESC";
    /// Both sides say at which index they want to hear (6).
    EVENT_IDX = 29, "EVENT_IDX";
    /// vhost-user: there are protocol features to agree on ("Feature bits").
    PROTOCOL_FEATURES = 30, "PROTOCOL_FEATURES";
    /// Not a legacy device (6).
    VERSION_1 = 32, "VERSION_1";
    /// Addresses are subject to translation by the platform (6).
    ACCESS_PLATFORM = 33, "ACCESS_PLATFORM";
    /// Packed virtqueues (6).
    RING_PACKED = 34, "RING_PACKED";
    /// Buffers are used in the order in which they were made available (6).
    IN_ORDER = 35, "IN_ORDER";
    /// Memory is accessed as by a device outside the machine (6).
    ORDER_PLATFORM = 36, "ORDER_PLATFORM";
    /// A queue can be reset alone (6).
    RING_RESET = 40, "RING_RESET";
}

impl Features {
    /// None.
    pub const NONE: Features = Features(0);

    /// Whether all of `features` are in the set.
    #[inline]
    pub const fn has(self, features: Features) -> bool {
        self.0 & features.0 == features.0
    }

    /// This set and `features`.
    #[must_use]
    pub const fn with(self, features: Features) -> Features {
        Features(self.0 | features.0)
    }

    /// This set, with `features` if `on`.
    #[must_use]
    pub const fn with_if(self, on: bool, features: Features) -> Features {
        if on { self.with(features) } else { self }
    }

    /// This set without `features`.
    #[must_use]
    pub const fn without(self, features: Features) -> Features {
        Features(self.0 & !features.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, features: Features) -> Features {
        Features(self.0 & features.0)
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = *self;
        let mut set = f.debug_set();
        for &(feature, name) in Features::NAMES {
            if self.has(feature) {
                set.entry(&format_args!("{name}"));
                rest = rest.without(feature);
            }
        }
        if rest != Features::NONE {
            set.entry(&format_args!("{:#x}", rest.0));
        }
        set.finish()
    }
}
