//! Opens a shell in the sandbox of a package that `--keep-failed` has kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::OfflineError;
use super::isolation;
use super::options::Options;
use super::progress::Progress;
use super::run::Outcome;
use super::setup;
use super::work_directory;
use crate::compile::{
    self, CompileError, Context, Dependency, Job, Kept, WorkDirectory, kept_dependency,
};
use crate::diag::Chain;
use crate::fs;
use crate::release::{Digests, Name, Version};
use crate::runtime;

/// A kept package.
#[derive(Debug, Clone)]
pub struct KeptPackage {
    directory: PathBuf,
    name: Name,
    version: Version,
    dependencies: Vec<(Name, Version)>,
}

impl KeptPackage {
    /// The package in `directory` with the description `kept`. `None` if a name or version in it is invalid.
    #[must_use]
    pub fn new(directory: &Path, kept: &Kept) -> Option<Self> {
        let parse = |name: &str, version: &str| {
            Some((Name::parse(name).ok()?, Version::parse(version).ok()?))
        };
        let (name, version) = parse(&kept.package, &kept.version)?;
        let dependencies = kept.dependencies.iter();
        let dependencies = dependencies.map(|(name, version)| parse(name, version));
        Some(Self {
            directory: directory.to_owned(),
            name,
            version,
            dependencies: dependencies.collect::<Option<_>>()?,
        })
    }

    /// The package's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }
}

/// Opens a shell in the sandbox of a kept package. Changes in the package's directories are kept.
pub async fn enter(
    package: KeptPackage,
    options: Options,
    progress: Arc<Progress>,
    cancel: &CancellationToken,
) -> Outcome {
    let result = enter_kept(&package, &options, &progress, cancel).await;
    Outcome {
        written: Vec::new(),
        result: match cancel.is_cancelled() {
            true => Err(OfflineError::Stopped),
            false => result,
        },
        report: None,
    }
}

async fn enter_kept(
    package: &KeptPackage,
    options: &Options,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<(), OfflineError> {
    // A shell saves its changes when it ends, so only one at a time may use the directory.
    let lock = {
        let directory = package.directory.clone();
        runtime::spawn_blocking("lock", move || Kept::lock(&directory)).await??
    };
    let Some(_lock) = lock else {
        let directory = package.directory.clone();
        return Err(OfflineError::KeptInUse { directory });
    };
    let making = {
        let (directory, vcap) = (package.directory.clone(), options.vcap.clone());
        let cancel = cancel.clone();
        runtime::spawn_blocking("work directory", move || {
            let stop = || cancel.is_cancelled();
            work_directory::make(Some(&directory), &vcap, &directory, &stop)
        })
    };
    let work_directory = making.await??;
    let result = enter_in(package, &work_directory, options, progress, cancel).await;
    let removing = runtime::spawn_blocking("work directory", move || work_directory.remove());
    if let Ok(Err(error)) = removing.await {
        progress.warn(&format!(
            "Warning: could not remove temporary files in `{}`: {}",
            package.directory.display(),
            Chain(&error)
        ));
    }
    result
}

async fn enter_in(
    package: &KeptPackage,
    work_directory: &WorkDirectory,
    options: &Options,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<(), OfflineError> {
    let sandbox = isolation::choose(
        (options, Vec::new()),
        work_directory.path(),
        progress,
        cancel,
    )
    .await?;
    let variables = (options.script_environment().clone(), None);
    let context = setup::context(
        options,
        sandbox,
        work_directory,
        variables,
        None,
        (progress, cancel),
    );
    let context = Arc::new(context);
    let result = open_shell(package, work_directory.path(), &context, cancel).await;
    let closing = runtime::spawn_blocking("close", move || Context::close(context));
    let closed = closing.await?;
    result.and_then(|()| closed.map_err(OfflineError::Sandbox))
}

async fn open_shell(
    package: &KeptPackage,
    work: &Path,
    context: &Arc<Context>,
    cancel: &CancellationToken,
) -> Result<(), OfflineError> {
    let installing = {
        let (package, work, context) = (package.clone(), work.to_owned(), Arc::clone(context));
        runtime::spawn_blocking("dependencies", move || install(&package, &work, &context))
    };
    let job = Job {
        number: 0,
        name: package.name.clone(),
        version: package.version.clone(),
        source: package.directory.clone(),
        kept: Some(package.directory.clone()),
        source_digests: Digests::default(),
        source_date: None,
        dependencies: installing.await??,
        log: work.join("log"),
        stdout_log: None,
        blob: work.join("blob"),
        is_dependency: false,
        algorithms: Vec::new(),
    };
    match compile::compile(context, job, cancel).await {
        Ok(_) | Err(CompileError::ReplacedByShell { .. }) => Ok(()),
        Err(CompileError::Stopped { .. }) => Err(OfflineError::Stopped),
        Err(CompileError::Sandbox { source, .. }) => Err(OfflineError::Sandbox(source)),
        Err(CompileError::Files { source, .. }) => Err(OfflineError::Files(source)),
        Err(source) => Err(OfflineError::Enter {
            package: package.name.clone(),
            source: Box::new(source),
        }),
    }
}

/// Copies the kept dependencies of a package to the store of the work directory.
fn install(package: &KeptPackage, work: &Path, context: &Context) -> fs::Result<Vec<Dependency>> {
    let copies = work.join("copies");
    fs::create_dir(&copies)?;
    let installed = package.dependencies.iter().map(|(name, version)| {
        let copy = copies.join(name.as_str());
        fs::copy_tree(&kept_dependency(&package.directory, name.as_str()), &copy)?;
        Ok(Dependency {
            name: name.clone(),
            version: version.clone(),
            installed: context.store.seal(name, &copy)?,
        })
    });
    installed.collect()
}
