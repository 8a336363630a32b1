//! The structures of the NVM Express specifications, by their names: registers, submission and completion
//! queue entries, identify data, log pages, features.
//!
//! Plain data in the layout of the wire, shared by everything that speaks NVMe: the PCIe driver, the
//! fabrics, and the device model of the tests. Sections refer to the NVM Express Base Specification,
//! revision 2.0, and the NVM Command Set Specification, revision 1.0, unless they say otherwise. All fields
//! are little-endian; Weft runs on little-endian machines only, which is checked here once.
//!
//! Nothing here does I/O or keeps state, and nothing is trusted: a structure is a view of bytes that a device
//! wrote, and whoever uses a length or an index from it checks it first.

mod command;
mod completion;
mod controller;
mod feature;
mod log;
mod namespace;
mod registers;
mod text;

pub use command::{AdminOpcode, DataPointer, IoOpcode, SglDescriptor, SubmissionEntry};
pub use completion::CompletionEntry;
pub use controller::{FlushAll, IdentifyController, SglSupport};
pub use feature::{
    AsyncError, AsyncEvent, AsyncEventConfiguration, AsyncEventKind, AsyncHealth, AsyncNotice,
    FeatureId, FeatureSelect, NumberOfQueues, VOLATILE_WRITE_CACHE_ENABLED,
};
pub use log::{ChangedNamespaces, ErrorLogEntry, FirmwareSlotLog, LogPage, SmartLog, celsius};
pub use namespace::{
    DeallocatedRead, DsmRange, IdentifyCns, IdentifyNamespace, LbaFormat, MetadataPlace, NSID_ALL,
    NamespaceIdentifier, namespace_identifiers, namespace_ids,
};
pub use registers::{
    Capabilities, ControllerConfiguration, ControllerStatus, DoorbellKind, Register,
    ShutdownNotification, ShutdownStatus, Version, admin_queue_attributes, doorbell_offset,
    is_all_ones,
};
pub use text::printable;

const _: () = assert!(cfg!(target_endian = "little"));
