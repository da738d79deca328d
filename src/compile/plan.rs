//! Plans the compilation of one package before its first step: paths, environment and script. No I/O.
//!
//! The agent and the script may see the package's directories at different paths, because the sandbox can mount other file systems for a
//! script.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::job::Job;
use super::source_date::SourceDate;
use crate::config::{Environment, PackagePaths, Vcap};
use crate::process::ForkServer;
use crate::release::Name;
use crate::sandbox::{Script, Spec};

/// The name of the script in a package's source.
pub(super) const PACKAGING: &str = "packaging";

/// The umask of scripts, which determines the modes of installed files.
const UMASK: u32 = 0o022;

/// The settings and paths from which a package is planned, in addition to the [`Job`].
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The base directory as the script sees it.
    pub inside: &'a Vcap,
    /// The base directory as the agent sees it.
    pub outside: &'a Vcap,
    /// The environment that the script inherits.
    pub environment: &'a Environment,
    /// Forks the script's parent.
    pub fork_server: ForkServer,
    /// A file that is locked as long as the script has processes.
    pub process_lock: PathBuf,
    /// The time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// By how much the script's niceness is raised.
    pub nice: i32,
}

/// How a package is compiled. The steps of the compilation do not change the plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The base directory as the agent sees it.
    pub outside: Vcap,
    /// The package's paths as the agent sees them.
    pub paths: PackagePaths,
    /// The target of the link at `paths.link`: the install directory as the script sees it.
    pub link_target: PathBuf,
    /// The packaging script's file as the agent sees it. If the file does not exist, the package is empty.
    pub packaging: PathBuf,
    /// The dependencies, in the job's order.
    pub dependencies: Vec<PlannedDependency>,
    /// The directory of the variable `TMPDIR`, as the agent sees it. `None` if it is not in the base directory. If the script has a base
    /// directory of its own, `TMPDIR` must be created there.
    pub temporary: Option<PathBuf>,
    /// The script, without the restrictions that the sandbox adds.
    pub script: Script,
}

/// The paths of a dependency.
#[derive(Debug, Clone)]
pub struct PlannedDependency {
    /// The name of the dependency.
    pub name: Name,
    /// The directory of the dependency in the store.
    pub sealed: PathBuf,
    /// The paths of the dependency as the agent sees them.
    pub paths: PackagePaths,
    /// The target of the link at `paths.link`.
    pub link_target: PathBuf,
}

impl Plan {
    /// Plans the compilation of a job.
    #[must_use]
    pub fn new(job: &Job, surroundings: Surroundings<'_>) -> Self {
        let Surroundings {
            inside,
            outside,
            environment,
            fork_server,
            process_lock,
            grace,
            nice,
        } = surroundings;
        let seen = inside.package(&job.name, &job.version);
        let paths = outside.package(&job.name, &job.version);
        let dependencies = job
            .dependencies
            .iter()
            .map(|dependency| PlannedDependency {
                name: dependency.name.clone(),
                sealed: dependency.installed.tree(),
                paths: outside.package(&dependency.name, &dependency.version),
                link_target: inside
                    .package(&dependency.name, &dependency.version)
                    .install,
            })
            .collect();
        let environment = variables(job, &seen, environment);
        let temporary = environment
            .get("TMPDIR")
            .and_then(|directory| Path::new(directory).strip_prefix(inside.base()).ok())
            .map(|below| outside.base().join(below));
        Self {
            temporary,
            packaging: paths.compile.join(PACKAGING),
            outside: outside.clone(),
            paths,
            link_target: seen.install,
            dependencies,
            script: Script {
                spec: Spec {
                    program: "bash".to_owned(),
                    arguments: vec!["-x".into(), PACKAGING.into()],
                    directory: seen.compile,
                    umask: UMASK,
                    nice,
                    process_lock,
                    grace,
                    view: None,
                    rules: None,
                    terminal: false,
                },
                environment,
                fork_server,
            },
        }
    }
}

/// The environment of a package's script. `seen` has the package's paths as the script sees them.
fn variables(job: &Job, seen: &PackagePaths, inherited: &Environment) -> Environment {
    let date = job.source_date.map(SourceDate::variables);
    let dated = inherited.with(date.as_ref().map_or(&[], <[_; 3]>::as_slice));
    dated.with(&[
        ("BOSH_COMPILE_TARGET", seen.compile.clone().into()),
        ("BOSH_INSTALL_TARGET", seen.link.clone().into()),
        ("BOSH_PACKAGE_NAME", job.name.as_str().into()),
        ("BOSH_PACKAGE_VERSION", job.version.as_str().into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::{Digests, Version};

    #[test]
    fn script_sees_the_base_directory_wherever_its_tree_is() {
        let job = Job {
            number: 0,
            name: Name::parse("app").unwrap(),
            version: Version::parse("1.2").unwrap(),
            source: PathBuf::from("/work/app.tgz"),
            kept: None,
            source_digests: Digests::default(),
            source_date: None,
            dependencies: Vec::new(),
            log: PathBuf::from("/log"),
            blob: PathBuf::from("/blob"),
            is_dependency: false,
            stdout_log: None,
            algorithms: Vec::new(),
        };
        let inherited: Environment = [
            ("PATH", "/bin"),
            ("BOSH_PACKAGE_NAME", "other"),
            ("TMPDIR", "/var/vcap/data/tmp"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into_iter()
        .collect();
        let plan = Plan::new(
            &job,
            Surroundings {
                inside: &Vcap::new(Path::new("/var/vcap")),
                outside: &Vcap::new(Path::new("/work/tree")),
                environment: &inherited,
                fork_server: "/agent".into(),
                process_lock: PathBuf::from("/lock"),
                grace: Duration::from_secs(1),
                nice: 5,
            },
        );
        assert_eq!(plan.script.spec.nice, 5);
        assert_eq!(plan.paths.compile, Path::new("/work/tree/data/compile/app"));
        assert!(plan.link_target.starts_with("/var/vcap/data/packages/app"));
        assert_eq!(
            plan.script.spec.directory,
            Path::new("/var/vcap/data/compile/app")
        );
        let value = |name| plan.script.environment.get(name).unwrap().to_str().unwrap();
        assert_eq!(value("BOSH_COMPILE_TARGET"), "/var/vcap/data/compile/app");
        assert_eq!(value("BOSH_INSTALL_TARGET"), "/var/vcap/packages/app");
        assert_eq!(value("BOSH_PACKAGE_NAME"), "app");
        assert_eq!(value("BOSH_PACKAGE_VERSION"), "1.2");
        assert_eq!(value("PATH"), "/bin");
        assert_eq!(
            plan.temporary.as_deref(),
            Some(Path::new("/work/tree/data/tmp"))
        );
    }
}
