//! Features, and the asynchronous events that some of them turn on.

/// Feature identifiers (Base Specification, section 5.27.1, figure 317).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureId;

impl FeatureId {
    /// Arbitration.
    pub const ARBITRATION: u8 = 0x01;
    /// Power Management.
    pub const POWER_MANAGEMENT: u8 = 0x02;
    /// LBA Range Type.
    pub const LBA_RANGE_TYPE: u8 = 0x03;
    /// Temperature Threshold.
    pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
    /// Error Recovery.
    pub const ERROR_RECOVERY: u8 = 0x05;
    /// Volatile Write Cache.
    pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
    /// Number of Queues.
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    /// Interrupt Coalescing.
    pub const INTERRUPT_COALESCING: u8 = 0x08;
    /// Interrupt Vector Configuration.
    pub const INTERRUPT_VECTOR: u8 = 0x09;
    /// Write Atomicity Normal.
    pub const WRITE_ATOMICITY: u8 = 0x0a;
    /// Asynchronous Event Configuration.
    pub const ASYNC_EVENTS: u8 = 0x0b;
    /// Autonomous Power State Transition.
    pub const AUTONOMOUS_POWER: u8 = 0x0c;
    /// Host Memory Buffer.
    pub const HOST_MEMORY_BUFFER: u8 = 0x0d;
    /// Timestamp.
    pub const TIMESTAMP: u8 = 0x0e;
    /// Keep Alive Timer.
    pub const KEEP_ALIVE_TIMER: u8 = 0x0f;
    /// Host Behavior Support.
    pub const HOST_BEHAVIOR: u8 = 0x16;
    /// I/O Command Set Profile.
    pub const COMMAND_SET_PROFILE: u8 = 0x19;
    /// Host Identifier.
    pub const HOST_IDENTIFIER: u8 = 0x81;
    /// Namespace Write Protection Config.
    pub const WRITE_PROTECTION: u8 = 0x84;
}

/// Which value of a feature Get Features returns (SEL, command dword 10 bits 10:8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureSelect {
    /// The current value.
    Current,
    /// The default.
    Default,
    /// The saved value.
    Saved,
    /// What can be done with the feature.
    Capabilities,
}

impl FeatureSelect {
    /// Command dword 10 of Get Features.
    pub const fn command_dword(self, feature: u8) -> u32 {
        let select = match self {
            FeatureSelect::Current => 0,
            FeatureSelect::Default => 1,
            FeatureSelect::Saved => 2,
            FeatureSelect::Capabilities => 3,
        };
        feature as u32 | select << 8
    }
}

/// Numbers of I/O queues (feature 07h, Base Specification, section 5.27.1.5), not 0's based. What the host asks for,
/// and what the controller grants, which may be more or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberOfQueues {
    /// I/O submission queues.
    pub submission: u32,
    /// I/O completion queues.
    pub completion: u32,
}

impl NumberOfQueues {
    /// The value 65535 is not allowed in a request.
    pub const MAX: u32 = 65535;

    /// Dword 11 of the command, or dword 0 of the completion. There is no way to say 0.
    pub const fn encode(self) -> u32 {
        zero_based(self.completion) << 16 | zero_based(self.submission)
    }

    /// From dword 0 of the completion, or dword 11 of the command.
    pub const fn decode(dword: u32) -> NumberOfQueues {
        NumberOfQueues { submission: (dword & 0xffff) + 1, completion: (dword >> 16) + 1 }
    }
}

const fn zero_based(count: u32) -> u32 {
    match count {
        0 => 0,
        1..=NumberOfQueues::MAX => count - 1,
        _ => NumberOfQueues::MAX - 1,
    }
}

/// Volatile Write Cache (feature 06h, Base Specification, section 5.27.1.4): bit 0, enabled (WCE).
pub const VOLATILE_WRITE_CACHE_ENABLED: u32 = 1 << 0;

/// Asynchronous Event Configuration (feature 0Bh, Base Specification, section 5.27.1.8): what is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AsyncEventConfiguration(pub u32);

impl AsyncEventConfiguration {
    /// SMART / Health critical warnings, all five that every controller knows (bits 4:0).
    pub const SMART_WARNINGS: u32 = 0x1f;
    /// Namespace Attribute Notices.
    pub const NAMESPACE_NOTICES: u32 = 1 << 8;
    /// Firmware Activation Notices.
    pub const FIRMWARE_NOTICES: u32 = 1 << 9;
    /// Telemetry Log Notices.
    pub const TELEMETRY_NOTICES: u32 = 1 << 10;
    /// Asymmetric Namespace Access Change Notices.
    pub const ANA_NOTICES: u32 = 1 << 11;

    /// Whether every bit of `mask` is set.
    pub const fn contains(self, mask: u32) -> bool {
        self.0 & mask == mask
    }
}

/// An asynchronous event (Base Specification, section 5.2.1): dword 0 of the completion of a request for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncEvent {
    /// What happened.
    pub kind: AsyncEventKind,
    /// The log page that tells more and, read, lets further events of the type through (LID).
    pub log_page: u8,
}

/// Type and information of an asynchronous event (figures 146 to 149).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsyncEventKind {
    /// Error status.
    Error(AsyncError),
    /// SMART / health status.
    Health(AsyncHealth),
    /// Notice.
    Notice(AsyncNotice),
    /// Specific to an I/O command set; the information.
    CommandSet(u8),
    /// Specific to the vendor; the information.
    Vendor(u8),
    /// Reserved type and information.
    Reserved(u8, u8),
}

/// Information of an error event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsyncError {
    /// The host wrote the doorbell of a queue that was not created.
    InvalidDoorbellRegister,
    /// The host wrote a value to a doorbell that cannot be.
    InvalidDoorbellValue,
    /// A diagnostic failed.
    DiagnosticFailure,
    /// A persistent internal error.
    PersistentInternal,
    /// A transient internal error.
    TransientInternal,
    /// A firmware image could not be loaded.
    FirmwareLoad,
    /// Another.
    Other(u8),
}

/// Information of a health event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsyncHealth {
    /// The reliability of the subsystem is compromised.
    Reliability,
    /// A temperature is beyond a threshold.
    Temperature,
    /// Spare capacity is below the threshold.
    Spare,
    /// Another.
    Other(u8),
}

/// Information of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsyncNotice {
    /// Namespaces were attached, detached, or their identify data changed.
    NamespaceAttribute,
    /// Firmware activation starts: command processing pauses.
    FirmwareActivation,
    /// The telemetry log changed.
    Telemetry,
    /// Asymmetric namespace access changed.
    AsymmetricAccess,
    /// Another.
    Other(u8),
}

impl AsyncEvent {
    /// The event in dword 0 of a completion.
    pub const fn decode(dword: u32) -> AsyncEvent {
        let information = (dword >> 8) as u8;
        let kind = match dword & 0b111 {
            0 => AsyncEventKind::Error(match information {
                0 => AsyncError::InvalidDoorbellRegister,
                1 => AsyncError::InvalidDoorbellValue,
                2 => AsyncError::DiagnosticFailure,
                3 => AsyncError::PersistentInternal,
                4 => AsyncError::TransientInternal,
                5 => AsyncError::FirmwareLoad,
                other => AsyncError::Other(other),
            }),
            1 => AsyncEventKind::Health(match information {
                0 => AsyncHealth::Reliability,
                1 => AsyncHealth::Temperature,
                2 => AsyncHealth::Spare,
                other => AsyncHealth::Other(other),
            }),
            2 => AsyncEventKind::Notice(match information {
                0 => AsyncNotice::NamespaceAttribute,
                1 => AsyncNotice::FirmwareActivation,
                2 => AsyncNotice::Telemetry,
                3 => AsyncNotice::AsymmetricAccess,
                other => AsyncNotice::Other(other),
            }),
            6 => AsyncEventKind::CommandSet(information),
            7 => AsyncEventKind::Vendor(information),
            reserved => AsyncEventKind::Reserved(reserved as u8, information),
        };
        AsyncEvent { kind, log_page: (dword >> 16) as u8 }
    }

    /// Dword 0 of the completion for an event, as a device writes it.
    pub const fn encode(self) -> u32 {
        let (kind, information) = match self.kind {
            AsyncEventKind::Error(error) => (
                0,
                match error {
                    AsyncError::InvalidDoorbellRegister => 0,
                    AsyncError::InvalidDoorbellValue => 1,
                    AsyncError::DiagnosticFailure => 2,
                    AsyncError::PersistentInternal => 3,
                    AsyncError::TransientInternal => 4,
                    AsyncError::FirmwareLoad => 5,
                    AsyncError::Other(other) => other,
                },
            ),
            AsyncEventKind::Health(health) => (
                1,
                match health {
                    AsyncHealth::Reliability => 0,
                    AsyncHealth::Temperature => 1,
                    AsyncHealth::Spare => 2,
                    AsyncHealth::Other(other) => other,
                },
            ),
            AsyncEventKind::Notice(notice) => (
                2,
                match notice {
                    AsyncNotice::NamespaceAttribute => 0,
                    AsyncNotice::FirmwareActivation => 1,
                    AsyncNotice::Telemetry => 2,
                    AsyncNotice::AsymmetricAccess => 3,
                    AsyncNotice::Other(other) => other,
                },
            ),
            AsyncEventKind::CommandSet(information) => (6, information),
            AsyncEventKind::Vendor(information) => (7, information),
            AsyncEventKind::Reserved(kind, information) => (kind & 0b111, information),
        };
        kind as u32 | (information as u32) << 8 | (self.log_page as u32) << 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_counts_are_zero_based() {
        let four = NumberOfQueues { submission: 4, completion: 2 };
        assert_eq!(four.encode(), 0x0001_0003);
        assert_eq!(NumberOfQueues::decode(0x0001_0003), four);
        let absurd = NumberOfQueues { submission: 1 << 20, completion: 0 };
        assert_eq!(absurd.encode(), 0x0000_fffe);
    }

    #[test]
    fn events_survive_the_wire() {
        for kind in 0..8u32 {
            for information in 0..=255u32 {
                let dword = kind | information << 8 | 0x04 << 16;
                assert_eq!(AsyncEvent::decode(dword).encode(), dword);
            }
        }
        assert_eq!(
            AsyncEvent::decode(0x0004_0002),
            AsyncEvent {
                kind: AsyncEventKind::Notice(AsyncNotice::NamespaceAttribute),
                log_page: super::super::LogPage::CHANGED_NAMESPACES
            }
        );
    }
}
