//! System calls that need `unsafe`.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper; each says why it is sound"
)]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, ptr};

use nix::NixPath;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::ForkResult;

use crate::config::Environment;
use crate::fs;

/// Sets a variable in the environment of this process, which must have one thread. This is only for variables that a library reads:
/// the agent's own code receives a `config::Environment`.
#[expect(
    clippy::disallowed_methods,
    reason = "called before there is another thread that could read the environment"
)]
pub(crate) fn set_variable_before_threads(name: &str, value: &str) {
    // SAFETY: there is no other thread that could read the environment meanwhile.
    unsafe { std::env::set_var(name, value) }
}

/// Replaces the environment of this process, a forked child with one thread. Its script inherits it.
#[expect(
    clippy::disallowed_methods,
    reason = "called in a process with one thread"
)]
pub(super) fn replace_environment(variables: &Environment) {
    for (name, _) in std::env::vars_os() {
        // SAFETY: there is no other thread that could read the environment meanwhile.
        unsafe { std::env::remove_var(name) }
    }
    for (name, value) in variables.iter() {
        // SAFETY: there is no other thread that could read the environment meanwhile.
        unsafe { std::env::set_var(name, value) }
    }
}

/// Resets every signal that this process has inherited as ignored to its default disposition, except those in `keep`, and unblocks
/// all. Processes inherit ignored signals from supervisors, container entry points and shells. With an ignored SIGCHLD, the kernel
/// reaps children itself, and their exit status is lost.
///
/// Handlers stay, for example that of the Rust runtime for stack overflows. SIGPIPE stays ignored, as the Rust runtime set it;
/// `std::process::Command` resets it for programs.
pub(crate) fn default_signals(keep: &[Signal]) {
    let is_kept = |number| {
        number == libc::SIGPIPE || keep.iter().any(|signal| *signal as libc::c_int == number)
    };
    let mut ignored = Vec::new();
    for number in (1..=SIGNALS).filter(|number| !is_kept(*number)) {
        let mut current = KernelAction::default();
        if sigaction(number, None, Some(&mut current)) && current.handler == libc::SIG_IGN {
            sigaction(number, Some(&KernelAction::default()), None);
            ignored.push(number);
        }
    }
    // Cannot fail: the mask is valid.
    let blocked = SigSet::empty().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    // Keep the first value: a second call finds what the first one has set.
    let _ = INHERITED.set((ignored, blocked.unwrap_or(SigSet::empty())));
}

/// The signals that this process inherited as ignored, except those that are still ignored, and the blocked ones.
static INHERITED: OnceLock<(Vec<libc::c_int>, SigSet)> = OnceLock::new();

/// Whether this process inherited SIGPIPE as ignored.
static SIGPIPE_IGNORED: AtomicBool = AtomicBool::new(false);

/// The loader runs this before `main`, in which the Rust runtime ignores SIGPIPE.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

extern "C" fn note_sigpipe() {
    let mut current = KernelAction::default();
    let found = sigaction(libc::SIGPIPE, None, Some(&mut current));
    let is_ignored = found && current.handler == libc::SIG_IGN;
    SIGPIPE_IGNORED.store(is_ignored, Ordering::Relaxed);
}

/// Undoes [`default_signals`], and what the Rust runtime has set, before this process executes another program, which the calling thread
/// does.
pub(super) fn restore_signals() {
    let ignore = KernelAction {
        handler: libc::SIG_IGN,
        ..KernelAction::default()
    };
    let of_pipe = match SIGPIPE_IGNORED.load(Ordering::Relaxed) {
        true => &ignore,
        false => &KernelAction::default(),
    };
    sigaction(libc::SIGPIPE, Some(of_pipe), None);
    let Some((ignored, blocked)) = INHERITED.get() else {
        return;
    };
    for number in ignored {
        sigaction(*number, Some(&ignore), None);
    }
    // Cannot fail: the mask is valid.
    let _ = blocked.thread_set_mask();
}

/// Signals are numbered from 1 to this.
const SIGNALS: libc::c_int = 64;

/// Has room for the kernel's `struct sigaction`, whose first field is the handler. All zeros mean the default disposition.
#[repr(C)]
#[derive(Default)]
struct KernelAction {
    handler: libc::sighandler_t,
    rest: [u64; 7],
}

/// The system call itself: the C library refuses its internal signals, which can also be inherited as ignored.
fn sigaction(
    number: libc::c_int,
    new: Option<&KernelAction>,
    old: Option<&mut KernelAction>,
) -> bool {
    let new = new.map_or(ptr::null(), ptr::from_ref);
    let old = old.map_or(ptr::null_mut(), ptr::from_mut);
    let mask_size: libc::size_t = 8;
    // SAFETY: both are null or large enough, and live until the call returns. Callers set only the default disposition or ignore the
    // signal, which both run no handler.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, number, new, old, mask_size) == 0 }
}

/// Forks this process, which must have one thread, as the sandbox child and the starting agent have.
pub(super) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: there is no other thread, so no lock is held in the copy.
    unsafe { nix::unistd::fork() }
}

/// Exits this process without running exit handlers: they belong to the process that it was forked from.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: `_exit` has no conditions.
    unsafe { libc::_exit(code) }
}

/// Prevents programs that this process executes from inheriting descriptors, except standard input and output, and pipes in `keep`. The
/// parent of this process may have left files open that scripts must not read.
pub(crate) fn inherit_no_descriptors(keep: &[i32]) {
    // Keep the first value: later calls find what the first one has set.
    INHERITED_DESCRIPTORS.get_or_init(|| {
        let inherited = open_descriptors();
        inherited
            .filter(|it| *it > 2 && is_inherited(*it))
            .collect()
    });
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

/// The descriptors that this process inherited, except standard input and output.
static INHERITED_DESCRIPTORS: OnceLock<Vec<i32>> = OnceLock::new();

/// Undoes [`inherit_no_descriptors`] before this process executes another program, for descriptors that this process inherited.
pub(super) fn restore_descriptors() {
    for descriptor in INHERITED_DESCRIPTORS.get().into_iter().flatten() {
        // SAFETY: this sets the flags of a descriptor. A number that is not an open descriptor only causes an error.
        unsafe { libc::fcntl(*descriptor, libc::F_SETFD, 0) };
    }
}

/// Whether programs that this process executes inherit the descriptor.
fn is_inherited(descriptor: i32) -> bool {
    // SAFETY: this reads the flags of a descriptor. A number that is not an open descriptor only causes an error.
    unsafe { libc::fcntl(descriptor, libc::F_GETFD) == 0 }
}

/// The open descriptors of this process, and the closed one from which they were read.
fn open_descriptors() -> impl Iterator<Item = i32> {
    let open = fs::list("/proc/self/fd".as_ref()).unwrap_or_default();
    open.into_iter()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn is_pipe(descriptor: i32) -> bool {
    // SAFETY: all fields are numbers, so all zeros are valid.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives until the call returns. A number that is not an open descriptor only causes an error.
    let found = unsafe { libc::fstat(descriptor, &raw mut status) };
    found == 0 && status.st_mode & libc::S_IFMT == libc::S_IFIFO
}

/// Sets the close-on-exec flag of every descriptor in a range.
fn close_on_exec(first: i32, last: i32) {
    // SAFETY: the arguments are numbers. The range may contain numbers that are not open descriptors.
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
    // Linux before 5.11, or a system call filter that does not know the call.
    for number in open_descriptors().filter(|number| (first..=last).contains(number)) {
        // SAFETY: this sets a flag of a descriptor. The one from which the list was read is already closed, which only causes an error.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Detaches this process, and those that it forks afterwards, from the terminal of its session. A script in a background process group of
/// a session with a terminal would be stopped forever when it reads from the terminal.
///
/// A new session would have the same effect, but the kernel's autogroups divide the CPUs between sessions first and apply niceness only
/// within a session: each script would get as much CPU time as everything that the user has started at niceness 19.
pub(super) fn leave_terminal() {
    // SAFETY: the flags are valid, and the path ends with a zero byte.
    let terminal = unsafe { libc::open(c"/dev/tty".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if terminal < 0 {
        // There is no terminal.
        return;
    }
    // SAFETY: the request takes no argument. It only fails in a process without a terminal.
    unsafe { libc::ioctl(terminal, libc::TIOCNOTTY) };
    // SAFETY: this function has opened it and shares it with no other code.
    unsafe { libc::close(terminal) };
}

/// Requests short time slices for this process, which must have one thread, and for everything that it starts. The share of CPU time stays
/// the same, but a thread that wakes up does not wait until a process of lower priority has used up its slice: about thirty times per
/// package, one thread or process waits for another.
///
/// Linux before 6.12 ignores it.
pub(crate) fn shorten_slices_before_threads() {
    // SAFETY: all fields are numbers, so all zeros are valid.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: `size` is the size of the structure, which lives until the call returns.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if got != 0 || attributes.sched_policy != libc::SCHED_OTHER.cast_unsigned() {
        return;
    }
    attributes.sched_flags = 0;
    attributes.sched_runtime = SLICE;
    // SAFETY: as above. The niceness is written as it was read. If the kernel refuses the call, nothing changes.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// A short time slice, in nanoseconds. The kernel's default is 0.7 ms to 3 ms.
const SLICE: u64 = 500_000;

/// Sets or clears the read-only flag of a mount. Other flags stay.
pub(super) fn set_read_only(at: &Path, is_read_only: bool) -> nix::Result<()> {
    mount_setattr(at, 0, is_read_only)
}

/// Sets or clears the read-only flag of a mount and of all mounts below it. After an error, none is changed.
pub(super) fn set_read_only_below(at: &Path, is_read_only: bool) -> nix::Result<()> {
    mount_setattr(at, AT_RECURSIVE, is_read_only)
}

/// Includes all mounts below a mount.
const AT_RECURSIVE: libc::c_uint = 0x8000;

/// The read-only flag.
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
        // SAFETY: the path ends with a zero byte, `size` is the size of the structure, and both live until the call returns.
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

/// The version of the kernel's Landlock; 0 if it has none.
pub(super) fn landlock_version() -> i32 {
    const VERSION: libc::c_uint = 1;
    let none = ptr::null::<u8>();
    let size: libc::size_t = 0;
    // SAFETY: with this flag the call takes no attributes and creates nothing.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, size, VERSION) };
    i32::try_from(version).unwrap_or(0).max(0)
}

/// The kernel's `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    access: u64,
    parent: i32,
}

/// Adds a rule to a Landlock ruleset: these rights for everything below a directory, or for a file.
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
    // SAFETY: the structure has the layout of this type of rule and lives until the call returns.
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

/// Starts the loopback interface of this process's network namespace. It already has its addresses.
pub(super) fn start_loopback() -> io::Result<()> {
    // A socket of any family accepts requests about interfaces.
    let socket = UnixDatagram::unbound()?;
    // SAFETY: all fields are numbers, so all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        // Signed on x86-64, unsigned on arm64.
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request lives until the call returns and has the type that this call reads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Ok(Errno::result(result).map(drop)?)
}
