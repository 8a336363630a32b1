//! The vhost-user protocol: how a front end (a virtual machine monitor) hands the virtqueues of a device to a back end
//! over a unix socket.
//!
//! Bottom up: `wire` has the header of a message and the numbers of requests, `payload` the structures behind it, `message`
//! a message as it travels, `request` and `backend_request` what messages of either side mean, `reply` what is answered,
//! `stream` the messages of a socket, without blocking, and `frontend` the front end's side of the dialogue, with
//! `shared_memory` and `backend_channel` for two parts of it. The back end's is in [`vhost`](crate::vhost).
//!
//! Neither side trusts the other to speak the protocol: every message is checked, and what cannot be is an error that
//! names the request and the field. All numbers are in the byte order of the host ("Message Specification").

mod backend_channel;
mod backend_request;
mod frontend;
mod message;
mod payload;
mod protocol_features;
mod reply;
mod request;
mod shared_memory;
mod stream;
mod wire;

pub use backend_channel::BackendChannel;
pub use backend_request::BackendRequest;
pub use frontend::{Agreement, Frontend, Vring};
pub use message::Message;
pub use payload::{
    ConfigHeader, Inflight, MemoryRegion, SharedArea, VringAddresses, VringState, config_flags,
};
pub use protocol_features::ProtocolFeatures;
pub use request::{Request, VringFile};
pub use shared_memory::SharedMemory;
pub use stream::{MessageStream, Received};
pub use wire::{
    BackendRequestCode, CONFIG_SIZE_MAX, HEADER_SIZE, Header, MEMORY_TABLE_MAX, PAYLOAD_MAX,
    RequestCode, VRINGS_MAX,
};

#[cfg(test)]
mod tests;
