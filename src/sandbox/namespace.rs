//! `--isolation=namespace` and `--isolation=userns`: every package in its own mount, process and IPC namespace.
//!
//! A package's tree lies in the work directory and is mounted over the base directory, inside a namespace that ends with
//! the script. On the host nothing is mounted. What a script writes outside of its tree is the host's, unless the host is
//! protected ([`Protection`]).
//!
//! ```text
//! WORK/places/N/tree      → BASE          packages and data of the package; the rest of BASE is mounted into it
//!               tmp       → /tmp
//!               var-tmp   → /var/tmp
//!               dev-shm   → /dev/shm      in memory
//!               overlay     what is written into dependencies, dropped
//! WORK/store/N/NAME         sealed dependencies, mounted into data/packages
//! WORK/scratch/NAME         scratch directories, mounted at data/NAME, unless they are kept in another place
//! ```
//!
//! Where the base directory is missing and may not be made, as for an ordinary user of a plain machine, the tree covers the
//! nearest directory above it that is there (`/var`), with everything that this has mounted into it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::SandboxError;
use super::named;
use super::scratch::{self, Scratch};
use super::script::{self, Script};
use super::spec::Spec;
use super::step::Step;
use super::users::Users;
use super::view::{Mounted, Protection, View, Writes};
use crate::config::{Environment, Vcap, Visibility};
use crate::fs::{self, Context, MadeDirectories};
use crate::process::{ForkServer, Output, Status};
use crate::release::Name;

/// What the base directory has of a package itself; the rest is the host's.
const OWN: [&str; 2] = ["packages", "data"];

/// What is found at the covered directory.
const TREE: &str = "tree";

/// What is written into dependencies, for the time being.
const SCRATCH: &str = "overlay";

/// Scratch directories that packages share, in the work directory.
const SHARED: &str = "scratch";

/// Locked, in the work directory, as long as a process of a script lives.
pub(crate) const PROCESSES: &str = "processes";

/// How often the base directory is opened anew: that fails only where another run ends, and takes it away, at the same moment.
const ATTEMPTS: usize = 100;

/// What the first try of a view may take.
const PROBE_GRACE: Duration = Duration::from_secs(5);

/// Paths with what each stands for.
type Pairs = Vec<(PathBuf, PathBuf)>;

/// The namespaces of one run.
#[derive(Debug)]
pub struct Namespaces {
    work: PathBuf,
    vcap: Vcap,
    /// The directory that trees are mounted over: the base directory, or one above it.
    cover: PathBuf,
    wishes: Wishes,
    writes: Writes,
    /// Whether scripts get process namespaces.
    processes: bool,
    /// Whether the mounts of scripts are locked.
    locked: bool,
    next: AtomicUsize,
    made: MadeDirectories,
    /// Held by everybody who mounts over the base directory: whoever removed it would take the mounts away. Where it is not
    /// there, nobody can.
    base: Option<File>,
    scratch: Scratch,
    /// Where scratch directories are, relative to the work directory unless they are kept in another place.
    shared: PathBuf,
    /// Files and directories that scripts find empty.
    secrets: Vec<PathBuf>,
}

/// What is wanted of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wishes {
    /// Whether writes into dependencies are to fail.
    pub readonly_dependencies: bool,
    /// Whether everything that is not the script's is to be read-only for it.
    pub protect_host: bool,
    /// Whether scripts get the network that everybody has.
    pub network: bool,
    /// The user namespace that this process is in for the purpose.
    pub users: Option<Users>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            readonly_dependencies: false,
            protect_host: false,
            network: true,
            users: None,
        }
    }
}

/// A package's place.
#[derive(Debug)]
pub(super) struct NamespacePlace {
    number: usize,
    /// Whether dependencies are copied into it instead of being mounted.
    pub(super) copies: bool,
    /// Whether processes that cannot be killed may still be at work in it.
    set_aside: AtomicBool,
    /// What the covered directory has that is the host's: where it is, and its place in the tree.
    kept: Vec<(PathBuf, PathBuf)>,
    /// Shared scratch directories: where they are, and their places in the tree.
    shared: Vec<(PathBuf, PathBuf)>,
}

impl Namespaces {
    /// Tries everything that a view needs, once, with the way of writing into dependencies that works here, and with a process
    /// namespace where it can be had.
    ///
    /// # Errors
    /// What the first thing that does not work is.
    pub async fn probe(
        work: &Path,
        vcap: &Vcap,
        agent: &ForkServer,
        wishes: Wishes,
    ) -> Result<Self, SandboxError> {
        fs::create_dir_all(&work.join("places"))?;
        fs::write(&work.join(PROCESSES), b"")?;
        let work = fs::canonicalize(work)?;
        // From here on there may be a directory to be removed.
        let mut made = MadeDirectories::default();
        let (cover, base) = match lock_base(vcap, &mut made) {
            Ok(base) => (vcap.base().to_owned(), Some(base)),
            Err(error) => match fs::nearest_existing(vcap.base()) {
                cover if cover != Path::new("/") && cover != vcap.base() && is_refused(&error) => {
                    (cover, None)
                }
                _ => {
                    made.remove_empty();
                    return Err(error);
                }
            },
        };
        let mut namespaces = Self {
            work,
            vcap: vcap.clone(),
            cover,
            wishes,
            writes: if wishes.readonly_dependencies {
                Writes::Refused
            } else {
                Writes::ToDisk
            },
            processes: true,
            locked: true,
            next: AtomicUsize::new(0),
            made,
            base,
            scratch: Scratch::default(),
            shared: PathBuf::from(SHARED),
            secrets: Vec::new(),
        };
        loop {
            let Err(error) = namespaces.try_once(agent).await else {
                return Ok(namespaces);
            };
            if !namespaces.do_without(&error) {
                namespaces.close();
                return Err(error);
            }
        }
    }

    /// Sets which scratch directories packages share. Without it these are directories that end with the run.
    ///
    /// # Errors
    /// When the directory that they are kept in cannot be linked to.
    pub fn with_scratch(mut self, scratch: Scratch) -> Result<Self, SandboxError> {
        match scratch.kept() {
            Some(kept) if kept.to_str().is_some() => kept.clone_into(&mut self.shared),
            // Paths are written down as text for the child, so this one gets another name.
            Some(kept) => fs::symlink(kept, &self.work.join(SHARED))?,
            None => {}
        }
        self.scratch = scratch;
        Ok(self)
    }

    /// Sets which files and directories scripts find empty. Those in the agent's own directory are hidden without it.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Vec<PathBuf>) -> Self {
        self.secrets = secrets;
        self
    }

    /// Gives up what did not work, if there is another way.
    fn do_without(&mut self, error: &SandboxError) -> bool {
        let SandboxError::Step(error) = error else {
            return false;
        };
        if error.is_no_space() {
            // There would be as little for the other way.
            return false;
        }
        let overlay = matches!(
            error.step,
            Step::MountScratch(_) | Step::PrepareOverlay(_) | Step::MountOverlay(_)
        );
        match (&error.step, self.writes) {
            (Step::MountProc, _) if self.processes => self.processes = false,
            // A nested user namespace is made for that alone.
            (Step::LockMounts | Step::SeparateUsers | Step::MapUsers(_) | Step::BecomeRoot, _)
                if self.locked =>
            {
                self.locked = false
            }
            (_, Writes::ToDisk) if overlay => self.writes = Writes::ToMemory,
            (_, Writes::ToMemory) if overlay => self.writes = Writes::Refused,
            _ => return false,
        }
        true
    }

    /// How writes into dependencies are treated.
    #[must_use]
    pub fn writes(&self) -> Writes {
        self.writes
    }

    /// Whether everything that is not the script's is read-only for it.
    #[must_use]
    pub fn protects_host(&self) -> bool {
        self.wishes.protect_host
    }

    /// The user namespace that makes them possible.
    #[must_use]
    pub fn users(&self) -> Option<Users> {
        self.wishes.users
    }

    /// Whether scripts have processes of their own, or see everybody's.
    #[must_use]
    pub fn has_processes(&self) -> bool {
        self.processes
    }

    /// Whether scripts cannot undo what is mounted for them.
    #[must_use]
    pub fn has_locked_mounts(&self) -> bool {
        self.locked
    }

    /// The file that is locked as long as a process of a script lives.
    pub(super) fn hold(&self) -> PathBuf {
        self.work.join(PROCESSES)
    }

    async fn try_once(&self, agent: &ForkServer) -> Result<(), SandboxError> {
        let place = self.enter(false, &[])?;
        let result = self.try_in(&place, agent).await;
        self.leave(&place)?;
        result
    }

    async fn try_in(&self, place: &NamespacePlace, agent: &ForkServer) -> Result<(), SandboxError> {
        let root = self.root(place);
        let vcap = Vcap::new(&root);
        let sealed = self.place(place).join("probe/sealed");
        let install = vcap.data_packages().join("probe");
        for directory in [&sealed, &install, &vcap.compile()] {
            fs::create_dir_all(directory)?;
        }
        let script = Script {
            spec: Spec {
                program: "true".to_owned(),
                arguments: Vec::new(),
                directory: self.vcap.compile(),
                umask: 0o022,
                nice: 0,
                hold: self.hold(),
                grace: PROBE_GRACE,
                view: Some(self.view(place, &[(&sealed, &install)], &Environment::default())),
                rules: None,
            },
            environment: [("PATH".into(), "/usr/bin:/bin:/usr/local/bin".into())]
                .into_iter()
                .collect::<Environment>(),
            agent: agent.clone(),
        };
        let output = Output::to_log(&self.place(place).join("probe.log"), |_| {})?;
        let end = script::run(script, output, &CancellationToken::new()).await?;
        match end.status {
            Status::Exited(0) => Ok(()),
            status => Err(SandboxError::ProbeFailed(status)),
        }
    }

    /// Everything of a place, relative to the work directory.
    fn relative(place: &NamespacePlace) -> PathBuf {
        Path::new("places").join(place.number.to_string())
    }

    fn place(&self, place: &NamespacePlace) -> PathBuf {
        self.work.join(Self::relative(place))
    }

    /// What is found at the covered directory inside.
    fn tree(&self, place: &NamespacePlace) -> PathBuf {
        self.place(place).join(TREE)
    }

    /// What is found at the base directory inside.
    pub(super) fn root(&self, place: &NamespacePlace) -> PathBuf {
        match self.vcap.base().strip_prefix(&self.cover) {
            // Joined with nothing it would end with a slash.
            Ok(below) if below != Path::new("") => self.tree(place).join(below),
            _ => self.tree(place),
        }
    }

    /// Checks that a script has replaced none of the directories that it worked below.
    ///
    /// # Errors
    /// [`SandboxError::Replaced`].
    pub(super) fn check(&self, place: &NamespacePlace) -> Result<(), SandboxError> {
        let (tree, root) = (self.tree(place), Vcap::new(&self.root(place)));
        let directories = [root.packages(), root.data_packages(), root.compile()];
        for directory in &directories {
            // Outermost first.
            let mut above: Vec<&Path> = directory
                .ancestors()
                .take_while(|above| *above != tree)
                .collect();
            above.reverse();
            for path in above {
                let Some(metadata) = fs::lookup(path)? else {
                    break;
                };
                if !metadata.is_dir() {
                    let below = path.strip_prefix(&tree).unwrap_or(path);
                    return Err(SandboxError::Replaced {
                        directory: self.cover.join(below),
                        found: match metadata.is_symlink() {
                            true => fs::read_link(path)?,
                            false => self.cover.join(below),
                        },
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether a script in a place may fail at what it could do where dependencies are not mounted. It is meant to where they
    /// are to be read-only.
    pub(super) fn restricts(&self, place: &NamespacePlace) -> bool {
        !place.copies && !self.wishes.readonly_dependencies
    }

    /// Makes a place, with scratch directories of these names. With `copies`, dependencies are copied into it instead of being
    /// mounted.
    pub(super) fn enter(
        &self,
        copies: bool,
        names: &[Name],
    ) -> Result<NamespacePlace, SandboxError> {
        let mut place = NamespacePlace {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            copies,
            set_aside: AtomicBool::new(false),
            kept: Vec::new(),
            shared: Vec::new(),
        };
        let (tree, root) = (self.tree(&place), self.root(&place));
        let mut directories = vec![self.place(&place)];
        let between = root.ancestors().take_while(|path| path.starts_with(&tree));
        let mut between: Vec<PathBuf> = between.map(Path::to_owned).collect();
        between.reverse();
        directories.extend(between);
        directories.extend([
            root.join("packages"),
            root.join("data"),
            root.join("data/packages"),
            root.join("data/compile"),
        ]);
        for directory in directories {
            fs::create_dir(&directory)?;
            fs::set_mode(&directory, 0o755)?;
        }
        for (name, _) in TEMPORARY {
            let directory = self.place(&place).join(name);
            fs::create_dir(&directory)?;
            fs::set_mode(&directory, 0o1777)?;
        }
        self.keep(&mut place)?;
        self.share(&mut place, names)?;
        self.prepare_base_below_temporary(&place)?;
        Ok(place)
    }

    /// Makes the places at which the host's other entries of the covered directory are mounted.
    fn keep(&self, place: &mut NamespacePlace) -> Result<(), SandboxError> {
        let tree = self.tree(place);
        for entry in fs::list(&self.cover)? {
            let name = entry.file_name();
            let target = tree.join(&name);
            // The package's own, or the way to it.
            if self.is_base_covered() && OWN.iter().any(|own| name == *own)
                || fs::lookup(&target)?.is_some()
            {
                continue;
            }
            self.keep_one(place, entry.path(), target)?;
        }
        Ok(())
    }

    fn keep_one(
        &self,
        place: &mut NamespacePlace,
        mut source: PathBuf,
        target: PathBuf,
    ) -> Result<(), SandboxError> {
        let visibility = self.vcap.visibility(&source);
        let Some(metadata) = fs::lookup(&source)?.filter(|_| visibility != Visibility::Hidden)
        else {
            return Ok(());
        };
        if metadata.is_symlink() {
            return Ok(fs::symlink(&fs::read_link(&source)?, &target)?);
        } else if metadata.is_dir() {
            fs::create_dir(&target)?;
        } else if metadata.is_file() {
            fs::write(&target, b"")?;
        } else {
            return Ok(());
        }
        if metadata.is_dir() && visibility == Visibility::Partial {
            // A directory of the package's own, so that what is made in the host's one later does not appear in it.
            for entry in list_if_allowed(&source)? {
                self.keep_one(place, entry.path(), target.join(entry.file_name()))?;
            }
            fs::set_owner_if_allowed(&target, metadata.uid(), metadata.gid())?;
            return Ok(fs::set_mode(&target, metadata.mode() & 0o7777)?);
        }
        if let Some((temporary, _)) = TEMPORARY.iter().find(|(_, at)| source == Path::new(at)) {
            source = Self::relative(place).join(temporary);
        }
        place.kept.push((source, self.below_work(&target)));
        Ok(())
    }

    /// Makes scratch directories, and the places at which they are mounted. Where packages share none, a script makes its own.
    fn share(&self, place: &mut NamespacePlace, names: &[Name]) -> Result<(), SandboxError> {
        if !self.scratch.is_shared() {
            return Ok(());
        }
        let root = self.root(place);
        for name in names {
            let Some(at) = Vcap::new(&root).scratch(name) else {
                continue;
            };
            scratch::make(&at)?;
            let source = self.shared.join(name.as_str());
            if self.scratch.make_kept(name)?.is_none() {
                fs::create_dir_all(&self.work.join(SHARED))?;
                scratch::make(&self.work.join(&source))?;
            }
            place.shared.push((source, self.below_work(&at)));
        }
        Ok(())
    }

    /// Where a shared scratch directory is, there or not.
    pub(super) fn scratch_directory(&self, name: &Name) -> Option<PathBuf> {
        let is_shared = self.scratch.is_shared();
        is_shared.then(|| self.work.join(&self.shared).join(name.as_str()))
    }

    /// Removes what scripts have left in shared scratch directories. No script may be running. `false` where there was nothing.
    pub(super) fn discard_scratch(&self) -> fs::Result<bool> {
        let mut found = false;
        for entry in fs::list(&self.work.join(&self.shared))? {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            found |= !fs::list(&entry.path())?.is_empty();
            fs::remove_tree(&entry.path())?;
        }
        Ok(found)
    }

    /// A path relative to the work directory where it lies there.
    fn below_work(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.work).unwrap_or(path).to_owned()
    }

    fn is_base_covered(&self) -> bool {
        self.cover == self.vcap.base()
    }

    /// A base directory below a temporary one disappears with it, so it is made in the private one.
    fn prepare_base_below_temporary(&self, place: &NamespacePlace) -> Result<(), SandboxError> {
        for (name, at) in TEMPORARY {
            if let Ok(below) = self.vcap.base().strip_prefix(at) {
                fs::create_dir_all(&self.place(place).join(name).join(below))?;
            }
        }
        Ok(())
    }

    /// Makes the place at which a dependency is mounted, or a copy of it.
    pub(super) fn provide(
        place: &NamespacePlace,
        sealed: &Path,
        install: &Path,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), SandboxError> {
        match place.copies {
            true => fs::copy_tree_until(sealed, install, stop)?,
            false => fs::create_dir(install)?,
        }
        Ok(())
    }

    /// What the script in a place sees, with this environment. Dependencies: sealed tree and install directory.
    pub(super) fn view(
        &self,
        place: &NamespacePlace,
        dependencies: &[(&Path, &Path)],
        environment: &Environment,
    ) -> View {
        let relative = Self::relative(place);
        let (named, links) = self.named(place, environment);
        let mut view = View {
            work: self.work.clone(),
            dependencies: dependencies
                .iter()
                .filter(|_| !place.copies)
                .map(|(sealed, install)| Mounted {
                    sealed: self.below_work(sealed),
                    at: self.below_work(install),
                })
                .collect(),
            in_user_namespace: self.wishes.users.is_some(),
            processes: self.processes,
            locked: self.locked,
            network: self.wishes.network,
            writes: self.writes,
            overlay: relative.join(SCRATCH),
            scratch: place.shared.clone(),
            hidden: self.scratch.separable().map(|_| self.shared.clone()),
            secrets: self.secrets.clone(),
            kept: place.kept.clone(),
            memory: Some(MEMORY)
                .filter(|(_, at)| Path::new(at).is_dir())
                .map(|(name, _)| relative.join(name))
                .into_iter()
                .collect(),
            named,
            links,
            temporary: TEMPORARY
                .iter()
                .filter(|(_, at)| Path::new(at).is_dir())
                // Below a covered directory they are among what is kept.
                .filter(|(_, at)| self.is_base_covered() || !Path::new(at).starts_with(&self.cover))
                .map(|(name, at)| (relative.join(name), PathBuf::from(at)))
                .collect(),
            tree: (relative.join(TREE), self.cover.clone()),
            protection: None,
        };
        if self.wishes.protect_host {
            let home = environment.get("HOME").map(Path::new);
            view.protection = Some(Protection::new(&view, home));
        }
        view
    }

    /// What an environment names below the private directories, with its places in them: directories and files with their paths
    /// on the host, links with what they say.
    fn named(&self, place: &NamespacePlace, environment: &Environment) -> (Pairs, Pairs) {
        let relative = Self::relative(place);
        let private: Vec<(&str, PathBuf)> = TEMPORARY
            .iter()
            // One may be a link.
            .filter_map(|(name, at)| Some((*name, fs::canonicalize(Path::new(at)).ok()?)))
            .collect();
        let directories: Vec<PathBuf> = private.iter().map(|(_, at)| at.clone()).collect();
        let base = fs::canonicalize(self.vcap.base()).unwrap_or_else(|_| self.vcap.base().into());
        let mut hidden = vec![self.work.as_path(), self.vcap.base(), &base];
        if directories.iter().any(|at| self.cover.starts_with(at)) {
            hidden.push(&self.cover);
        }
        let named = named::find(environment, &directories, &hidden);
        // Of two names for one directory the last is mounted over the first.
        let place_of = |path: &Path| {
            let mut private = private.iter().rev();
            private
                .find_map(|(name, at)| Some(relative.join(name).join(path.strip_prefix(at).ok()?)))
        };
        let paths = named.paths.into_iter();
        let links = named.links.into_iter();
        (
            paths
                .filter_map(|path| place_of(&path).map(|place| (path, place)))
                .collect(),
            links
                .filter_map(|(link, says)| Some((place_of(&link)?, says)))
                .collect(),
        )
    }

    /// Keeps a place from being removed before the whole work directory is. Returns where it lies.
    pub(super) fn set_aside(&self, place: &NamespacePlace) -> PathBuf {
        place.set_aside.store(true, Ordering::Relaxed);
        self.place(place)
    }

    pub(super) fn leave(&self, place: &NamespacePlace) -> Result<(), SandboxError> {
        if place.set_aside.load(Ordering::Relaxed) {
            return Ok(());
        }
        Ok(fs::remove_tree(&self.place(place))?)
    }

    /// Removes the base directory where this run has made it and nobody else has mounted anything over it.
    pub(super) fn close(self) {
        drop(self.base);
        self.made.remove_empty();
    }
}

/// The entries of a directory; none where this user may not see them.
fn list_if_allowed(directory: &Path) -> fs::Result<Vec<std::fs::DirEntry>> {
    match fs::list(directory) {
        Err(error) if error.source.kind() == std::io::ErrorKind::PermissionDenied => Ok(Vec::new()),
        other => other,
    }
}

/// Makes and locks the base directory. A run that ends may take it away between the two.
fn lock_base(vcap: &Vcap, made: &mut MadeDirectories) -> Result<File, SandboxError> {
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        made.make(vcap.base())?;
        let base = match fs::open(vcap.base()) {
            Err(error) if error.is_not_found() => {
                failure = Some(error);
                continue;
            }
            other => other?,
        };
        base.lock_shared().at("lock", vcap.base())?;
        let inode = base.metadata().at("examine", vcap.base())?.ino();
        if fs::lookup(vcap.base())?
            .is_some_and(|metadata| metadata.is_symlink() || metadata.ino() == inode)
        {
            return Ok(base);
        }
    }
    let error = || fs::Error::new("open", vcap.base(), std::io::ErrorKind::NotFound.into());
    Err(failure.unwrap_or_else(error).into())
}

/// Whether somebody may not make a directory, in words of the system.
fn is_refused(error: &SandboxError) -> bool {
    use std::io::ErrorKind;
    let SandboxError::Files(error) = error else {
        return false;
    };
    matches!(
        error.source.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    )
}

/// Directories that scripts have to themselves: what they are called in a place, and where they are. What the environment
/// names in them is mounted into them.
const TEMPORARY: [(&str, &str); 3] = [("tmp", "/tmp"), ("var-tmp", "/var/tmp"), MEMORY];

/// The one that is in memory.
const MEMORY: (&str, &str) = ("dev-shm", "/dev/shm");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discarded_scratch_is_made_again_for_the_next_package() {
        let temporary = tempfile::tempdir().unwrap();
        let work = temporary.path().join("work");
        fs::create_dir_all(&work.join("places")).unwrap();
        let vcap = Vcap::new(&temporary.path().join("vcap"));
        fs::create_dir(vcap.base()).unwrap();
        let namespaces = Namespaces {
            work: work.clone(),
            cover: vcap.base().to_owned(),
            vcap,
            wishes: Wishes::default(),
            writes: Writes::ToDisk,
            processes: true,
            locked: true,
            next: AtomicUsize::new(0),
            made: MadeDirectories::default(),
            base: None,
            scratch: Scratch::default(),
            shared: PathBuf::from(SHARED),
            secrets: Vec::new(),
        };
        let name = Name::parse("golang").unwrap();
        let enter = || {
            namespaces
                .enter(false, std::slice::from_ref(&name))
                .unwrap()
        };
        namespaces.leave(&enter()).unwrap();
        assert!(!namespaces.discard_scratch().unwrap(), "it was empty");
        let place = enter();
        assert_eq!(
            place.shared,
            [(
                PathBuf::from("scratch/golang"),
                PathBuf::from("places/1/tree/data/golang")
            )]
        );
        fs::write(&work.join("scratch/golang/file"), b"").unwrap();
        namespaces.leave(&place).unwrap();
        assert!(namespaces.discard_scratch().unwrap());
        assert!(!work.join("scratch/golang").exists());
        enter();
        assert!(work.join("scratch/golang").is_dir());
    }
}
