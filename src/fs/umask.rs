//! The umask of this process, and the one that it inherited.

use std::sync::OnceLock;

use nix::sys::stat::{Mode, umask};

/// The umask of most systems.
const USUAL: Mode = Mode::S_IWGRP.union(Mode::S_IWOTH);

static INHERITED: OnceLock<Mode> = OnceLock::new();

/// Sets the umask so that only the owner can write to files of this process. If the umask of the caller lets the group write, but not
/// others, the group can write, too: it may share a cache. Some supervisors and container entry points set the umask to 0.
pub(crate) fn forbid_writing_by_others() {
    let inherited = umask(USUAL);
    umask(match inherited.contains(Mode::S_IWOTH) {
        true => inherited,
        false => inherited | USUAL,
    });
    // A later call would read the umask of the first one.
    let _ = INHERITED.set(inherited);
}

/// The mode of a result file, which is the caller's: 0666 except the bits of the umask that the caller has set. It may let others
/// write.
pub(crate) fn mode_of_results() -> u32 {
    let inherited = INHERITED.get().copied();
    0o666 & !inherited.unwrap_or(USUAL).bits()
}
