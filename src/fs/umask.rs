//! The umask of this process, and the umask that the process inherited from its caller.

use std::sync::OnceLock;

use nix::sys::stat::{Mode, umask};

/// The umask of most systems.
const USUAL: Mode = Mode::S_IWGRP.union(Mode::S_IWOTH);

static INHERITED: OnceLock<Mode> = OnceLock::new();

/// Sets the umask so that others cannot write to the agent's files. Some supervisors and container
/// entry points set the umask to 0. If the caller's umask lets the group write, but not others, the
/// group keeps that permission, because its members may share a cache.
pub(crate) fn forbid_writing_by_others() {
    let inherited = umask(USUAL);
    umask(match inherited.contains(Mode::S_IWOTH) {
        true => inherited,
        false => inherited | USUAL,
    });
    // Keep the first value: a second call would read the umask that the first call has set.
    let _ = INHERITED.set(inherited);
}

/// Sets the umask that this process inherited, before it executes another program.
pub(crate) fn restore_umask() {
    if let Some(inherited) = INHERITED.get() {
        umask(*inherited);
    }
}

/// The mode for result files: 0666 without the bits of the inherited umask. The mode may let others
/// write.
pub(crate) fn mode_of_results() -> u32 {
    let inherited = INHERITED.get().copied();
    0o666 & !inherited.unwrap_or(USUAL).bits()
}
