//! Finds the namespaces and mounts that work on this machine.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::base::find_cover;
use super::{Image, NamespaceOptions, NamespacePlace, Namespaces, PROCESSES, SCRATCH};
use crate::config::{Environment, Vcap};
use crate::fs::{self, MadeDirectories};
use crate::process::{ForkServer, Output, Status};
use crate::sandbox::blocking::blocking;
use crate::sandbox::error::SandboxError;
use crate::sandbox::scratch::Scratch;
use crate::sandbox::script::{self, Script};
use crate::sandbox::spec::Spec;
use crate::sandbox::step::Step;
use crate::sandbox::view::Writes;

/// The time between SIGTERM and SIGKILL for the probe.
const GRACE: Duration = Duration::from_secs(5);

impl Namespaces {
    /// Runs a trial script in a sandbox with all parts of a view. Four parts have alternatives, which are used if the part does not work: overlays
    /// for writes into dependencies, an image's root file system in the work directory, PID namespaces, and locked mounts.
    ///
    /// # Errors
    /// The first step that fails and has no alternative.
    pub async fn probe(
        work: &Path,
        vcap: &Vcap,
        fork_server: &ForkServer,
        options: NamespaceOptions,
    ) -> Result<Self, SandboxError> {
        let cancel = CancellationToken::new();
        Self::probe_with(work, vcap, (fork_server, &cancel), (options, None)).await
    }

    /// [`Self::probe`] with the root file system of scripts, if it is not the host's. A cancellation ends the script and the
    /// wait for file systems.
    pub(in crate::sandbox) async fn probe_with(
        work: &Path,
        vcap: &Vcap,
        (fork_server, cancel): (&ForkServer, &CancellationToken),
        (options, image): (NamespaceOptions, Option<&Path>),
    ) -> Result<Self, SandboxError> {
        let (work, vcap, own) = (work.to_owned(), vcap.clone(), fork_server.clone());
        let image = image.map(|root| Image {
            root: root.to_owned(),
            in_memory: false,
        });
        let prepared = blocking("probe", move || {
            Self::prepare(&work, vcap, own, (options, image))
        });
        let mut namespaces = prepared.await?;
        loop {
            let (returned, tried) = namespaces.try_once(fork_server, cancel).await?;
            namespaces = returned;
            let Err(error) = tried else {
                return Ok(namespaces);
            };
            if !namespaces.fall_back(&error) {
                let closing = blocking("probe", move || {
                    namespaces.close();
                    Ok(())
                });
                closing.await?;
                return Err(error);
            }
        }
    }

    fn prepare(
        work: &Path,
        vcap: Vcap,
        fork_server: ForkServer,
        (options, image): (NamespaceOptions, Option<Image>),
    ) -> Result<Self, SandboxError> {
        fs::create_dir_all(&work.join("places"))?;
        fs::write(&work.join(PROCESSES), b"")?;
        let work = fs::canonicalize(work)?;
        let mut made = MadeDirectories::default();
        let (cover, base) = match image {
            // Cover the base directory of the image, which is not the host's.
            Some(_) => (vcap.base().to_owned(), None),
            None => find_cover(&vcap, &mut made)?,
        };
        Ok(Self {
            work,
            vcap,
            cover,
            options,
            writes: match options.readonly_dependencies {
                true => Writes::Refused,
                false => Writes::ToDisk,
            },
            processes: true,
            locked: true,
            next: AtomicUsize::new(0),
            made,
            base,
            scratch: Scratch::default(),
            scratch_root: PathBuf::from(SCRATCH),
            secrets: Vec::new(),
            image,
            fork_server,
        })
    }

    /// Runs a script in a place with one dependency. The inner result is that of the script; the outer error means that a task panicked.
    async fn try_once(
        self,
        fork_server: &ForkServer,
        cancel: &CancellationToken,
    ) -> Result<(Self, Result<(), SandboxError>), SandboxError> {
        let (fork_server, cancel, stop) = (fork_server.clone(), cancel.clone(), cancel);
        let (own, prepared) = blocking("probe", move || {
            let checked = self.check_entries(&cancel);
            let place = checked.and_then(|()| self.make_place(false, &[]));
            let prepared = place.map(|place| {
                let script = self.probe_script(&place, fork_server);
                (place, script)
            });
            Ok((self, prepared))
        })
        .await?;
        let (place, script) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Ok((own, Err(error))),
        };
        let result = match script {
            Ok((script, output)) => run(script, output, stop).await,
            Err(error) => Err(error),
        };
        blocking("probe", move || {
            let left = own.leave(&place);
            Ok((own, left.and(result)))
        })
        .await
    }

    /// Creates the directories of the probe. Returns the script and its output.
    fn probe_script(
        &self,
        place: &NamespacePlace,
        fork_server: ForkServer,
    ) -> Result<(Script, Output), SandboxError> {
        let vcap = Vcap::new(&self.root(place));
        let sealed = self.path(place).join("probe/sealed");
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
                process_lock: self.process_lock(),
                grace: GRACE,
                view: Some(self.view(place, &[(&sealed, &install)], &Environment::default())),
                rules: None,
                terminal: false,
            },
            environment: [("PATH".into(), "/usr/bin:/bin:/usr/local/bin".into())]
                .into_iter()
                .collect(),
            fork_server,
        };
        let output = Output::to_log(&self.path(place).join("probe.log"), |_| {})?;
        Ok((script, output))
    }

    /// Replaces the part that failed by its alternative. Returns `false` if it has none.
    fn fall_back(&mut self, error: &SandboxError) -> bool {
        let SandboxError::Step(error) = error else {
            return false;
        };
        if error.is_no_space() {
            // The alternatives need space, too.
            return false;
        }
        let is_overlay = matches!(
            error.step,
            Step::MountScratch(_) | Step::PrepareOverlay(_) | Step::MountOverlay(_)
        );
        let is_root = matches!(error.step, Step::PrepareRoot(_) | Step::MountRoot(_));
        if let Some(image) = self.image.as_mut().filter(|_| is_root) {
            return !std::mem::replace(&mut image.in_memory, true);
        }
        match (&error.step, self.writes) {
            (Step::MountProc, _) if self.processes => self.processes = false,
            // The nested user namespace is only needed to lock mounts.
            (Step::LockMounts | Step::SeparateUsers | Step::MapUsers(_) | Step::BecomeRoot, _)
                if self.locked =>
            {
                self.locked = false;
            }
            (_, Writes::ToDisk) if is_overlay => self.writes = Writes::ToMemory,
            (_, Writes::ToMemory) if is_overlay => self.writes = Writes::Refused,
            _ => return false,
        }
        true
    }
}

async fn run(
    script: Script,
    output: Output,
    cancel: &CancellationToken,
) -> Result<(), SandboxError> {
    let ended = script::run(script, output, cancel).await;
    if cancel.is_cancelled() {
        return Err(SandboxError::Stopped);
    }
    match ended?.status {
        Status::Exited(0) => Ok(()),
        status => Err(SandboxError::ProbeFailed(status)),
    }
}
