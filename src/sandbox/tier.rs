//! Chooses the isolation tier: the requested one, or the first one that works on this machine.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::blocking::blocking;
use super::error::SandboxError;
use super::landlocked::Landlocked;
use super::namespaces::{NamespaceOptions, Namespaces};
use super::path_lookup::PathLookup;
use super::scratch::{Scratch, Sharing};
use super::shared_tree::{SharedTree, SilentMount};
use super::users::{UserNamespace, Users};
use super::view::Writes;
use super::{Sandbox, users};
use crate::config::{Environment, Vcap};
use crate::diag::Chain;
use crate::process::ForkServer;

/// The requested isolation tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// The first tier that passes the self-test.
    #[default]
    Auto,
    /// Namespaces, or an error.
    Namespace,
    /// Namespaces inside a user namespace, or an error.
    Userns,
    /// Landlock rules in the base directory itself, or an error.
    Landlock,
    /// No isolation, in the base directory itself; by default, one script at a time.
    None,
}

impl Isolation {
    /// Enters a user namespace if the tier needs one.
    ///
    /// This process must have one thread.
    #[must_use]
    pub(crate) fn enter_user_namespace(self) -> UserNamespace {
        match self {
            Self::Auto => users::enter_if_needed(),
            Self::Userns => users::enter(),
            Self::Namespace | Self::Landlock | Self::None => UserNamespace::Outside,
        }
    }

    /// Checks the data directory, if the tier may use the base directory itself: the script of a killed run may have replaced the data
    /// directory with a link or mounted a file system over it. Must precede changes in the data directory, such as a new work directory.
    /// Unmounts file systems that this script has mounted and that do not respond. With `auto`, returns the other mounts that do not
    /// respond, because only a shared tree needs their directories.
    ///
    /// # Errors
    /// [`SandboxError::LeftLink`], [`SandboxError::LeftMount`], [`SandboxError::SilentMount`] and [`SandboxError::Stopped`].
    pub(crate) fn check_data(
        self,
        vcap: &Vcap,
        lookup: &PathLookup<'_>,
    ) -> Result<Vec<SilentMount>, SandboxError> {
        let checked = match self {
            Self::Auto => SharedTree::check_data(vcap, &|it| lookup.responses(it)),
            // These tiers need all directories of the tree, so each mount that does not respond is an error.
            Self::Landlock | Self::None => {
                SharedTree::check_mounts(vcap, &|it| lookup.responses(it))
                    .and_then(|()| SharedTree::check_data(vcap, &|it| lookup.responses(it)))
            }
            Self::Namespace | Self::Userns => Ok(Vec::new()),
        };
        lookup.check_not_stopped()?;
        checked
    }
}

/// Checks that all file systems respond that are mounted over `directories` and over the directories of packages. If one over a directory
/// of packages does not respond, and the script of a killed run has mounted it, unmounts it. Must precede the use of these directories.
///
/// # Errors
/// [`SandboxError::SilentMount`] and [`SandboxError::Stopped`].
pub(crate) fn check_mounts(
    vcap: &Vcap,
    directories: &[PathBuf],
    lookup: &PathLookup<'_>,
) -> Result<(), SandboxError> {
    let checked = SharedTree::check_mounts_of(vcap, directories, &|it| lookup.responses(it));
    lookup.check_not_stopped()?;
    checked
}

/// How packages are isolated.
#[derive(Debug, Clone)]
pub(crate) struct TierOptions {
    pub(crate) isolation: Isolation,
    /// The user namespace that this process has entered for isolation.
    pub(crate) user_namespace: UserNamespace,
    /// Whether dependencies are read-only for scripts, where the tier supports it.
    pub(crate) readonly_dependencies: bool,
    /// Whether everything that is not a script's own is read-only for it; an error in tiers without support.
    pub(crate) protect_host: bool,
    /// Whether scripts have access to the host's network.
    pub(crate) network: bool,
    /// Whether several packages are compiled concurrently, even without isolation.
    pub(crate) is_parallel: bool,
    /// Who shares the scratch directories of packages.
    pub(crate) scratch: Sharing,
    /// Absolute paths of files and directories with secrets. If the tier isolates packages, scripts cannot read them; with `landlock`, this
    /// does not apply to those in directories that all scripts use.
    pub(crate) secrets: Vec<PathBuf>,
    pub(crate) vcap: Vcap,
    /// The root file system of scripts, if it is not the host's; an error in tiers without support.
    pub(crate) image: Option<PathBuf>,
    /// The variables that scripts inherit.
    pub(crate) environment: Environment,
    /// Forks the parents of scripts.
    pub(crate) fork_server: ForkServer,
    /// The mounts over directories of the shared tree that [`Isolation::check_data`] has found and that do not respond.
    pub(crate) silent: Vec<SilentMount>,
    /// Names this process to another agent that finds the base directory in use.
    pub(crate) who: String,
    /// Whether installed packages of another agent may be removed.
    pub(crate) removes_foreign: bool,
}

/// A tier that works on this machine.
#[derive(Debug)]
pub(crate) struct Tier {
    kind: TierKind,
    scratch: Scratch,
    /// Why earlier tiers were rejected.
    rejected: Vec<String>,
}

#[derive(Debug)]
enum TierKind {
    Namespaces(Box<Namespaces>),
    Landlock,
    None,
}

impl Tier {
    /// Chooses the requested tier or, with `auto`, the strongest one that works on this machine. `work` is the work directory. `cancel`
    /// ends the self-tests and the wait for file systems.
    ///
    /// # Errors
    /// The requested tier, or an option that needs namespaces, does not work on this machine; a file system over an entry of the base
    /// directory does not respond; the disk is full; the scratch directories cannot be used; or `cancel` was canceled.
    pub(crate) async fn choose(
        options: &TierOptions,
        work: &Path,
        cancel: &CancellationToken,
    ) -> Result<Self, SandboxError> {
        let own = options.clone();
        let scratch = blocking("scratch", move || open_scratch(&own)).await?;
        let mut rejected = Vec::new();
        let kind = match try_namespaces(options, (work, cancel), &mut rejected).await? {
            Some(namespaces) => TierKind::Namespaces(Box::new(namespaces)),
            None if has_landlock(options, (work, cancel), &mut rejected).await? => {
                TierKind::Landlock
            }
            None => TierKind::None,
        };
        Ok(Self {
            kind,
            scratch,
            rejected,
        })
    }

    /// Whether packages are isolated from each other.
    pub(crate) fn is_isolating(&self) -> bool {
        !matches!(self.kind, TierKind::None)
    }

    /// Whether each package has its own namespaces.
    pub(crate) fn has_namespaces(&self) -> bool {
        matches!(self.kind, TierKind::Namespaces(_))
    }

    /// The tier's name with its restrictions; for `none`, with the reasons why other tiers do not work. Also logs these reasons at the
    /// level `debug`.
    pub(crate) fn description(&self) -> String {
        for reason in &self.rejected {
            tracing::debug!(reason, "an isolation tier does not work here");
        }
        match &self.kind {
            TierKind::Namespaces(namespaces) => described(namespaces),
            TierKind::Landlock => "landlock".to_owned(),
            TierKind::None if self.rejected.is_empty() => "none".to_owned(),
            TierKind::None => format!("none ({})", self.rejected.join("; ")),
        }
    }

    /// Creates the sandbox. In a shared tree, waits for processes of a killed run, until `cancel` is canceled.
    ///
    /// # Errors
    /// Another process compiles in the base directory, its directories cannot be created, a file system over them does not respond, or
    /// `cancel` was canceled.
    pub(crate) async fn open(
        self,
        options: &TierOptions,
        work: &Path,
        cancel: &CancellationToken,
    ) -> Result<Sandbox, SandboxError> {
        let (own, work, cancel) = (options.clone(), work.to_owned(), cancel.clone());
        blocking("sandbox", move || {
            let has_rules = match self.kind {
                TierKind::Namespaces(namespaces) => {
                    let namespaces = namespaces.with_scratch(self.scratch);
                    return Ok(namespaces.with_secrets(own.secrets).into());
                }
                TierKind::Landlock => true,
                TierKind::None => false,
            };
            if let Some(silent) = own.silent.first() {
                // Do not wait for it again.
                return Err(silent.clone().into());
            }
            let lookup = PathLookup::at_mounts(&own.fork_server, &cancel);
            check_mounts(&own.vcap, &[], &lookup)?;
            let stop = || cancel.is_cancelled();
            let tree = SharedTree::take(&own.vcap, &own.who, own.removes_foreign, &stop)?;
            let tree = tree.with_scratch(self.scratch);
            if !has_rules && !own.is_parallel {
                return Ok(tree.into());
            }
            let home = own.environment.get("HOME").map(Path::new);
            let several = Landlocked::new(tree, &work, home)?;
            Ok(match has_rules {
                true => several.with_secrets(&own.secrets).into(),
                false => several.without_rules().into(),
            })
        })
        .await
    }
}

impl Sandbox {
    /// The root file system of scripts, if it is not the host's.
    pub(crate) fn image(&self) -> Option<&Path> {
        match self {
            Self::Namespaces(namespaces) => namespaces.image(),
            Self::Landlocked(_) | Self::Sequential(_) => None,
        }
    }
}

/// The namespaces, if they are wanted and work. Adds the reasons to `rejected` if they do not work.
async fn try_namespaces(
    options: &TierOptions,
    (work, cancel): (&Path, &CancellationToken),
    rejected: &mut Vec<String>,
) -> Result<Option<Namespaces>, SandboxError> {
    let wanted = options.isolation;
    if matches!(wanted, Isolation::Landlock | Isolation::None) {
        return match needs_namespaces(options, None) {
            Some(error) => Err(error),
            None => Ok(None),
        };
    }
    match namespaces(options, work, cancel).await {
        Ok(namespaces) => return Ok(Some(namespaces)),
        Err(error) if wanted != Isolation::Auto || is_final(&error) => return Err(error),
        Err(error) => {
            rejected.push(format!("no namespaces: {}", reason(&error)));
            if let Some(error) = needs_namespaces(options, Some(error)) {
                return Err(error);
            }
        }
    }
    if let UserNamespace::Refused(error) = &options.user_namespace {
        rejected.push(format!("no user namespaces: {error}"));
    }
    Ok(None)
}

/// Whether no other tier is tried after this error. On a full disk, another tier may fail in the same way. A file system that does not
/// respond in time, or a stop, must not lead to a weaker tier.
fn is_final(error: &SandboxError) -> bool {
    let is_late = matches!(error, SandboxError::SilentMount { limit: Some(_), .. });
    is_late || matches!(error, SandboxError::Stopped) || error.is_no_space()
}

async fn namespaces(
    options: &TierOptions,
    work: &Path,
    cancel: &CancellationToken,
) -> Result<Namespaces, SandboxError> {
    let users = match &options.user_namespace {
        UserNamespace::Outside => None,
        UserNamespace::Inside(users) => Some(*users),
        UserNamespace::Refused(error) if options.isolation == Isolation::Userns => {
            return Err(SandboxError::NoUserNamespace(error.clone()));
        }
        UserNamespace::Refused(_) => None,
    };
    let namespace_options = NamespaceOptions {
        readonly_dependencies: options.readonly_dependencies,
        protect_host: options.protect_host,
        network: options.network,
        users,
    };
    let given = (namespace_options, options.image.as_deref());
    Namespaces::probe_with(work, &options.vcap, (&options.fork_server, cancel), given).await
}

/// Whether Landlock is wanted and works. Adds the reason to `rejected` if it does not work.
async fn has_landlock(
    options: &TierOptions,
    (work, cancel): (&Path, &CancellationToken),
    rejected: &mut Vec<String>,
) -> Result<bool, SandboxError> {
    if options.isolation == Isolation::None {
        return Ok(false);
    }
    match Landlocked::probe(work, &options.fork_server, cancel).await {
        Ok(()) => Ok(true),
        Err(error) if options.isolation == Isolation::Landlock || is_final(&error) => Err(error),
        Err(error) => {
            rejected.push(format!("no Landlock: {}", reason(&error)));
            Ok(false)
        }
    }
}

/// Opens the scratch directories of packages. Scripts cannot be denied access to them if a directory that scripts use is in the directory
/// of `--scratch-dir`.
fn open_scratch(options: &TierOptions) -> Result<Scratch, SandboxError> {
    // Scripts use the directories that their variables name, such as a home directory or the cache of a compiler.
    let named = options
        .environment
        .iter()
        .map(|(_, value)| Path::new(value));
    let in_use: Vec<&Path> = ["/tmp", "/var/tmp", "/dev/shm"]
        .into_iter()
        .map(Path::new)
        .chain(named.filter(|value| value.is_absolute()))
        .chain([options.vcap.base()])
        .collect();
    Scratch::open(&options.scratch, &in_use)
}

/// Why a tier does not work. Omits the source of a failed step.
fn reason(error: &SandboxError) -> String {
    match error {
        SandboxError::Step(step) => step.to_string(),
        other => Chain(other).to_string(),
    }
}

/// The error if an option needs namespaces. `source` says why they do not work, if they were tried.
fn needs_namespaces(options: &TierOptions, source: Option<SandboxError>) -> Option<SandboxError> {
    let source = source.map(Box::new);
    if options.image.is_some() {
        Some(SandboxError::Image { source })
    } else if !options.network {
        Some(SandboxError::Network { source })
    } else if options.protect_host {
        Some(SandboxError::ProtectHost { source })
    } else {
        None
    }
}

/// The name of the tier, with its restrictions.
fn described(namespaces: &Namespaces) -> String {
    let mut text = match namespaces.users() {
        None => "namespace",
        Some(_) => "userns",
    }
    .to_owned();
    if namespaces.users() == Some(Users::Single) {
        text += ", with a single user: scripts that change owners fail, unless you install the package `uidmap` and give this user a \
                 range in /etc/subuid and /etc/subgid";
    }
    if namespaces.protects_host() {
        text += ", with a read-only host";
    }
    if namespaces.writes() == Writes::Refused {
        text += ", with read-only dependencies";
    }
    if !namespaces.has_processes() {
        text += ", without a process namespace";
    }
    if !namespaces.has_locked_mounts() {
        text += ", with mounts that a script can undo";
    }
    text
}
