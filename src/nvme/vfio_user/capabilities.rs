//! What both sides say of themselves in the version message: JSON ("VFIO_USER_VERSION", version data).

use serde::Deserialize;
use zerocopy::{FromBytes, IntoBytes};

use super::wire::{TRANSFER_MAX, VERSION, Version};
use crate::base::{Error, ErrorKind, Result};

/// Most descriptors that this client takes with one message.
pub const DESCRIPTORS_MAX: usize = 16;

const _: () = assert!(DESCRIPTORS_MAX <= crate::socket::DESCRIPTORS_MAX);

/// What the server can take. What it does not say has the specification's defaults.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Most descriptors with one message.
    pub max_msg_fds: u64,
    /// Most bytes of data in one message.
    pub max_data_xfer_size: u64,
    /// Most pieces of memory that can be mapped at once.
    pub max_dma_maps: u64,
    /// Page sizes for mapped memory, a bit each.
    pub pgsizes: u64,
}

impl Default for Capabilities {
    fn default() -> Capabilities {
        Capabilities {
            max_msg_fds: 1,
            max_data_xfer_size: 1 << 20,
            max_dma_maps: 65_535,
            pgsizes: 4096,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VersionData {
    capabilities: Capabilities,
}

/// The payload that proposes a version.
pub fn proposal() -> Vec<u8> {
    let data = format!(
        r#"{{"capabilities":{{"max_msg_fds":{DESCRIPTORS_MAX},"max_data_xfer_size":{TRANSFER_MAX}}}}}"#
    );
    [VERSION.as_bytes(), data.as_bytes(), &[0]].concat()
}

/// Parses the answer to [`proposal`].
///
/// # Errors
/// When the server speaks another version, or its JSON is none.
pub fn parse(payload: &[u8]) -> Result<Capabilities> {
    let broken = |what: String| Error::new(ErrorKind::Io, what);
    let (version, data) = Version::read_from_prefix(payload)
        .map_err(|_| broken(format!("a version message of {} bytes", payload.len())))?;
    if version.major != VERSION.major || version.minor > VERSION.minor {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the server speaks version {}.{} of the protocol, and not {}.{}",
                version.major, version.minor, VERSION.major, VERSION.minor
            ),
        ));
    }
    // Optional, and ended by a NUL.
    let json = match data.iter().position(|&byte| byte == 0) {
        Some(0) => return Ok(Capabilities::default()),
        Some(end) => &data[..end],
        None if data.is_empty() => return Ok(Capabilities::default()),
        None => return Err(broken("version data without an end".into())),
    };
    let data: VersionData = serde_json::from_slice(json).map_err(|error| {
        broken("the server's capabilities are no JSON as specified".into()).because(error)
    })?;
    Ok(data.capabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(version: Version, data: &[u8]) -> Result<Capabilities> {
        parse(&[version.as_bytes(), data].concat())
    }

    #[test]
    fn what_is_not_said_has_defaults() {
        let ours = answer(VERSION, b"").unwrap();
        assert_eq!(ours, Capabilities::default());
        for data in [&b"\0"[..], b"{}\0", b"{\"capabilities\":{}}\0"] {
            assert_eq!(answer(VERSION, data).unwrap(), ours);
        }
        let some = answer(
            VERSION,
            b"{\"capabilities\":{\"max_dma_maps\":3,\"migration\":{\"pgsize\":1}}}\0",
        );
        assert_eq!(some.unwrap(), Capabilities { max_dma_maps: 3, ..ours });
        // The answer to our own proposal, by a server that repeats it.
        let own = parse(&proposal()).unwrap();
        assert_eq!((own.max_msg_fds, own.max_data_xfer_size), (16, 1 << 20));
    }

    #[test]
    fn other_versions_and_broken_data_are_refused() {
        assert!(answer(Version { major: 0, minor: 0 }, b"").is_ok());
        for version in [Version { major: 1, minor: 0 }, Version { major: 0, minor: 2 }] {
            let error = answer(version, b"").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
        for data in [&b"{}"[..], b"{\0", b"{\"capabilities\":{\"pgsizes\":-1}}\0", b"\xff\0"] {
            assert!(answer(VERSION, data).is_err(), "{data:?}");
        }
        assert!(parse(&[0, 0]).is_err());
    }
}
