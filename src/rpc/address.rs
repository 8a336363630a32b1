//! Where the daemon's socket is.

use std::path::PathBuf;

/// The path that the daemon listens on, and clients connect to, when none is given: `$WEFT_SOCKET`;
/// for users other than root, `weft.sock` in `$XDG_RUNTIME_DIR`; else `/var/tmp/weft.sock`.
pub fn default_socket() -> PathBuf {
    if let Some(path) = std::env::var_os("WEFT_SOCKET").filter(|path| !path.is_empty()) {
        return path.into();
    }
    // Root's shell has such a directory and root's service has not; both must agree.
    let directory = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match directory.filter(|directory| !rustix::process::geteuid().is_root() && directory.is_dir())
    {
        Some(directory) => directory.join("weft.sock"),
        None => "/var/tmp/weft.sock".into(),
    }
}
