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
    /// The namespace does not exist (any more).
    INVALID_NAMESPACE = 0x0, 0x0b, "Invalid Namespace or Format";
    /// The device is in write protected state: read-only.
    NAMESPACE_WRITE_PROTECTED = 0x0, 0x20, "Namespace is Write Protected";
    /// A transient condition: the same command may succeed later.
    COMMAND_INTERRUPTED = 0x0, 0x21, "Command Interrupted";
    /// Blocks outside of the device.
    LBA_OUT_OF_RANGE = 0x0, 0x80, "LBA Out of Range";
    /// The medium is full.
    CAPACITY_EXCEEDED = 0x0, 0x81, "Capacity Exceeded";
    /// The namespace is not ready.
    NAMESPACE_NOT_READY = 0x0, 0x82, "Namespace Not Ready";
    /// Writing to read-only blocks.
    WRITE_TO_READ_ONLY_RANGE = 0x1, 0x82, "Attempted Write to Read Only Range";
    /// The medium could not store the data.
    WRITE_FAULT = 0x2, 0x80, "Write Fault";
    /// The medium could not return the data.
    UNRECOVERED_READ_ERROR = 0x2, 0x81, "Unrecovered Read Error";
    /// The compared data differ.
    COMPARE_FAILURE = 0x2, 0x85, "Compare Failure";
    /// The block was never written or was deallocated, and the device reports that as an error.
    DEALLOCATED_BLOCK = 0x2, 0x87, "Deallocated or Unwritten Logical Block";
    /// The path to the device is lost.
    INTERNAL_PATH_ERROR = 0x3, 0x00, "Internal Path Error";
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
