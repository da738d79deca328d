//! The Go release, `packaging-scripts/go-release`, and what the logs of its packages say of Go's build cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The source release, made by `make example`.
pub(crate) const TARBALL: &str = ".cache/go-release.tgz";
/// The variable that names another one.
pub(crate) const TARBALL_VARIABLE: &str = "BOSH_AGENT_GO_RELEASE";
/// The packages with a Go program.
pub(crate) const PROGRAMS: [&str; 5] = ["certinfo", "healthcheck", "logfilter", "lookup", "render"];

/// Where the source release is, there or not.
pub(crate) fn tarball() -> PathBuf {
    let chosen = std::env::var_os(TARBALL_VARIABLE).unwrap_or_else(|| TARBALL.into());
    Path::new(env!("CARGO_MANIFEST_DIR")).join(chosen)
}

/// How often each Go package was compiled, by all programs. Their logs are `DIRECTORY/NAME.ENDING`: `go build -v` prints the name of
/// a package that is not in the cache, and everything else there is what bash prints of the script.
pub(crate) fn compiled(logs: &Path, ending: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for program in PROGRAMS {
        let path = logs.join(format!("{program}.{ending}"));
        let log = std::fs::read_to_string(&path);
        let log = log.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(log.contains("+ go build -v"), "{log}");
        let packages = log
            .lines()
            .filter(|line| !line.starts_with('+') && !line.contains(' '));
        for package in packages {
            *counts.entry(package.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// The programs found the standard library in the cache, but for what several of them compiled at the same time. Each by itself
/// compiles between 90 and 200 packages, about 700 in all, of which 214 are different.
#[track_caller]
pub(crate) fn assert_shared(compiled: &BTreeMap<String, usize>) {
    for package in [
        "runtime",
        "net/http",
        "html/template",
        "tools.example/internal/cli",
    ] {
        assert!(compiled.contains_key(package), "{package}: {compiled:?}");
    }
    let all: usize = compiled.values().sum();
    assert!(
        all < 2 * compiled.len(),
        "{all} compiled, {} different: {compiled:?}",
        compiled.len()
    );
}

/// The most packages that were under way at once, as stderr tells.
pub(crate) fn most_at_once(stderr: &str) -> usize {
    let (mut running, mut most) = (0_usize, 0);
    for line in stderr.lines() {
        running += usize::from(line.starts_with("Compiling package "));
        most = most.max(running);
        running -= usize::from(line.starts_with("Finished compiling release "));
    }
    most
}
