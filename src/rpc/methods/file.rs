//! Bdevs on files and block devices, by io_uring; also under the names that SPDK has for its AIO
//! bdev, which does the same by other means.

use std::rc::Rc;

use serde_json::json;

use super::bdev::{check_name_free, check_unsupported, of_product, unregister};
use crate::base::Uuid;
use crate::bdev::leaf::uring::{Method, Uring, UringOptions};
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::params;
use crate::rpc::services::Services;

const URING: &str = "URING bdev";
const AIO: &str = "AIO disk";

methods! {
    /// Makes a bdev on a regular file or a block device, which must be there and is kept from other
    /// users.
    Runtime fn bdev_uring_create(UringCreate) -> "the bdev's name.";
    /// Takes over the present size of the file or block device.
    Runtime fn bdev_uring_rescan(Rescan) -> "`true`.";
    /// Removes a bdev that `bdev_uring_create` made; the file stays.
    Runtime fn bdev_uring_delete(Delete) -> "`true`.";
    /// Makes a bdev on a regular file or a block device, like `bdev_uring_create`.
    Runtime fn bdev_aio_create(AioCreate) -> "the bdev's name.";
    /// Takes over the present size of the file or block device.
    Runtime fn bdev_aio_rescan(Rescan) -> "`true`.";
    /// Removes a bdev that `bdev_aio_create` made; the file stays.
    Runtime fn bdev_aio_delete(Delete) -> "`true`.";
}

params! {
    /// Of `bdev_uring_create`.
    struct UringCreate {
        /// Path of the file or block device.
        filename: String,
        /// The bdev's name.
        name: String,
        /// Block size in bytes; that of the file or block device by default, also for 0.
        block_size: Option<u32>,
        /// The bdev's UUID; a random one by default.
        uuid: Option<Uuid>,
        /// Only reads.
        readonly: bool = false,
        /// Go past the page cache where the file system allows.
        direct: bool = true,
        /// Have a kernel thread take submissions; pays only with a core to spare for each.
        sqpoll: bool = false,
        /// Poll the device for completions where it has queues for that.
        iopoll: bool = false,
    }
}

async fn bdev_uring_create(services: Rc<Services>, params: UringCreate) -> Outcome {
    create(
        &services,
        UringOptions {
            block_size: params.block_size,
            uuid: params.uuid,
            method: Method::Uring,
            readonly: params.readonly,
            direct: params.direct,
            sqpoll: params.sqpoll,
            iopoll: params.iopoll,
            ..UringOptions::new(params.name, params.filename)
        },
    )
    .await
}

async fn create(services: &Services, options: UringOptions) -> Outcome {
    // Checked before the file is opened; `register` checks again.
    check_name_free(services, &options.name)?;
    let uring = Uring::open(options).await?;
    let device = services.bdevs.register(uring, vec![])?;
    Ok(json!(device.name()))
}

params! {
    /// Of the methods that take over a new size.
    struct Rescan {
        /// The bdev's name.
        name: String,
    }
}

async fn bdev_uring_rescan(services: Rc<Services>, params: Rescan) -> Outcome {
    rescan(&services, &params.name, URING)
}

async fn bdev_aio_rescan(services: Rc<Services>, params: Rescan) -> Outcome {
    rescan(&services, &params.name, AIO)
}

fn rescan(services: &Services, name: &str, product: &str) -> Outcome {
    let device = of_product(services, name, product)?;
    Uring::rescan(&services.bdevs, device.name())?;
    Ok(json!(true))
}

params! {
    /// Of the methods that remove such a bdev.
    struct Delete {
        /// The bdev's name.
        name: String,
    }
}

async fn bdev_uring_delete(services: Rc<Services>, params: Delete) -> Outcome {
    unregister(&services, &params.name, URING).await
}

async fn bdev_aio_delete(services: Rc<Services>, params: Delete) -> Outcome {
    unregister(&services, &params.name, AIO).await
}

params! {
    /// Of `bdev_aio_create`.
    struct AioCreate {
        /// The bdev's name.
        name: String,
        /// Path of the file or block device.
        filename: String,
        /// Block size in bytes; that of the file or block device by default, also for 0.
        block_size: Option<u32>,
        /// Only reads.
        readonly: bool = false,
        /// Have unmap and write-zeroes free space of the file.
        fallocate: bool = false,
        /// The bdev's UUID; a random one by default.
        uuid: Option<Uuid>,
        /// A flag of Linux AIO; false is possible.
        nowait: bool = false,
    }
}

async fn bdev_aio_create(services: Rc<Services>, params: AioCreate) -> Outcome {
    check_unsupported(&[("nowait", params.nowait)])?;
    create(
        &services,
        UringOptions {
            block_size: params.block_size,
            uuid: params.uuid,
            method: Method::Aio { fallocate: params.fallocate },
            readonly: params.readonly,
            ..UringOptions::new(params.name, params.filename)
        },
    )
    .await
}
