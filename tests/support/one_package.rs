//! Calls of `bosh-agent compile-package`.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::agent::{Agent, Ran};
use super::outcome::extract;
use super::report::sha256_of;
use super::schema::differences;
use super::tiers::Place;
use super::tools::run_tool;
use super::world::STEMCELL;

/// Writes the source blob of a package whose script is `script`, with mode 0444. Returns its path.
pub(crate) fn source(directory: &Path, name: &str, script: &str) -> PathBuf {
    let tree = directory.join(format!("{name}-source"));
    std::fs::create_dir_all(&tree).unwrap();
    let script = script.replace("@packages@", "$(dirname $BOSH_INSTALL_TARGET)");
    std::fs::write(tree.join("packaging"), script).unwrap();
    let blob = directory.join(format!("{name}.src.tgz"));
    let words = ["-czf".as_ref(), blob.as_os_str(), "-C".as_ref()];
    let words = words.into_iter().chain([tree.as_os_str(), ".".as_ref()]);
    run_tool("tar", &words.collect::<Vec<_>>());
    std::fs::set_permissions(&blob, PermissionsExt::from_mode(0o444)).unwrap();
    blob
}

/// One package to compile.
#[derive(Debug, Clone)]
pub(crate) struct OnePackage {
    pub(crate) name: &'static str,
    pub(crate) source: PathBuf,
    pub(crate) dependencies: Vec<(&'static str, PathBuf)>,
    /// The directory of the written files.
    pub(crate) out: PathBuf,
}

impl OnePackage {
    /// A package with this script and without dependencies, in a place.
    pub(crate) fn new(place: &Place, name: &'static str, script: &str) -> Self {
        let sources = place.world.path("sources");
        let out = place.world.path("compiled");
        for directory in [&sources, &out] {
            std::fs::create_dir_all(directory).unwrap();
            std::fs::set_permissions(directory, PermissionsExt::from_mode(0o777)).unwrap();
        }
        Self {
            name,
            source: source(&sources, name, script),
            dependencies: Vec::new(),
            out,
        }
    }

    pub(crate) fn depends_on(mut self, name: &'static str, blob: &Path) -> Self {
        self.dependencies.push((name, blob.to_owned()));
        self
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.out.join(format!("{}.tgz", self.name))
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.out.join(format!("{}.log", self.name))
    }

    pub(crate) fn report_file(&self) -> PathBuf {
        self.out.join(format!("{}.json", self.name))
    }

    /// The arguments that name the files that are written.
    pub(crate) fn written(&self, agent: Agent) -> Agent {
        agent
            .arg("--output")
            .arg(self.output())
            .arg("--log")
            .arg(self.log())
            .arg("--report")
            .arg(self.report_file())
    }

    /// The arguments that describe the package.
    pub(crate) fn described(&self, agent: Agent) -> Agent {
        let agent = agent
            .args(&["--name", self.name, "--version", "1.10", "--source"])
            .arg(&self.source);
        let dependencies = self.dependencies.iter();
        dependencies.fold(agent, |agent, (name, blob)| {
            let mut value = String::new();
            let _ = write!(value, "{name}=1.10={}", blob.display());
            agent.arg("--dependency").arg(value)
        })
    }

    /// `bosh-agent compile-package` in the tier of a place.
    pub(crate) fn agent(&self, place: &Place) -> Agent {
        let agent = place.bare().arg("compile-package");
        let agent = self.described(self.written(agent));
        with_tier(place, agent).args(&["--stemcell", STEMCELL])
    }

    pub(crate) fn run(&self, place: &Place) -> Ran {
        self.agent(place).run()
    }

    /// Compiles the package and returns its blob.
    pub(crate) fn compiled(&self, place: &Place) -> PathBuf {
        assert_eq!(self.checked(self.run(place), 0)["result"], "compiled");
        self.output()
    }

    /// Checks the exit code and stdout of a call, and its report, which is returned.
    #[track_caller]
    pub(crate) fn checked(&self, ran: Ran, code: i32) -> Value {
        assert_eq!(ran.code, Some(code), "{}", ran.stderr);
        let output = self.output();
        let printed = match code {
            0 => format!("{}\n", output.display()),
            _ => String::new(),
        };
        assert_eq!(ran.stdout, printed);
        let text = std::fs::read(self.report_file()).unwrap();
        let report: Value = serde_json::from_slice(&text).unwrap();
        let schema = include_str!("../../docs/package-report.schema.json");
        let found = differences(&report, &serde_json::from_str(schema).unwrap());
        assert!(found.is_empty(), "{found:#?}");
        assert_eq!(report["exit_code"], code);
        let shown = report.to_string();
        let reader: Result<bosh_agent::package_job::PackageReport, _> =
            serde_json::from_slice(&text);
        assert!(reader.is_ok(), "{shown}");
        assert_eq!(report["compiled"].is_null(), code != 0, "{shown}");
        if code == 0 {
            assert_eq!(report["compiled"]["sha256"], sha256_of(&output));
        }
        if !report["source"].is_null() {
            assert_eq!(report["source"]["sha256"], sha256_of(&self.source));
        }
        assert_eq!(report["has_log"], self.log().exists());
        let left = std::fs::read_dir(&self.out).unwrap().flatten();
        let left = left.map(|entry| entry.file_name().into_string().unwrap());
        let hidden: Vec<String> = left.filter(|name| name.starts_with('.')).collect();
        assert!(hidden.is_empty(), "{hidden:?}");
        report
    }
}

/// The flags for the tier and the base directory of a place.
pub(crate) fn with_tier(place: &Place, agent: Agent) -> Agent {
    agent
        .args(&["--isolation", place.tier.flag, "--base-directory"])
        .arg(place.world.base())
        .env("FACTS", place.world.path("facts").to_str().unwrap())
        .args(&["--env", "FACTS"])
}

/// The contents of a file in a compiled package.
pub(crate) fn file_in(blob: &Path, name: &str) -> String {
    let scratch = tempfile::tempdir().unwrap();
    extract(blob, scratch.path());
    std::fs::read_to_string(scratch.path().join(name)).unwrap()
}
