//! The system calls that need `unsafe`.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper; each says why it is sound"
)]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::{io, ptr};

use nix::NixPath;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::ForkResult;

use crate::config::Environment;
use crate::fs;

/// Sets a variable in the environment of this process, which must have one thread. Only what a library reads by itself is set
/// so: everything of ours is handed its `config::Environment`.
#[expect(
    clippy::disallowed_methods,
    reason = "called before there is another thread that could read the environment"
)]
pub(crate) fn set_variable_before_threads(name: &str, value: &str) {
    // SAFETY: with one thread nobody reads the environment meanwhile.
    unsafe { std::env::set_var(name, value) }
}

/// Replaces the environment of this process, which must have one thread: a forked child's, which its script inherits.
#[expect(
    clippy::disallowed_methods,
    reason = "called in a process with one thread"
)]
pub(super) fn replace_environment(variables: &Environment) {
    for (name, _) in std::env::vars_os() {
        // SAFETY: with one thread nobody reads the environment meanwhile.
        unsafe { std::env::remove_var(name) }
    }
    for (name, value) in variables.iter() {
        // SAFETY: with one thread nobody reads the environment meanwhile.
        unsafe { std::env::set_var(name, value) }
    }
}

/// Gives every signal that this process has inherited as ignored its default disposition, except those in `keep`, and unblocks
/// all. Supervisors, container entry points and shells pass on what they ignore: with SIGCHLD ignored the kernel reaps children
/// itself, so that nobody hears of their ends.
///
/// Handlers stay, such as the one of the Rust runtime for stack overflows. SIGPIPE stays ignored, which is the Rust runtime's
/// doing; `std::process::Command` gives programs the default again.
pub(crate) fn default_signals(keep: &[Signal]) {
    let is_kept = |number| {
        number == libc::SIGPIPE || keep.iter().any(|signal| *signal as libc::c_int == number)
    };
    for number in (1..=SIGNALS).filter(|number| !is_kept(*number)) {
        let mut current = KernelAction::default();
        if sigaction(number, None, Some(&mut current)) && current.handler == libc::SIG_IGN {
            sigaction(number, Some(&KernelAction::default()), None);
        }
    }
    // It cannot fail: both arguments are valid.
    let _ = SigSet::empty().thread_set_mask();
}

/// Signals are numbered from 1 to this.
const SIGNALS: libc::c_int = 64;

/// The kernel's `struct sigaction`, whose first field is the handler and which is smaller than this. All zeros is the default
/// disposition.
#[repr(C)]
#[derive(Default)]
struct KernelAction {
    handler: libc::sighandler_t,
    rest: [u64; 7],
}

/// The system call itself: the C library refuses the signals that it keeps for itself, which can be inherited as ignored, too.
fn sigaction(
    number: libc::c_int,
    new: Option<&KernelAction>,
    old: Option<&mut KernelAction>,
) -> bool {
    let new = new.map_or(ptr::null(), ptr::from_ref);
    let old = old.map_or(ptr::null_mut(), ptr::from_mut);
    let mask_size: libc::size_t = 8;
    // SAFETY: both are null or large enough, and live until the call returns. Only the default disposition is ever set here, which
    // runs no code of ours.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, number, new, old, mask_size) == 0 }
}

/// Forks this process, which must have one thread: the sandbox child has, and the agent at its start.
pub(super) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: with one thread there are no locks that another one could hold in the copy.
    unsafe { nix::unistd::fork() }
}

/// Ends this process without running what was to be run at its end: that is the business of the process it was forked from.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: `_exit` has no conditions.
    unsafe { libc::_exit(code) }
}

/// Has the programs that this process executes inherit none of its descriptors but standard input and output, and pipes among those in
/// `keep`. Whoever started this process may have left files open in it that they must not read.
pub(crate) fn inherit_no_descriptors(keep: &[i32]) {
    let mut keep: Vec<i32> = keep
        .iter()
        .copied()
        .filter(|number| is_pipe(*number))
        .collect();
    keep.sort_unstable();
    let mut first = 3;
    for number in keep.into_iter().chain([i32::MAX]) {
        if first < number {
            close_on_exec(first, number - 1);
        }
        first = number.saturating_add(1);
    }
}

fn is_pipe(descriptor: i32) -> bool {
    // SAFETY: all of its fields are numbers, for which zero is a value.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives until the call returns. A number that is no open descriptor is an error and nothing else.
    let found = unsafe { libc::fstat(descriptor, &raw mut status) };
    found == 0 && status.st_mode & libc::S_IFMT == libc::S_IFIFO
}

/// Sets the flag for every descriptor in a range.
fn close_on_exec(first: i32, last: i32) {
    // SAFETY: three numbers, of which descriptors that are not open are no error.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            last,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        return;
    }
    // Linux before 5.11, or a filter of system calls.
    let open = fs::list("/proc/self/fd".as_ref()).unwrap_or_default();
    let numbers = open
        .iter()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers.filter(|number| (first..=last).contains(number)) {
        // SAFETY: it sets a flag of a descriptor. The one that the list was read from is closed by now, which is an error and nothing else.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Gives up the terminal of this process's session, for itself and what it forks from now on. A script in a background group of
/// a session with a terminal would be stopped when it asks a question there, and wait for ever.
///
/// A session of its own would do the same, but the kernel's autogroups divide the processor between sessions first and heed
/// niceness within a session only: each script would get as much as everything that the user has started at nice 19.
pub(super) fn leave_terminal() {
    // SAFETY: the flags are valid, and the path ends with a zero byte.
    let terminal = unsafe { libc::open(c"/dev/tty".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if terminal < 0 {
        // There is none.
        return;
    }
    // SAFETY: the request takes no argument. It is an error in a process without a terminal only.
    unsafe { libc::ioctl(terminal, libc::TIOCNOTTY) };
    // SAFETY: this function has opened it, and nobody else has it.
    unsafe { libc::close(terminal) };
}

/// Asks for short time slices for this process, which must have one thread, and for everything that it starts. The share of the
/// processor stays the same, but a thread that wakes up does not wait until a process of lower priority has used up its slice: a
/// package is handed from thread to thread and from process to process some thirty times.
///
/// Linux before 6.12 ignores it.
pub(crate) fn shorten_slices_before_threads() {
    // SAFETY: all of its fields are numbers, for which zero is a value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: the structure is as large as it is said to be and lives until the call returns.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if got != 0 || attributes.sched_policy != libc::SCHED_OTHER.cast_unsigned() {
        return;
    }
    attributes.sched_flags = 0;
    attributes.sched_runtime = SLICE;
    // SAFETY: as above. Niceness is given back as it was read; what the kernel refuses stays as it is.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// A short time slice, in nanoseconds: below the kernel's 0.7 ms to 3 ms.
const SLICE: u64 = 500_000;

/// Sets or clears the read-only flag of a mount. Its other flags stay.
pub(super) fn set_read_only(at: &Path, is_read_only: bool) -> nix::Result<()> {
    mount_setattr(at, 0, is_read_only)
}

/// The same for a mount and everything that is mounted below it: all of them, or none.
pub(super) fn set_read_only_below(at: &Path, is_read_only: bool) -> nix::Result<()> {
    mount_setattr(at, AT_RECURSIVE, is_read_only)
}

/// Everything below a mount, too.
const AT_RECURSIVE: libc::c_uint = 0x8000;

/// Not writable.
const MOUNT_ATTR_RDONLY: u64 = 1;

/// The kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Linux 5.12 and later.
fn mount_setattr(at: &Path, flags: libc::c_uint, is_read_only: bool) -> nix::Result<()> {
    let attributes = match is_read_only {
        true => MountAttributes {
            set: MOUNT_ATTR_RDONLY,
            ..MountAttributes::default()
        },
        false => MountAttributes {
            clear: MOUNT_ATTR_RDONLY,
            ..MountAttributes::default()
        },
    };
    let size = size_of::<MountAttributes>();
    let result = at.with_nix_path(|at| {
        // SAFETY: the path ends with a zero byte, the structure is as large as it is said to be, and both live until the call returns.
        unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                libc::AT_FDCWD,
                at.as_ptr(),
                flags,
                &raw const attributes,
                size,
            )
        }
    })?;
    Errno::result(result).map(drop)
}

/// The version of the kernel's Landlock; 0 where there is none.
pub(super) fn landlock_version() -> i32 {
    const VERSION: libc::c_uint = 1;
    let none = ptr::null::<u8>();
    let size: libc::size_t = 0;
    // SAFETY: with this flag there are no attributes, and the call makes nothing.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, size, VERSION) };
    i32::try_from(version).unwrap_or(0).max(0)
}

/// The kernel's `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    access: u64,
    parent: i32,
}

/// Adds to a Landlock ruleset that something is allowed for everything below a directory, or for a file.
pub(super) fn landlock_allow(
    ruleset: BorrowedFd<'_>,
    below: BorrowedFd<'_>,
    access: u64,
) -> nix::Result<()> {
    const PATH_BENEATH: libc::c_int = 1;
    const FLAGS: libc::c_uint = 0;
    let rule = PathBeneath {
        access,
        parent: below.as_raw_fd(),
    };
    // SAFETY: the structure is the kernel's for this type of rule and lives until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            PATH_BENEATH,
            &raw const rule,
            FLAGS,
        )
    };
    Errno::result(result).map(drop)
}

/// Starts the loopback of this process's network namespace. It has its addresses already.
pub(super) fn start_loopback() -> io::Result<()> {
    // A socket of any family takes requests about interfaces.
    let socket = UnixDatagram::unbound()?;
    // SAFETY: all of its fields are numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request lives until the call returns, and is of the type that this call reads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Ok(Errno::result(result).map(drop)?)
}
