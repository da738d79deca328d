//! What the child is told and what it tells: plain data, one line of JSON each.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::protect::Protection;
use super::wire;
use crate::process::{Status, Unkillable, Usage};

/// What the child is to run. Its environment is the script's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The program, looked up in `PATH`.
    pub program: String,
    /// Its arguments.
    #[serde(with = "wire")]
    pub arguments: Vec<OsString>,
    /// Its working directory, as it sees it.
    #[serde(with = "wire")]
    pub directory: PathBuf,
    /// Its umask.
    pub umask: u32,
    /// How much nicer than this program it is, from 0 to 19.
    pub nice: i32,
    /// A file that the child keeps locked, shared, until the last process is gone. Who finds it free may remove what the script
    /// worked in.
    #[serde(with = "wire")]
    pub hold: PathBuf,
    /// How long the processes get between SIGTERM and SIGKILL when the agent is lost or the child itself is asked to end.
    pub grace: Duration,
    /// Its own view of the file system, with its own processes and IPC; `None` for the one that everybody has.
    pub view: Option<View>,
    /// What it may reach of the tree that everybody has; `None` for everything.
    pub rules: Option<Rules>,
}

/// What a script may reach where no view can be made for it. Everything beside the way to the guarded directories is free. All
/// paths are absolute and without links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Directories in which nothing is reached but for what follows.
    #[serde(with = "wire")]
    pub guarded: Vec<PathBuf>,
    /// Directories on the way to guarded ones of which no entry is free by itself: `whole` names those that are.
    pub listed: Vec<PathBuf>,
    /// What is the script's own.
    #[serde(with = "wire")]
    pub whole: Vec<PathBuf>,
    /// What it may read and run.
    #[serde(with = "wire")]
    pub readable: Vec<PathBuf>,
}

/// A view of the file system: what is mounted where, in namespaces that end with the script.
///
/// Relative paths are below `work`. Sources are given so because later mounts may cover their absolute paths, and because
/// overlay options cannot hold every character that a directory's name may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Whether it is made in a user namespace, where overlays are mounted a little differently.
    pub in_user_namespace: bool,
    /// Whether the script gets a process namespace. It needs a `/proc` of its own, which not every place allows.
    pub processes: bool,
    /// Whether the mounts are locked, so that the script cannot undo them.
    pub locked: bool,
    /// Whether the script has the network that everybody has, or nothing but a loopback of its own.
    pub network: bool,
    /// The work directory. Scripts see an empty one there.
    #[serde(with = "wire")]
    pub work: PathBuf,
    /// Dependencies, mounted into the package's tree.
    pub dependencies: Vec<Mounted>,
    /// What becomes of writes into dependencies.
    pub writes: Writes,
    /// Where they go for the time being.
    #[serde(with = "wire")]
    pub scratch: PathBuf,
    /// Scratch directories that packages share, mounted into the package's tree. Source, place.
    #[serde(with = "wire")]
    pub shared: Vec<(PathBuf, PathBuf)>,
    /// Where they are kept for later runs, if it is a place that scripts would see. They see an empty one there.
    pub hidden: Option<PathBuf>,
    /// Files and directories with secrets, absolute. Scripts see empty ones there.
    #[serde(with = "wire")]
    pub secrets: Vec<PathBuf>,
    /// What else the covered directory has: mounted into the package's tree as it is. Source, place.
    #[serde(with = "wire")]
    pub kept: Vec<(PathBuf, PathBuf)>,
    /// Those sources of `temporary` that are to be file systems in memory, as `/dev/shm` is.
    #[serde(with = "wire")]
    pub memory: Vec<PathBuf>,
    /// What the script's environment names below the private directories. The host's path, its place in the private directory.
    #[serde(with = "wire")]
    pub named: Vec<(PathBuf, PathBuf)>,
    /// Links on the way to that. Place in the private directory, what the link says.
    #[serde(with = "wire")]
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Private directories for temporary files. Source, place.
    #[serde(with = "wire")]
    pub temporary: Vec<(PathBuf, PathBuf)>,
    /// The package's tree and the directory that it covers: the base directory or, where that is not there, one above it.
    #[serde(with = "wire")]
    pub tree: (PathBuf, PathBuf),
    /// What of all this the script may write to; `None` where mounts are as they are.
    pub protection: Option<Protection>,
}

impl View {
    /// Whether something in this directory is hidden from the script.
    pub(super) fn covers_below(&self, directory: &Path) -> bool {
        let hidden = self.hidden.iter().map(|hidden| self.work.join(hidden));
        let mut hidden = hidden.chain([self.work.clone(), self.tree.1.clone()]);
        let is_below = |path: &Path| path.starts_with(directory);
        hidden.any(|path| is_below(&path)) || self.secrets.iter().any(|path| is_below(path))
    }
}

/// A dependency's place in a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Its sealed tree, which is alone in its directory.
    #[serde(with = "wire")]
    pub sealed: PathBuf,
    /// Where it is mounted.
    #[serde(with = "wire")]
    pub at: PathBuf,
}

/// What becomes of writes into a dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writes {
    /// They succeed, on the disk, and are dropped with the script.
    ToDisk,
    /// They succeed, in memory, and are dropped with the script: for work directories that cannot hold an overlay's upper layer.
    ToMemory,
    /// They fail.
    Refused,
}

/// What the child says at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The script ran and ended.
    Ended {
        /// How it ended.
        status: Status,
        /// Processes that it had left behind, and that were ended.
        left_behind: usize,
        /// How many of them could not be ended, for they belong to another user by now.
        not_ended: usize,
        /// Those that the kernel does not end.
        #[serde(default)]
        unkillable: Vec<Unkillable>,
        /// What it used, with all its descendants.
        usage: Usage,
        /// Where it left something mounted, as far as that can be written as text.
        #[serde(default)]
        mounts: Vec<String>,
    },
    /// It could not be run.
    Failed(StepError),
    /// The child ended without a report of its own; the fork server has killed what it left and says this in its place.
    Lost {
        /// How the child ended.
        status: Status,
    },
}

/// A step of the child that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("failed to {step}: {}", io::Error::from_raw_os_error(*errno))]
pub struct StepError {
    /// The step.
    pub step: Step,
    /// What the system answered.
    pub errno: i32,
}

impl StepError {
    /// Whether the disk (or the quota) is full. Steps that write nothing are answered alike where there are too many namespaces or
    /// mounts.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self.step, Step::PrepareOverlay(_) | Step::MountOverlay(_))
            && [Errno::ENOSPC, Errno::EDQUOT].contains(&Errno::from_raw(self.errno))
    }
}

/// The steps of the child, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Reading the spec.
    ReadOrders,
    /// Locking what says that the script has processes.
    Hold(#[serde(with = "wire")] PathBuf),
    /// Becoming a subreaper.
    AdoptOrphans,
    /// Making signals readable.
    ListenForSignals,
    /// A user namespace.
    SeparateUsers,
    /// The owners that there are in a user namespace.
    MapUsers(String),
    /// Becoming root in a user namespace.
    BecomeRoot,
    /// A small file system in memory, to see whether mounts are allowed at all.
    TryMount,
    /// A process namespace and an IPC namespace for what is started from now on.
    SeparateProcesses,
    /// The first process in them.
    Fork,
    /// Ending with the parent.
    FollowParent,
    /// An IPC namespace.
    SeparateIpc,
    /// A mount namespace.
    SeparateMounts,
    /// A network namespace.
    SeparateNetwork,
    /// The loopback of a network namespace.
    StartLoopback,
    /// Keeping its mounts from everybody else.
    KeepMountsPrivate,
    /// Entering the work directory.
    EnterWork(#[serde(with = "wire")] PathBuf),
    /// A private directory in memory.
    MountMemory(#[serde(with = "wire")] PathBuf),
    /// A directory, a file or a link in a private directory.
    MakePlace(#[serde(with = "wire")] PathBuf),
    /// A file system in memory for writes into dependencies.
    MountScratch(#[serde(with = "wire")] PathBuf),
    /// The directories of an overlay.
    PrepareOverlay(#[serde(with = "wire")] PathBuf),
    /// Dependencies, writable.
    MountOverlay(#[serde(with = "wire")] PathBuf),
    /// A dependency, read-only.
    MountReadOnly(#[serde(with = "wire")] PathBuf),
    /// A directory or file in another place.
    Bind(
        #[serde(with = "wire")] PathBuf,
        #[serde(with = "wire")] PathBuf,
    ),
    /// An empty directory over the work directory.
    HideWork(#[serde(with = "wire")] PathBuf),
    /// The process namespace's own `/proc`.
    MountProc,
    /// Making a mount of the host read-only, or keeping one writable that is the script's.
    Protect(#[serde(with = "wire")] PathBuf),
    /// Locking all mounts.
    LockMounts,
    /// Making its view, with everything that is mounted there.
    MakeView,
    /// Rules on what the script may reach.
    Restrict,
    /// Opening a path that a rule is for.
    OpenForRule(#[serde(with = "wire")] PathBuf),
    /// The script's working directory.
    Enter(#[serde(with = "wire")] PathBuf),
    /// The script itself.
    Start(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOrders => write!(f, "read the orders of the sandbox child"),
            Self::Hold(path) => write!(f, "lock `{}`", path.display()),
            Self::AdoptOrphans => write!(f, "become the parent of orphans"),
            Self::ListenForSignals => write!(f, "listen for signals"),
            Self::SeparateUsers => write!(f, "make a user namespace"),
            Self::MapUsers(how) => write!(f, "set the owners of a user namespace {how}"),
            Self::BecomeRoot => write!(f, "become root in a user namespace"),
            Self::TryMount => write!(f, "mount anything"),
            Self::SeparateProcesses => write!(f, "make a process namespace"),
            Self::Fork => write!(f, "start the first process of a namespace"),
            Self::FollowParent => write!(f, "bind a process to its parent's life"),
            Self::SeparateIpc => write!(f, "make an IPC namespace"),
            Self::SeparateMounts => write!(f, "make a mount namespace"),
            Self::SeparateNetwork => write!(f, "make a network namespace"),
            Self::StartLoopback => write!(f, "start the loopback of a network namespace"),
            Self::KeepMountsPrivate => write!(f, "make mounts private"),
            Self::EnterWork(path) => write!(f, "enter `{}`", path.display()),
            Self::MountMemory(path) => write!(f, "mount a tmpfs at `{}`", path.display()),
            Self::MakePlace(path) => write!(f, "make `{}`", path.display()),
            Self::MountScratch(path) => write!(f, "mount a tmpfs at `{}`", path.display()),
            Self::PrepareOverlay(path) => write!(f, "prepare `{}`", path.display()),
            Self::MountOverlay(path) => write!(f, "mount an overlay at `{}`", path.display()),
            Self::MountReadOnly(path) => write!(f, "mount `{}` read-only", path.display()),
            Self::Bind(from, to) => {
                write!(f, "mount `{}` at `{}`", from.display(), to.display())
            }
            Self::HideWork(path) => write!(f, "hide `{}`", path.display()),
            Self::MountProc => write!(f, "mount /proc"),
            Self::Protect(path) => write!(f, "protect `{}` from writes", path.display()),
            Self::LockMounts => write!(f, "lock mounts"),
            Self::MakeView => write!(f, "make the mounts of a script"),
            Self::Restrict => write!(f, "restrict what a script may reach"),
            Self::OpenForRule(path) => {
                write!(
                    f,
                    "open `{}` for a rule on what a script may reach",
                    path.display()
                )
            }
            Self::Enter(path) => write!(f, "enter `{}`", path.display()),
            Self::Start(program) => write!(f, "start `{program}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn too_many_namespaces_are_no_full_disk() {
        let errno = Errno::ENOSPC as i32;
        let failed = |step| StepError { step, errno };
        assert!(!failed(Step::SeparateMounts).is_no_space());
        assert!(failed(Step::PrepareOverlay(PathBuf::from("overlay"))).is_no_space());
    }

    use super::*;

    #[test]
    fn a_spec_and_a_report_are_one_line_each_and_come_back_as_they_were() {
        let spec = Spec {
            program: "bash".to_owned(),
            arguments: vec!["-x".into(), "a\nb".into()],
            directory: PathBuf::from("/var/vcap/data/compile/a"),
            umask: 0o022,
            nice: 0,
            hold: PathBuf::from("/var/vcap/packages/.lock"),
            grace: Duration::from_millis(1500),
            view: Some(View {
                in_user_namespace: false,
                processes: true,
                locked: true,
                network: true,
                work: PathBuf::from(OsString::from_vec(b"/work-\xff".to_vec())),
                dependencies: vec![Mounted {
                    sealed: PathBuf::from("store/a"),
                    at: PathBuf::from("places/0/vcap/data/packages/a/1"),
                }],
                writes: Writes::ToDisk,
                scratch: PathBuf::from("places/0/overlay"),
                shared: vec![(
                    PathBuf::from("scratch/a"),
                    PathBuf::from("places/0/vcap/data/a"),
                )],
                hidden: Some(PathBuf::from("scratch")),
                secrets: vec![PathBuf::from("/etc/agent.json")],
                kept: Vec::new(),
                memory: vec![PathBuf::from("places/0/dev-shm")],
                named: vec![(
                    PathBuf::from("/tmp/home"),
                    PathBuf::from("places/0/tmp/home"),
                )],
                links: Vec::new(),
                temporary: vec![(PathBuf::from("places/0/tmp"), PathBuf::from("/tmp"))],
                tree: (PathBuf::from("places/0/vcap"), PathBuf::from("/var/vcap")),
                protection: None,
            }),
            rules: Some(Rules {
                guarded: vec![PathBuf::from("/var/vcap/packages")],
                listed: Vec::new(),
                whole: Vec::new(),
                readable: Vec::new(),
            }),
        };
        let line = serde_json::to_string(&spec).unwrap();
        assert!(!line.contains('\n'));
        assert!(
            line.contains("/var/vcap/data/compile/a"),
            "readable where it can be: {line}"
        );
        assert_eq!(serde_json::from_str::<Spec>(&line).unwrap(), spec);
        let failed = Report::Failed(StepError {
            step: Step::Bind(
                PathBuf::from(OsString::from_vec(vec![0xff])),
                PathBuf::from("/b"),
            ),
            errno: 2,
        });
        let line = serde_json::to_string(&failed).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), failed);
        let report = Report::Ended {
            status: Status::Signaled(9),
            left_behind: 2,
            not_ended: 0,
            unkillable: vec![Unkillable {
                process: 7,
                name: "stat".to_owned(),
                state: "D".to_owned(),
                waits_in: None,
                step: None,
            }],
            usage: Usage::default(),
            mounts: vec!["/var/vcap/data/compile/a/m".to_owned()],
        };
        let line = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
    }

    #[test]
    fn a_failed_step_says_what_the_system_answered() {
        let error = StepError {
            step: Step::Start("bash".to_owned()),
            errno: 2,
        };
        assert_eq!(
            error.to_string(),
            "failed to start `bash`: No such file or directory (os error 2)"
        );
    }
}
