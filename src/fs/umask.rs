//! The umask of this process, and the one that it inherited.

use std::sync::OnceLock;

use nix::sys::stat::{Mode, umask};

static INHERITED: OnceLock<Mode> = OnceLock::new();

/// Sets the umask so that others cannot write to files of this process. Some supervisors and container entry points set it to 0.
pub(crate) fn forbid_writing_by_others() {
    let inherited = umask(Mode::S_IWOTH);
    umask(inherited | Mode::S_IWOTH);
    // A later call would read the umask of the first one.
    let _ = INHERITED.set(inherited);
}

/// The mode of a result file, which is the caller's: 0666 except the bits of the umask that the caller has set. It may let others
/// write.
pub(crate) fn mode_of_results() -> u32 {
    let inherited = INHERITED.get().copied();
    0o666 & !inherited.unwrap_or(Mode::S_IWGRP | Mode::S_IWOTH).bits()
}
