//! The umask of this process, and of whoever started it.

use std::sync::OnceLock;

use nix::sys::stat::{Mode, umask};

static INHERITED: OnceLock<Mode> = OnceLock::new();

/// Keeps others from writing to what this process creates. Some supervisors and container entry points set the umask to 0.
pub fn forbid_writing_by_others() {
    let inherited = umask(Mode::S_IWOTH);
    umask(inherited | Mode::S_IWOTH);
    // A second call finds the umask of the first one.
    let _ = INHERITED.set(inherited);
}

/// The mode of a file that whoever started this process is to get, where others are to write to it: 0666 less the inherited umask.
/// `None` where files are created with the right mode by themselves.
pub(crate) fn mode_for_others_to_write() -> Option<u32> {
    let inherited = INHERITED.get()?;
    (!inherited.contains(Mode::S_IWOTH)).then(|| 0o666 & !inherited.bits())
}
