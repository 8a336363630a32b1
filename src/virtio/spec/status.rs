//! The device status field.

/// Device status (VIRTIO 2.1): how far a driver has brought a device, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct DeviceStatus(pub u8);

impl DeviceStatus {
    /// A reset device.
    pub const RESET: DeviceStatus = DeviceStatus(0);
    /// The driver has noticed the device.
    pub const ACKNOWLEDGE: DeviceStatus = DeviceStatus(1);
    /// It knows how to drive it.
    pub const DRIVER: DeviceStatus = DeviceStatus(2);
    /// It is set up: the device is live.
    pub const DRIVER_OK: DeviceStatus = DeviceStatus(4);
    /// Features are agreed on.
    pub const FEATURES_OK: DeviceStatus = DeviceStatus(8);
    /// The device met an error that only a reset ends.
    pub const DEVICE_NEEDS_RESET: DeviceStatus = DeviceStatus(64);
    /// The driver has given up.
    pub const FAILED: DeviceStatus = DeviceStatus(128);

    /// Whether all of `bits` are set.
    pub const fn has(self, bits: DeviceStatus) -> bool {
        self.0 & bits.0 == bits.0
    }

    /// These bits and `bits`.
    #[must_use]
    pub const fn with(self, bits: DeviceStatus) -> DeviceStatus {
        DeviceStatus(self.0 | bits.0)
    }
}
