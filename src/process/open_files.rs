//! The limit of open files: the agent raises its own, scripts keep that of the caller.

use std::ffi::OsString;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// The soft limit that this process inherited.
static INHERITED: OnceLock<rlim_t> = OnceLock::new();

/// Raises the soft limit of open files to the hard limit. A caller may have a low soft limit, and concurrent packages need descriptors.
pub(crate) fn raise_limit_of_open_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    // A later call would read the limit of the first one.
    if INHERITED.set(soft).is_ok() {
        // If this is refused, the inherited limit has to suffice.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The argument of the fork server that has it restore the inherited limit, if this process has raised it.
pub(super) fn inherited_limit_of_open_files() -> Option<OsString> {
    INHERITED.get().map(|soft| soft.to_string().into())
}

/// Restores the soft limit that the agent inherited. Called by the fork server, with its argument.
pub(crate) fn restore_limit_of_open_files(argument: Option<&OsString>) {
    let soft = argument.and_then(|argument| argument.to_str()?.parse().ok());
    if let (Some(soft), Ok((_, hard))) = (soft, getrlimit(Resource::RLIMIT_NOFILE)) {
        // Cannot fail: the soft limit was below the hard one.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
}
