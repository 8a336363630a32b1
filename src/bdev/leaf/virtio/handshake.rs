//! From a socket to an agreement: what the back end has, and what of it is used.

use std::time::Duration;

use zerocopy::{FromBytes, IntoBytes};

use super::facts::BLOCK_FEATURES;
use super::options::VirtioOptions;
use crate::base::{Error, ErrorKind, Result};
use crate::reactor::{Context, Readiness};
use crate::virtio::spec::Features;
use crate::virtio::spec::block::{Config, ID_LENGTH};
use crate::virtio::vhost_user::{Agreement, BackendChannel, Frontend, ProtocolFeatures};

/// How long a back end may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The part of the configuration space that every back end has, whatever it knows of secure erase and zones.
const CONFIG_LENGTH: usize = 60;
const _: () = assert!(CONFIG_LENGTH <= size_of::<Config>() && ID_LENGTH == 20);

const PROTOCOL_FEATURES: ProtocolFeatures = ProtocolFeatures::CONFIG
    .with(ProtocolFeatures::MQ)
    .with(ProtocolFeatures::REPLY_ACK)
    .with(ProtocolFeatures::BACKEND_REQ)
    .with(ProtocolFeatures::INFLIGHT_SHMFD)
    .with(ProtocolFeatures::CONFIGURE_MEM_SLOTS);

/// A back end that agreed.
pub(super) struct Peer {
    pub(super) frontend: Frontend,
    pub(super) agreement: Agreement,
    /// What it tells by itself, if it does.
    pub(super) channel: Option<BackendChannel>,
}

/// Which features are asked for.
fn wanted(options: &VirtioOptions) -> Features {
    BLOCK_FEATURES
        .with(Features::VERSION_1)
        .with_if(options.packed == Some(true), Features::RING_PACKED)
        .with_if(options.indirect != Some(false), Features::INDIRECT_DESC)
        .with_if(options.event_index != Some(false), Features::EVENT_IDX)
}

/// Connects to the back end and agrees with it. `before`: what an earlier back end agreed to, which this one has to.
///
/// # Errors
/// When there is none, it does not answer, or lacks what is needed.
pub(super) async fn agree(
    cx: &Context,
    readiness: &Readiness,
    options: &VirtioOptions,
    before: Option<Features>,
) -> Result<Peer> {
    let frontend = Frontend::connect(cx, readiness, &options.socket, PATIENCE).await?;
    let wanted = before.unwrap_or_else(|| wanted(options));
    let agreement = frontend.negotiate(wanted, PROTOCOL_FEATURES).await?;
    let features = agreement.features;
    let refuse = |what: String| {
        let address = frontend.address();
        Err(Error::new(ErrorKind::Unsupported, format!("vhost-user {address}: {what}")))
    };
    if !features.has(Features::VERSION_1) {
        return refuse("a legacy device; VERSION_1 is needed".into());
    }
    if !agreement.protocol_features.has(ProtocolFeatures::CONFIG) {
        return refuse("the back end does not tell the device's configuration (CONFIG)".into());
    }
    for (asked, feature, what) in [
        (options.packed, Features::RING_PACKED, "packed rings"),
        (options.indirect, Features::INDIRECT_DESC, "indirect descriptors"),
        (options.event_index, Features::EVENT_IDX, "event indices"),
    ] {
        if asked == Some(true) && !features.has(feature) {
            return refuse(format!("the back end has no {what}, which were asked for"));
        }
    }
    if let Some(before) = before
        && !features.has(before.without(Features::PROTOCOL_FEATURES))
    {
        return refuse(format!(
            "the back end came back without features that are in use: {:?}",
            before.without(features)
        ));
    }
    let queues_max = agreement.queues_max.unwrap_or(1);
    if queues_max < options.queues {
        return refuse(format!(
            "{} virtqueues were asked for; the back end has {queues_max}",
            options.queues
        ));
    }
    let channel = match agreement.protocol_features.has(ProtocolFeatures::BACKEND_REQ) {
        true => Some(BackendChannel::open(&frontend, readiness).await?),
        false => None,
    };
    Ok(Peer { frontend, agreement, channel })
}

/// Reads the configuration space.
///
/// # Errors
/// When the back end does not answer properly.
pub(super) async fn config(frontend: &Frontend) -> Result<Config> {
    let bytes = frontend.get_config(0, CONFIG_LENGTH as u32).await?;
    let mut config = Config::default();
    let length = bytes.len().min(CONFIG_LENGTH);
    config.as_mut_bytes()[..length].copy_from_slice(&bytes[..length]);
    Ok(Config::read_from_bytes(config.as_bytes()).unwrap_or(config))
}
