//! The inputs of the tests: images, the portable binary and the example release. They may be missing on a developer's machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::docker::{docker, run};
use crate::common::{go_release, once, skip};

/// The image that `integration/stemcell-image` builds.
pub(crate) const STEMCELL_IMAGE: &str = "bosh-agent-test/stemcell:latest";
/// Operating system and version of that image.
pub(crate) const SLUG: &str = "ubuntu-noble/1.406";
/// That image with the agent, built by the repository's Dockerfile.
pub(crate) const AGENT_IMAGE: &str = "bosh-agent-test/agent:latest";

const SHORT: Duration = Duration::from_secs(60);

/// The paths of the inputs.
pub(crate) struct Inputs {
    /// The portable binary.
    pub(crate) dist: PathBuf,
    /// The source tarball of a release: by default the example release.
    pub(crate) release: PathBuf,
    /// The name of its compiled release.
    pub(crate) compiled_name: String,
    /// The number of its packages.
    pub(crate) packages: usize,
}

impl Inputs {
    /// With another release.
    pub(crate) fn new(dist: PathBuf, release: PathBuf) -> Self {
        let manifest = manifest_of(&release);
        let field = |key: &str| {
            let line = manifest
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .unwrap();
            line.trim().trim_matches(['"', '\'']).to_owned()
        };
        let compiled_name = format!(
            "{}-{}-{}.tgz",
            field("name:"),
            field("version:"),
            SLUG.replace('/', "-")
        );
        let packages = names_in(&release)
            .iter()
            .filter(|name| is_package(name))
            .count();
        Self {
            dist,
            release,
            compiled_name,
            packages,
        }
    }
}

/// The inputs, and the image with the agent. Otherwise as [`require_parts`].
#[track_caller]
pub(crate) fn require() -> Option<&'static Inputs> {
    let inputs = require_parts()?;
    once("agent-image", |_| build_agent_image(&inputs.dist));
    Some(inputs)
}

/// The same with the Go release.
#[track_caller]
pub(crate) fn require_go_release() -> Option<&'static Inputs> {
    static INPUTS: OnceLock<Option<Inputs>> = OnceLock::new();
    let dist = require()?.dist.clone();
    let inputs = INPUTS.get_or_init(|| {
        if !go_release::tarball().is_file() {
            skip("there is no Go release: call `make example`");
            return None;
        }
        Some(Inputs::new(dist, go_release::tarball()))
    });
    inputs.as_ref()
}

/// The inputs, or `None` if one is missing; then the test prints why it is skipped. With `BOSH_AGENT_TEST_REQUIRE_ALL` in the environment,
/// a missing input is a failure, so that CI skips no test.
#[track_caller]
pub(crate) fn require_parts() -> Option<&'static Inputs> {
    static INPUTS: OnceLock<Result<Inputs, String>> = OnceLock::new();
    match INPUTS.get_or_init(find) {
        Ok(inputs) => Some(inputs),
        Err(reason) => {
            skip(reason);
            None
        }
    }
}

/// The repository of this build.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn find() -> Result<Inputs, String> {
    for (program, argument) in [
        ("docker", "version"),
        ("ruby", "--version"),
        ("python3", "--version"),
        ("bsdtar", "--version"),
        ("go", "version"),
    ] {
        if !Command::new(program)
            .arg(argument)
            .output()
            .is_ok_and(|output| output.status.success())
        {
            return Err(format!(
                "`{program} {argument}` fails: see integration/README.md"
            ));
        }
    }
    if docker(&["image", "inspect", STEMCELL_IMAGE], SHORT).code != Some(0) {
        return Err(format!(
            "there is no image {STEMCELL_IMAGE}: call integration/stemcell-image"
        ));
    }
    let dist = path_from("BOSH_AGENT_DIST", "dist/bosh-agent", "call `make dist`")?;
    let release = path_from(
        "BOSH_AGENT_EXAMPLE_RELEASE",
        ".cache/example-release.tgz",
        "call packaging-scripts/example-release/assemble .cache/example-release.tgz",
    )?;
    Ok(Inputs::new(dist, release))
}

fn is_package(name: &str) -> bool {
    let name = name.trim_start_matches("./");
    name.starts_with("packages/") && !name.ends_with('/')
}

fn path_from(variable: &str, default: &str, remedy: &str) -> Result<PathBuf, String> {
    let path = repository().join(env::var_os(variable).unwrap_or_else(|| default.into()));
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!(
            "{} does not exist: {remedy}, or set {variable}",
            path.display()
        ))
    }
}

fn build_agent_image(dist: &Path) {
    // The binary may be anywhere, but docker reads files of one directory only.
    let context = tempfile::tempdir().unwrap();
    fs::create_dir(context.path().join("dist")).unwrap();
    fs::copy(dist, context.path().join("dist/bosh-agent")).unwrap();
    for name in ["Dockerfile", ".dockerignore"] {
        fs::copy(repository().join(name), context.path().join(name)).unwrap();
    }
    let stemcell = format!("STEMCELL_IMAGE={STEMCELL_IMAGE}");
    let context = context.path().to_str().unwrap();
    let limit = Duration::from_secs(180);
    docker(
        &[
            "build",
            "--build-arg",
            &stemcell,
            "--tag",
            AGENT_IMAGE,
            context,
        ],
        limit,
    )
    .expect_code(0, "docker build");
}

fn manifest_of(release: &Path) -> String {
    let outcome = run(
        Command::new("tar")
            .arg("-xOf")
            .arg(release)
            .args(["--wildcards", "*release.MF"]),
        SHORT,
    );
    outcome.expect_code(0, "reading the example release's manifest");
    outcome.stdout
}

/// The names of a tarball's entries.
pub(crate) fn names_in(tarball: &Path) -> Vec<String> {
    let outcome = run(Command::new("tar").arg("-tf").arg(tarball), SHORT);
    outcome.expect_code(0, "listing a tarball");
    outcome.stdout.lines().map(str::to_owned).collect()
}
