//! How an I/O ended: an NVMe status.

use std::fmt;

/// Status type and status code of an NVMe completion (NVM Express Base Specification,
/// section 4.2.3), without the phase tag and the retry hints: `SCT << 8 | SC`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Status(u16);

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $sct:literal, $sc:literal, $text:literal;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Status = Status::new($sct, $sc);)*

            /// The specification's words for this status, or `None` for one that Weft has no name for.
            pub const fn text(self) -> Option<&'static str> {
                match self {
                    $(Status::$name => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    /// The command completed without error.
    SUCCESS = 0x0, 0x00, "Successful Completion";
    /// The opcode is not supported by this device.
    INVALID_OPCODE = 0x0, 0x01, "Invalid Command Opcode";
    /// A field of the request is invalid: lengths or alignment that the device cannot take.
    INVALID_FIELD = 0x0, 0x02, "Invalid Field in Command";
    /// The command identifier is in use.
    COMMAND_ID_CONFLICT = 0x0, 0x03, "Command ID Conflict";
    /// Data could not be transferred.
    DATA_TRANSFER_ERROR = 0x0, 0x04, "Data Transfer Error";
    /// The device lost power with the command outstanding.
    ABORTED_POWER_LOSS = 0x0, 0x05, "Commands Aborted due to Power Loss Notification";
    /// An error within the device or the layer that serves it.
    INTERNAL_ERROR = 0x0, 0x06, "Internal Error";
    /// The command was aborted on request: its queue was closed, or the device was removed.
    ABORTED_BY_REQUEST = 0x0, 0x07, "Command Abort Requested";
    /// The command was aborted since its submission queue was deleted.
    ABORTED_SQ_DELETION = 0x0, 0x08, "Command Aborted due to SQ Deletion";
    /// The other command of a fused operation failed.
    ABORTED_FAILED_FUSED = 0x0, 0x09, "Command Aborted due to Failed Fused Command";
    /// The other command of a fused operation was not there.
    ABORTED_MISSING_FUSED = 0x0, 0x0a, "Command Aborted due to Missing Fused Command";
    /// The namespace does not exist (any more).
    INVALID_NAMESPACE = 0x0, 0x0b, "Invalid Namespace or Format";
    /// The command came in a sequence that the protocol does not allow.
    COMMAND_SEQUENCE_ERROR = 0x0, 0x0c, "Command Sequence Error";
    /// A segment descriptor of an SGL is wrong.
    INVALID_SGL_SEGMENT = 0x0, 0x0d, "Invalid SGL Segment Descriptor";
    /// An SGL has more descriptors than the device takes.
    INVALID_SGL_COUNT = 0x0, 0x0e, "Invalid Number of SGL Descriptors";
    /// The length of an SGL is not that of the data.
    DATA_SGL_LENGTH_INVALID = 0x0, 0x0f, "Data SGL Length Invalid";
    /// The length of a metadata SGL is wrong.
    METADATA_SGL_LENGTH_INVALID = 0x0, 0x10, "Metadata SGL Length Invalid";
    /// A descriptor of an SGL has a type that the device does not know.
    SGL_DESCRIPTOR_TYPE_INVALID = 0x0, 0x11, "SGL Descriptor Type Invalid";
    /// The controller memory buffer was used where it must not be.
    INVALID_CMB_USE = 0x0, 0x12, "Invalid Use of Controller Memory Buffer";
    /// The offset of a PRP entry is wrong.
    INVALID_PRP_OFFSET = 0x0, 0x13, "PRP Offset Invalid";
    /// More blocks than are written atomically.
    ATOMIC_WRITE_UNIT_EXCEEDED = 0x0, 0x14, "Atomic Write Unit Exceeded";
    /// The command was denied for lack of rights.
    OPERATION_DENIED = 0x0, 0x15, "Operation Denied";
    /// An offset in an SGL is wrong.
    SGL_OFFSET_INVALID = 0x0, 0x16, "SGL Offset Invalid";
    /// A sanitize operation failed: the medium cannot be used until one succeeds.
    SANITIZE_FAILED = 0x0, 0x1c, "Sanitize Failed";
    /// A sanitize operation is under way.
    SANITIZE_IN_PROGRESS = 0x0, 0x1d, "Sanitize In Progress";
    /// An address or length in an SGL is not a multiple of what the device asks for.
    SGL_GRANULARITY_INVALID = 0x0, 0x1e, "SGL Data Block Granularity Invalid";
    /// The device is in write protected state: read-only.
    NAMESPACE_WRITE_PROTECTED = 0x0, 0x20, "Namespace is Write Protected";
    /// A transient condition: the same command may succeed later.
    COMMAND_INTERRUPTED = 0x0, 0x21, "Command Interrupted";
    /// A transient condition of the transport: the same command may succeed later.
    TRANSIENT_TRANSPORT_ERROR = 0x0, 0x22, "Transient Transport Error";
    /// Blocks outside of the device.
    LBA_OUT_OF_RANGE = 0x0, 0x80, "LBA Out of Range";
    /// The medium is full.
    CAPACITY_EXCEEDED = 0x0, 0x81, "Capacity Exceeded";
    /// The namespace is not ready.
    NAMESPACE_NOT_READY = 0x0, 0x82, "Namespace Not Ready";
    /// A reservation of another host forbids the command.
    RESERVATION_CONFLICT = 0x0, 0x83, "Reservation Conflict";
    /// The namespace is being formatted.
    FORMAT_IN_PROGRESS = 0x0, 0x84, "Format In Progress";
    /// The completion queue that a new submission queue names does not exist.
    COMPLETION_QUEUE_INVALID = 0x1, 0x00, "Completion Queue Invalid";
    /// A queue identifier that is in use, not in use, or out of range.
    INVALID_QUEUE_IDENTIFIER = 0x1, 0x01, "Invalid Queue Identifier";
    /// A queue of a size that the controller cannot take.
    INVALID_QUEUE_SIZE = 0x1, 0x02, "Invalid Queue Size";
    /// More Abort commands than the controller allows.
    ABORT_LIMIT_EXCEEDED = 0x1, 0x03, "Abort Command Limit Exceeded";
    /// More Asynchronous Event Requests than the controller allows.
    ASYNC_EVENT_LIMIT_EXCEEDED = 0x1, 0x05, "Asynchronous Event Request Limit Exceeded";
    /// The firmware slot does not exist or is read-only.
    INVALID_FIRMWARE_SLOT = 0x1, 0x06, "Invalid Firmware Slot";
    /// The firmware image is not one for this controller.
    INVALID_FIRMWARE_IMAGE = 0x1, 0x07, "Invalid Firmware Image";
    /// The interrupt vector is beyond those that the device has.
    INVALID_INTERRUPT_VECTOR = 0x1, 0x08, "Invalid Interrupt Vector";
    /// The log page does not exist.
    INVALID_LOG_PAGE = 0x1, 0x09, "Invalid Log Page";
    /// The LBA format, or the combination with protection settings, is not supported.
    INVALID_FORMAT = 0x1, 0x0a, "Invalid Format";
    /// New firmware is in place and waits for a conventional reset.
    FIRMWARE_NEEDS_RESET = 0x1, 0x0b, "Firmware Activation Requires Conventional Reset";
    /// A completion queue that submission queues use still.
    INVALID_QUEUE_DELETION = 0x1, 0x0c, "Invalid Queue Deletion";
    /// The feature cannot be saved.
    FEATURE_NOT_SAVEABLE = 0x1, 0x0d, "Feature Identifier Not Saveable";
    /// The feature cannot be changed.
    FEATURE_NOT_CHANGEABLE = 0x1, 0x0e, "Feature Not Changeable";
    /// The feature belongs to the controller, not to a namespace.
    FEATURE_NOT_NAMESPACE_SPECIFIC = 0x1, 0x0f, "Feature Not Namespace Specific";
    /// The namespace is larger than what is unallocated.
    NAMESPACE_INSUFFICIENT_CAPACITY = 0x1, 0x15, "Namespace Insufficient Capacity";
    /// No more namespaces can be created.
    NAMESPACE_ID_UNAVAILABLE = 0x1, 0x16, "Namespace Identifier Unavailable";
    /// The namespace is attached to the controller already.
    NAMESPACE_ALREADY_ATTACHED = 0x1, 0x18, "Namespace Already Attached";
    /// The namespace is not attached to the controller.
    NAMESPACE_NOT_ATTACHED = 0x1, 0x1a, "Namespace Not Attached";
    /// Attributes that contradict each other, or the blocks they are for.
    CONFLICTING_ATTRIBUTES = 0x1, 0x80, "Conflicting Attributes";
    /// Protection settings that do not go with the namespace's format.
    INVALID_PROTECTION_INFORMATION = 0x1, 0x81, "Invalid Protection Information";
    /// Writing to read-only blocks.
    WRITE_TO_READ_ONLY_RANGE = 0x1, 0x82, "Attempted Write to Read Only Range";
    /// The command covers more than the controller takes.
    COMMAND_SIZE_LIMIT_EXCEEDED = 0x1, 0x83, "Command Size Limit Exceeded";
    /// The medium could not store the data.
    WRITE_FAULT = 0x2, 0x80, "Write Fault";
    /// The medium could not return the data.
    UNRECOVERED_READ_ERROR = 0x2, 0x81, "Unrecovered Read Error";
    /// The guard of the protection information does not match the data.
    GUARD_CHECK_ERROR = 0x2, 0x82, "End-to-end Guard Check Error";
    /// The application tag of the protection information does not match.
    APPLICATION_TAG_CHECK_ERROR = 0x2, 0x83, "End-to-end Application Tag Check Error";
    /// The reference tag of the protection information does not match.
    REFERENCE_TAG_CHECK_ERROR = 0x2, 0x84, "End-to-end Reference Tag Check Error";
    /// The compared data differ.
    COMPARE_FAILURE = 0x2, 0x85, "Compare Failure";
    /// Access to the blocks is denied.
    ACCESS_DENIED = 0x2, 0x86, "Access Denied";
    /// The block was never written or was deallocated, and the device reports that as an error.
    DEALLOCATED_BLOCK = 0x2, 0x87, "Deallocated or Unwritten Logical Block";
    /// The path to the device is lost.
    INTERNAL_PATH_ERROR = 0x3, 0x00, "Internal Path Error";
    /// The namespace is gone from this path for good.
    ANA_PERSISTENT_LOSS = 0x3, 0x01, "Asymmetric Access Persistent Loss";
    /// The namespace cannot be reached on this path now.
    ANA_INACCESSIBLE = 0x3, 0x02, "Asymmetric Access Inaccessible";
    /// The access to the namespace on this path is changing.
    ANA_TRANSITION = 0x3, 0x03, "Asymmetric Access Transition";
    /// The controller found an error of the path.
    CONTROLLER_PATHING_ERROR = 0x3, 0x60, "Controller Pathing Error";
    /// The host found an error of the path.
    HOST_PATHING_ERROR = 0x3, 0x70, "Host Pathing Error";
    /// The host aborted the command on this path.
    ABORTED_BY_HOST = 0x3, 0x71, "Command Aborted By Host";
}

impl Status {
    /// The status of status code type `sct` (3 bits) and status code `sc`.
    #[inline]
    pub const fn new(sct: u8, sc: u8) -> Status {
        Status(((sct & 0x7) as u16) << 8 | sc as u16)
    }

    /// Whether the command succeeded.
    #[inline]
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }

    /// Status code type (SCT).
    #[inline]
    pub const fn sct(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Status code (SC).
    #[inline]
    pub const fn sc(self) -> u8 {
        self.0 as u8
    }

    /// Whether the medium of the device failed (SCT 2h, except for a comparison that differs): the
    /// kind of error that another copy of the data can make good.
    #[inline]
    pub const fn is_media_error(self) -> bool {
        self.sct() == 0x2 && !matches!(self, Status::COMPARE_FAILURE)
    }

    /// This status if it is an error, else `other`: the first failure of several parts wins.
    #[inline]
    #[must_use]
    pub const fn or(self, other: Status) -> Status {
        if self.is_success() { other } else { self }
    }

    /// The status that a failed system call on a file or block device stands for.
    pub const fn from_errno(errno: i32, write: bool) -> Status {
        // errno values of Linux (asm-generic/errno-base.h); `base` links against no libc.
        const EIO: i32 = 5;
        const ENXIO: i32 = 6;
        const EAGAIN: i32 = 11;
        const ENOMEM: i32 = 12;
        const EROFS: i32 = 30;
        const ENODEV: i32 = 19;
        const EINVAL: i32 = 22;
        const ENOSPC: i32 = 28;
        const EOPNOTSUPP: i32 = 95;
        const ECANCELED: i32 = 125;
        const ENODATA: i32 = 61;
        const EILSEQ: i32 = 84;
        match errno {
            0 => Status::SUCCESS,
            ENXIO | ENODEV => Status::INVALID_NAMESPACE,
            EAGAIN | ENOMEM => Status::COMMAND_INTERRUPTED,
            EROFS => Status::NAMESPACE_WRITE_PROTECTED,
            EINVAL => Status::INVALID_FIELD,
            ENOSPC => Status::CAPACITY_EXCEEDED,
            EOPNOTSUPP => Status::INVALID_OPCODE,
            ECANCELED => Status::ABORTED_BY_REQUEST,
            EIO | ENODATA | EILSEQ if write => Status::WRITE_FAULT,
            EIO | ENODATA | EILSEQ => Status::UNRECOVERED_READ_ERROR,
            _ => Status::INTERNAL_ERROR,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => f.write_str(text),
            None => write!(f, "NVMe status {:#x}/{:#04x}", self.sct(), self.sc()),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({:#x}/{:#04x} {})", self.sct(), self.sc(), self.text().unwrap_or("?"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_text() {
        assert_eq!(Status::UNRECOVERED_READ_ERROR.sct(), 2);
        assert_eq!(Status::UNRECOVERED_READ_ERROR.sc(), 0x81);
        assert_eq!(Status::new(7, 0xff).to_string(), "NVMe status 0x7/0xff");
        assert!(Status::UNRECOVERED_READ_ERROR.is_media_error());
        assert!(!Status::COMPARE_FAILURE.is_media_error());
        assert_eq!(Status::SUCCESS.or(Status::WRITE_FAULT), Status::WRITE_FAULT);
        assert_eq!(Status::WRITE_FAULT.or(Status::SUCCESS), Status::WRITE_FAULT);
    }

    #[test]
    fn errno_has_a_direction() {
        assert_eq!(Status::from_errno(5, true), Status::WRITE_FAULT);
        assert_eq!(Status::from_errno(5, false), Status::UNRECOVERED_READ_ERROR);
        assert_eq!(Status::from_errno(28, true), Status::CAPACITY_EXCEEDED);
    }
}
