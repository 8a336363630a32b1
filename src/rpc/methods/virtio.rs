//! virtio devices that another process serves over vhost-user sockets.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use super::bdev::check_unsupported;
use crate::base::{Error, ErrorKind};
use crate::bdev::leaf::virtio::VirtioOptions;
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::{param_enum, params};
use crate::rpc::services::Services;

methods! {
    /// Attaches the block device that a vhost-user back end serves, such as SPDK's vhost target, qemu-storage-daemon or
    /// another Weft. It becomes a bdev. The back end has to reach the memory of requests: the daemon's memory is in
    /// huge pages, or it was started with `--shared-memory`.
    Runtime fn bdev_virtio_attach_controller(Attach) -> "an array with the bdev's name.";
    /// Removes the bdev of a virtio device and leaves its back end in order.
    Runtime fn bdev_virtio_detach_controller(Detach) -> "`true`.";
}

param_enum! {
    /// The way to a virtio device.
    enum Transport {
        /// A PCI function; not possible.
        Pci = "pci",
        /// A vhost-user socket.
        User = "user",
        /// A vfio-user socket; not possible.
        VfioUser = "vfio-user",
    }
}

param_enum! {
    /// What a virtio device is.
    enum DeviceType {
        /// A block device.
        Block = "blk",
        /// A SCSI host; not possible.
        Scsi = "scsi",
    }
}

params! {
    /// Of `bdev_virtio_attach_controller`.
    struct Attach {
        /// The bdev's name.
        name: String,
        /// `user`.
        trtype: Transport,
        /// Path of the back end's socket.
        traddr: String,
        /// `blk`.
        dev_type: DeviceType,
        /// How many virtqueues: as many reactors can use the bdev at once.
        vq_count: u32 = 1,
        /// Descriptors of each virtqueue: a power of two.
        vq_size: u32 = 512,
        /// Packed rings, or split ones.
        packed_ring: bool = false,
        /// How long a back end that is gone is waited for, in seconds; requests wait with it. Then they fail and the bdev
        /// is removed.
        reconnect_timeout_sec: u32 = 0,
    }
}

async fn bdev_virtio_attach_controller(services: Rc<Services>, params: Attach) -> Outcome {
    match params.trtype {
        Transport::User => {}
        Transport::Pci => {
            return Err(unsupported("trtype: pci (a virtio PCI function); user is possible"));
        }
        Transport::VfioUser => return Err(unsupported("trtype: vfio-user; user is possible")),
    }
    if params.dev_type == DeviceType::Scsi {
        return Err(unsupported("dev_type: scsi; blk is possible"));
    }
    check_unsupported(&[("vq_count", params.vq_count == 0), ("vq_size", params.vq_size == 0)])?;
    let small = |what: &str, number: u32| {
        u16::try_from(number).map_err(|_| Error::invalid(format!("{what}: {number} is too many")))
    };
    let options = VirtioOptions {
        queues: small("vq_count", params.vq_count)?,
        queue_size: small("vq_size", params.vq_size)?,
        packed: params.packed_ring.then_some(true),
        reconnect: Duration::from_secs(params.reconnect_timeout_sec.into()),
        ..VirtioOptions::new(&params.traddr)
    };
    services.virtio.attach(&params.name, options).await?;
    Ok(json!([params.name]))
}

fn unsupported(what: &str) -> crate::rpc::error::RpcError {
    Error::new(ErrorKind::Unsupported, what).into()
}

params! {
    /// Of `bdev_virtio_detach_controller`.
    struct Detach {
        /// The bdev's name.
        name: String,
    }
}

async fn bdev_virtio_detach_controller(services: Rc<Services>, params: Detach) -> Outcome {
    services.virtio.detach(&params.name).await?;
    Ok(json!(true))
}
