//! `--isolation=namespace`: every package in its own mount, process and IPC namespace.
//!
//! A package's tree lies in the work directory and is mounted over the base directory, inside a namespace that ends with
//! the script. On the host nothing is mounted and nothing changes.
//!
//! ```text
//! WORK/places/N/vcap      → BASE          packages and data of the package; the rest of BASE is mounted into it
//!               tmp       → /tmp
//!               var-tmp   → /var/tmp
//!               overlay     what is written into dependencies, dropped
//! WORK/store/NAME…          sealed dependencies, mounted into data/packages
//! ```

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::SandboxError;
use super::script::{self, Script};
use super::spec::{Mounted, Spec, View, Writes};
use crate::config::{Environment, Vcap};
use crate::fs::{self, Context, MadeDirectories};
use crate::process::{Output, Status};

/// What the base directory has of a package itself; the rest is the host's.
const OWN: [&str; 2] = ["packages", "data"];

/// What is written into dependencies, for the time being.
const SCRATCH: &str = "overlay";

/// Locked, in the work directory, as long as a process of a script lives.
pub(crate) const PROCESSES: &str = "processes";

/// What the first try of a view may take.
const PROBE_GRACE: Duration = Duration::from_secs(5);

/// The namespaces of one run.
#[derive(Debug)]
pub struct Namespaces {
    work: PathBuf,
    vcap: Vcap,
    writes: Writes,
    next: AtomicUsize,
    made: MadeDirectories,
    /// Held by everybody who mounts over the base directory: whoever removed it would take the mounts away.
    base: File,
}

/// A package's place.
#[derive(Debug)]
pub(super) struct NamespacePlace {
    number: usize,
    /// Entries of the base directory that are the host's.
    kept: Vec<PathBuf>,
}

impl Namespaces {
    /// Tries everything that a view needs, once, with the way of writing into dependencies that works here.
    ///
    /// # Errors
    /// What the first thing that does not work is.
    pub async fn probe(
        work: &Path,
        vcap: &Vcap,
        agent: &Path,
        readonly_dependencies: bool,
    ) -> Result<Self, SandboxError> {
        let mut made = MadeDirectories::default();
        let base = lock_base(vcap, &mut made)?;
        fs::create_dir_all(&work.join("places"))?;
        fs::write(&work.join(PROCESSES), b"")?;
        let mut namespaces = Self {
            work: fs::canonicalize(work)?,
            vcap: vcap.clone(),
            writes: Writes::Refused,
            next: AtomicUsize::new(0),
            made,
            base,
        };
        let ways: &[Writes] = if readonly_dependencies {
            &[Writes::Refused]
        } else {
            &[Writes::ToDisk, Writes::ToMemory, Writes::Refused]
        };
        let mut failure = None;
        for writes in ways {
            namespaces.writes = *writes;
            match namespaces.try_once(agent).await {
                Ok(()) => return Ok(namespaces),
                Err(error) => failure = Some(error),
            }
        }
        namespaces.close();
        match failure {
            Some(error) => Err(error),
            None => Err(SandboxError::ProbeFailed(Status::Exited(1))),
        }
    }

    /// How writes into dependencies are treated.
    #[must_use]
    pub fn writes(&self) -> Writes {
        self.writes
    }

    /// The file that is locked as long as a process of a script lives.
    pub(super) fn hold(&self) -> PathBuf {
        self.work.join(PROCESSES)
    }

    async fn try_once(&self, agent: &Path) -> Result<(), SandboxError> {
        let place = self.enter()?;
        let result = self.try_in(&place, agent).await;
        self.leave(&place)?;
        result
    }

    async fn try_in(&self, place: &NamespacePlace, agent: &Path) -> Result<(), SandboxError> {
        let root = self.root(place);
        let vcap = Vcap::new(&root);
        let sealed = self.place(place).join("probe");
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
                hold: self.hold(),
                grace: PROBE_GRACE,
                view: Some(self.view(place, &[(sealed, install)])),
            },
            environment: [("PATH".into(), "/usr/bin:/bin:/usr/local/bin".into())]
                .into_iter()
                .collect::<Environment>(),
            agent: agent.to_owned(),
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

    /// The tree that is found at the base directory inside.
    pub(super) fn root(&self, place: &NamespacePlace) -> PathBuf {
        self.place(place).join("vcap")
    }

    pub(super) fn enter(&self) -> Result<NamespacePlace, SandboxError> {
        let mut place = NamespacePlace {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            kept: Vec::new(),
        };
        let root = self.root(&place);
        for directory in [
            self.place(&place),
            self.place(&place).join(SCRATCH),
            root.clone(),
            root.join("packages"),
            root.join("data"),
            root.join("data/packages"),
            root.join("data/compile"),
        ] {
            fs::create_dir(&directory)?;
            fs::set_mode(&directory, 0o755)?;
        }
        for (name, _) in TEMPORARY {
            let directory = self.place(&place).join(name);
            fs::create_dir(&directory)?;
            fs::set_mode(&directory, 0o1777)?;
        }
        self.keep(&mut place)?;
        self.prepare_base_below_temporary(&place)?;
        Ok(place)
    }

    /// Makes the places at which the host's other entries of the base directory are mounted.
    fn keep(&self, place: &mut NamespacePlace) -> Result<(), SandboxError> {
        let root = self.root(place);
        for entry in fs::list(self.vcap.base())? {
            let name = entry.file_name();
            if OWN.iter().any(|own| name == *own) {
                continue;
            }
            let (source, target) = (entry.path(), root.join(&name));
            let Some(metadata) = fs::lookup(&source)? else {
                continue;
            };
            if metadata.is_symlink() {
                fs::symlink(&fs::read_link(&source)?, &target)?;
            } else if metadata.is_dir() {
                fs::create_dir(&target)?;
                place.kept.push(PathBuf::from(name));
            } else if metadata.is_file() {
                fs::write(&target, b"")?;
                place.kept.push(PathBuf::from(name));
            }
        }
        Ok(())
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

    /// Makes the place at which a dependency is mounted.
    pub(super) fn provide(install: &Path) -> Result<(), SandboxError> {
        Ok(fs::create_dir(install)?)
    }

    /// What the script in a place sees. Dependencies: sealed tree and install directory.
    pub(super) fn view(&self, place: &NamespacePlace, dependencies: &[(PathBuf, PathBuf)]) -> View {
        let relative = Self::relative(place);
        let below_work = |path: &Path| match path.strip_prefix(&self.work) {
            Ok(below) => below.to_owned(),
            Err(_) => path.to_owned(),
        };
        View {
            work: self.work.clone(),
            dependencies: dependencies
                .iter()
                .map(|(sealed, install)| Mounted {
                    sealed: below_work(sealed),
                    at: below_work(install),
                })
                .collect(),
            writes: self.writes,
            scratch: relative.join(SCRATCH),
            kept: place
                .kept
                .iter()
                .map(|name| {
                    (
                        self.vcap.base().join(name),
                        relative.join("vcap").join(name),
                    )
                })
                .collect(),
            temporary: TEMPORARY
                .iter()
                .filter(|(_, at)| Path::new(at).is_dir())
                .map(|(name, at)| (relative.join(name), PathBuf::from(at)))
                .collect(),
            tree: (relative.join("vcap"), self.vcap.base().to_owned()),
        }
    }

    pub(super) fn leave(&self, place: &NamespacePlace) -> Result<(), SandboxError> {
        Ok(fs::remove_tree(&self.place(place))?)
    }

    /// Removes the base directory where this run has made it and nobody else has mounted anything over it.
    pub(super) fn close(self) {
        drop(self.base);
        self.made.remove_empty();
    }
}

/// Makes and locks the base directory. A run that ends may take it away between the two.
fn lock_base(vcap: &Vcap, made: &mut MadeDirectories) -> Result<File, SandboxError> {
    loop {
        made.make(vcap.base())?;
        let base = match fs::open(vcap.base()) {
            Err(error) if error.is_not_found() => continue,
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
}

/// Directories that scripts have to themselves: what they are called in a place, and where they are.
const TEMPORARY: [(&str, &str); 2] = [("tmp", "/tmp"), ("var-tmp", "/var/tmp")];
