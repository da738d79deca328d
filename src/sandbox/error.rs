//! What goes wrong around a script. A script that fails is no error here.

use std::path::PathBuf;

use super::step::StepError;
use crate::process::Status;
use crate::{fs, process, runtime};

/// The sandbox could not be made, used or taken down.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A file operation failed.
    #[error(transparent)]
    Files(#[from] fs::Error),
    /// Somebody else compiles in this tree.
    #[error("another bosh-agent is compiling in `{}`: {holder}", base.display())]
    Busy {
        /// The base directory.
        base: PathBuf,
        /// What the holder of the lock wrote into it.
        holder: String,
    },
    /// There are packages that we did not put there.
    #[error("`{}` holds `{entry}`, which bosh-agent compile did not put there", directory.display())]
    Foreign {
        /// The directory that is in use.
        directory: PathBuf,
        /// One of its entries.
        entry: String,
    },
    /// A script has put something else in the place of a directory that packages are kept in.
    #[error("the packaging script replaced `{}`, which leads to `{}` now", directory.display(), found.display())]
    Replaced {
        /// The directory, by its path in the script's view.
        directory: PathBuf,
        /// Where its path leads.
        found: PathBuf,
    },
    /// A scratch directory cannot be made or written to.
    #[error("the scratch directory `{}` cannot be used", directory.display())]
    Scratch {
        /// The directory.
        directory: PathBuf,
        /// What does not work.
        source: fs::Error,
    },
    /// The child process could not be run.
    #[error(transparent)]
    Supervise(#[from] process::SuperviseError),
    /// A task of the sandbox panicked.
    #[error(transparent)]
    Task(#[from] runtime::TaskFailed),
    /// A path cannot be written down for the child.
    #[error("failed to write down the orders of a script's parent")]
    Orders(#[source] serde_json::Error),
    /// The child process reported a step that failed.
    #[error("the sandbox of a packaging script could not be made")]
    Step(#[source] StepError),
    /// This process could not enter a user namespace.
    #[error("user namespaces cannot be used here")]
    NoUserNamespace(#[source] StepError),
    /// Scripts cannot be kept from the network.
    #[error("packaging scripts can be kept from the network (--network=none) in namespaces only")]
    Network {
        /// Why these cannot be had, where they were tried.
        source: Option<Box<SandboxError>>,
    },
    /// The host cannot be protected from writes.
    #[error(
        "the host can be protected from writes by packaging scripts (--protect-host) in namespaces only"
    )]
    ProtectHost {
        /// Why these are not available, where they were tried.
        source: Option<Box<SandboxError>>,
    },
    /// A sandbox was made for a try, but nothing ran in it.
    #[error("a program in a trial sandbox {0}")]
    ProbeFailed(Status),
    /// A script's parent was killed.
    #[error("the process that runs the packaging script ended without a report: it {status}")]
    NoReport {
        /// How it ended.
        status: Status,
    },
    /// A script's parent was killed, and the fork server that could have told how.
    #[error("the process that runs the packaging script and the sandbox server were killed")]
    NoServer,
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

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Busy { .. } => Some("wait for it to end, or use another container".to_owned()),
            Self::Foreign { directory, .. } => Some(format!(
                "this looks like a BOSH VM or a container where another agent has run: compile in a fresh container, or \
                 pass --force to have everything in `{}` and the packages it leads to removed",
                directory.display()
            )),
            Self::Replaced { .. } => Some(
                "have the script change files in $BOSH_COMPILE_TARGET and $BOSH_INSTALL_TARGET only, not the directories above them"
                    .to_owned(),
            ),
            Self::Files(error) if error.hint().is_some() => error.hint(),
            Self::ProtectHost { .. } => Some(
                "use --isolation=namespace or userns where these work, or compile without --protect-host: `landlock` keeps scripts \
                 from writing to other packages, to dependencies, and to new entries of `/`, `/var/vcap` and `/var/vcap/data`, but \
                 not to /etc and /usr, and `none` keeps them from nothing"
                    .to_owned(),
            ),
            Self::Scratch { .. } => Some(
                "pass a --scratch-dir that the user who compiles can write to, with everything in it, or none".to_owned(),
            ),
            Self::Files(error)
                if error.source.kind() == std::io::ErrorKind::PermissionDenied
                    && !nix::unistd::geteuid().is_root() =>
            {
                Some(
                    "compile as root or in a container, or pass a --base-directory that you may write to (what is compiled \
                     runs only below the directory that it was compiled in)"
                        .to_owned(),
                )
            }
            Self::Files(_)
            | Self::Supervise(_)
            | Self::Task(_)
            | Self::Orders(_)
            | Self::Step(_)
            | Self::NoUserNamespace(_)
            | Self::Network { .. }
            | Self::ProbeFailed(_)
            | Self::NoReport { .. }
            | Self::NoServer => None,
        }
    }
}
