//! Errors of the sandbox. A script that ran and failed is not an error here: see `ScriptEnd`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::step::StepError;
use crate::diag::Elapsed;
use crate::process::Status;
use crate::{fs, process, runtime};

/// The sandbox could not be created, used or removed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A file operation failed.
    #[error(transparent)]
    Files(#[from] fs::Error),
    /// Another process compiles in this base directory, or processes of a killed run still do.
    #[error("another bosh-agent is compiling in `{}`: {holder}", base.display())]
    Busy {
        /// The base directory.
        base: PathBuf,
        /// The text that the holder wrote into the lock file.
        holder: String,
    },
    /// A directory contains packages that another agent has installed.
    #[error("`{}` holds `{entry}`, which bosh-agent compile did not put there", directory.display())]
    Foreign {
        /// The directory.
        directory: PathBuf,
        /// The name of one of the packages.
        entry: String,
    },
    /// `--force` cannot remove packages of another agent: they contain a mount, or are in one.
    #[error("--force cannot remove the packages of another program, because `{}` is a mount", directory.display())]
    ForeignMount {
        /// The mount point.
        directory: PathBuf,
    },
    /// A script has replaced directories that contain packages.
    #[error("the packaging script replaced {}", listed(directories, |directory, found| {
        format!("`{}`, which leads to `{}` now", directory.display(), found.display())
    }))]
    Replaced {
        /// The path of each directory in the script's view, and where this path leads now.
        directories: Vec<(PathBuf, PathBuf)>,
    },
    /// `--force` does not remove packages in directories that are links: the script of a killed run may have made the links.
    #[error("--force does not follow links to remove packages: {}", listed(links, |link, target| {
        format!("`{}` is a link to `{}`", link.display(), target.display())
    }))]
    UnknownLinks {
        /// The links and their targets.
        links: Vec<(PathBuf, PathBuf)>,
    },
    /// The script of a killed run has replaced a directory.
    #[error("`{}` is a link to `{}`, probably made by the packaging script of an earlier run that was killed", directory.display(), target.display())]
    LeftLink {
        /// The directory.
        directory: PathBuf,
        /// The target of the link.
        target: PathBuf,
    },
    /// The script of a killed run has mounted a file system over a directory.
    #[error("a file system is mounted over `{}`, probably by the packaging script of an earlier run that was killed", directory.display())]
    LeftMount {
        /// The directory.
        directory: PathBuf,
        /// The file with the notes of the killed run.
        marker: PathBuf,
    },
    /// A file system that is mounted over a directory does not respond. No notes of a killed run show that its script has mounted it.
    #[error("the file system that is mounted at `{}` does not respond{}", directory.display(), match limit {
        Some(limit) => format!(": no result after {}", Elapsed(*limit)),
        None => String::new(),
    })]
    SilentMount {
        /// The directory.
        directory: PathBuf,
        /// How long the agent has waited. `None` if the file system's server has ended.
        limit: Option<Duration>,
    },
    /// The run or the request was stopped while it waited for a file system.
    #[error("stopped while waiting for a file system")]
    Stopped,
    /// A scratch directory cannot be created or written to.
    #[error("the scratch directory `{}` cannot be used", directory.display())]
    Scratch {
        /// The directory.
        directory: PathBuf,
        /// The failed operation.
        source: fs::Error,
    },
    /// The child process could not be run.
    #[error(transparent)]
    Supervise(#[from] process::SuperviseError),
    /// A task of the sandbox panicked or was canceled.
    #[error(transparent)]
    Task(#[from] runtime::TaskFailed),
    /// The orders cannot be encoded for the child.
    #[error("failed to encode the instructions for the sandbox child")]
    Orders(#[source] serde_json::Error),
    /// The child process reported a step that failed.
    #[error("failed to create the sandbox of a packaging script")]
    Step(#[source] StepError),
    /// The child process that examines files reported a step that failed.
    #[error("failed to start the process that examines files")]
    LookupStep(#[source] StepError),
    /// This process could not enter a user namespace.
    #[error("scripts cannot be isolated in a user namespace")]
    NoUserNamespace(#[source] StepError),
    /// Without namespaces, scripts cannot have another root file system.
    #[error("--stemcell-image requires namespaces")]
    Image {
        /// Why namespaces are not available, if they were tried.
        source: Option<Box<SandboxError>>,
    },
    /// Without namespaces, scripts cannot be denied the network.
    #[error("--network=none requires namespaces")]
    Network {
        /// Why namespaces are not available, if they were tried.
        source: Option<Box<SandboxError>>,
    },
    /// Without namespaces, the host cannot be protected from writes.
    #[error("--protect-host requires namespaces")]
    ProtectHost {
        /// Why namespaces are not available, if they were tried.
        source: Option<Box<SandboxError>>,
    },
    /// The self-test created a sandbox, but the program in it failed.
    #[error("the sandbox self-test failed: its program {0}")]
    ProbeFailed(Status),
    /// The parent process of a script was killed.
    #[error("the process that runs the packaging script ended without a report: it {status}")]
    NoReport {
        /// Its exit status.
        status: Status,
    },
    /// A process that looks up or copies files for the agent was killed.
    #[error(
        "the helper process that reads files for bosh-agent ended without an answer: it {status}"
    )]
    NoAnswer {
        /// Its exit status.
        status: Status,
    },
    /// The child process and the fork server were killed, so the child's exit status is unknown.
    #[error("both helper processes of bosh-agent, sandbox-child and sandbox-server, were killed")]
    NoServer,
}

/// Describes pairs of paths in one sentence.
fn listed(pairs: &[(PathBuf, PathBuf)], describe: impl Fn(&Path, &Path) -> String) -> String {
    let described = pairs.iter().map(|(one, other)| describe(one, other));
    described.collect::<Vec<_>>().join(", and ")
}

impl SandboxError {
    /// Whether the disk (or the quota) is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Step(step) => step.is_no_space(),
            other => fs::is_no_space_behind(other),
        }
    }

    /// Whether the script of a killed run has replaced the data directory with a link or a mount, which the agent cannot undo.
    #[must_use]
    pub(crate) fn is_data_replaced(&self) -> bool {
        matches!(self, Self::LeftLink { .. } | Self::LeftMount { .. })
    }

    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Busy { .. } => Some("wait for it to exit, or use another container".to_owned()),
            Self::Foreign { .. } => Some(
                "this looks like a BOSH VM or a container where another agent has run: compile in a fresh container, or \
                 pass --force to remove everything in packages, data/packages and data/compile of the base directory"
                    .to_owned(),
            ),
            Self::Replaced { .. } => Some(
                "have the script change files in $BOSH_COMPILE_TARGET and $BOSH_INSTALL_TARGET only, not the directories above them"
                    .to_owned(),
            ),
            Self::UnknownLinks { .. } => Some(
                "if a packaging script made a link, remove the link. If you made it yourself, keep it, and remove the packages in the directory to which it leads"
                    .to_owned(),
            ),
            Self::LeftLink { directory, .. } => {
                Some(format!("remove the link `{}`", directory.display()))
            }
            Self::ForeignMount { directory } => Some(format!("unmount `{}`", directory.display())),
            Self::LeftMount { directory, marker } => Some(to_uncover(directory, marker)),
            Self::SilentMount { directory, .. } => Some(format!(
                "restore its server, or unmount it (`umount -l {}`)",
                directory.display()
            )),
            Self::Files(error) if error.hint().is_some() => error.hint(),
            Self::Image { source } | Self::Network { source } | Self::ProtectHost { source } => {
                let first = to_get_namespaces(source.is_some());
                Some(format!("{first}, or {}", self.without_namespaces()))
            }
            Self::NoReport { .. } | Self::NoAnswer { .. } => Some(to_find_killer("it")),
            Self::NoServer => Some(to_find_killer("them")),
            Self::Scratch { .. } => Some(
                "pass a --scratch-dir in which this user can write to all files, or omit the flag".to_owned(),
            ),
            Self::Files(error)
                if error.source.kind() == std::io::ErrorKind::PermissionDenied
                    && !nix::unistd::geteuid().is_root() =>
            {
                Some(OWN_BASE.to_owned())
            }
            Self::Files(_)
            | Self::Supervise(_)
            | Self::Task(_)
            | Self::Orders(_)
            | Self::Step(_)
            | Self::LookupStep(_)
            | Self::NoUserNamespace(_)
            | Self::ProbeFailed(_)
            | Self::Stopped => None,
        }
    }
}

impl SandboxError {
    /// The alternative to namespaces if a flag requires them.
    fn without_namespaces(&self) -> &'static str {
        match self {
            Self::Image { .. } => {
                "compile in a container of the stemcell image, without --stemcell-image"
            }
            Self::Network { .. } => {
                "compile without --network=none: scripts then have access to the network"
            }
            _ => {
                "compile without --protect-host: the tier `landlock` still protects other packages and dependencies, but not the files in \
                 /etc and /usr; the tier `none` protects nothing"
            }
        }
    }
}

/// The hint for an ordinary user who may not write to the base directory.
const OWN_BASE: &str = "compile as root or in a container, or pass a --base-directory that you may write to (compiled packages run only \
                        below the directory in which they were compiled)";

/// The hint if a file system is mounted over a directory that a killed run has noted.
fn to_uncover(directory: &Path, marker: &Path) -> String {
    format!(
        "unmount `{}`. If you mounted it yourself after that run, leave it mounted, and remove the file `{}` instead: it is only a record of the killed run",
        directory.display(),
        marker.display()
    )
}

/// The hint if processes were killed. `them` is the pronoun for the processes.
fn to_find_killer(them: &str) -> String {
    format!(
        "run `dmesg` to check whether the kernel killed {them} because the machine ran out of memory. Otherwise, another program killed {them}"
    )
}

/// The hint if a flag requires namespaces. `were_tried`: `auto` has tried them without success. Otherwise, another tier was requested.
fn to_get_namespaces(were_tried: bool) -> &'static str {
    match were_tried {
        true => "make namespaces available (docs/isolation.md lists what each environment needs)",
        false => "use --isolation=auto, namespace or userns",
    }
}
