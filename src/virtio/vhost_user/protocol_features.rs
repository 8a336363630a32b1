//! Extensions of the protocol that both sides agree on.

use std::fmt;

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl ProtocolFeatures {
            $($(#[$doc])* pub const $name: ProtocolFeatures = ProtocolFeatures(1 << $bit);)*

            const NAMES: &[(ProtocolFeatures, &str)] =
                &[$((ProtocolFeatures::$name, stringify!($name))),*];
        }
    };
}

/// A set of protocol features ("Protocol features").
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(transparent)]
pub struct ProtocolFeatures(pub u64);

features! {
    /// The back end tells how many virtqueues there may be.
    MQ = 0;
    /// The log of dirty pages is in shared memory.
    LOG_SHMFD = 1;
    /// Any request can be acknowledged.
    REPLY_ACK = 3;
    /// The back end can ask the front end.
    BACKEND_REQ = 5;
    /// The configuration space is read and written by messages.
    CONFIG = 9;
    /// Descriptors can go with what the back end asks.
    BACKEND_SEND_FD = 10;
    /// Requests in flight are tracked in shared memory.
    INFLIGHT_SHMFD = 12;
    /// The device can be reset.
    RESET_DEVICE = 13;
    /// Notifications may be messages.
    INBAND_NOTIFICATIONS = 14;
    /// Memory comes and goes by regions.
    CONFIGURE_MEM_SLOTS = 15;
    /// The device status is told.
    STATUS = 16;
}

impl ProtocolFeatures {
    /// None.
    pub const NONE: ProtocolFeatures = ProtocolFeatures(0);

    /// Whether all of `features` are in the set.
    pub const fn has(self, features: ProtocolFeatures) -> bool {
        self.0 & features.0 == features.0
    }

    /// This set and `features`.
    #[must_use]
    pub const fn with(self, features: ProtocolFeatures) -> ProtocolFeatures {
        ProtocolFeatures(self.0 | features.0)
    }

    /// This set without `features`.
    #[must_use]
    pub const fn without(self, features: ProtocolFeatures) -> ProtocolFeatures {
        ProtocolFeatures(self.0 & !features.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, features: ProtocolFeatures) -> ProtocolFeatures {
        ProtocolFeatures(self.0 & features.0)
    }
}

impl fmt::Debug for ProtocolFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = *self;
        let mut set = f.debug_set();
        for &(feature, name) in ProtocolFeatures::NAMES {
            if self.has(feature) {
                set.entry(&format_args!("{name}"));
                rest = rest.without(feature);
            }
        }
        if rest != ProtocolFeatures::NONE {
            set.entry(&format_args!("{:#x}", rest.0));
        }
        set.finish()
    }
}
