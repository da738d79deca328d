//! The Go release, `packaging-scripts/go-release`, and uses of Go's build cache in the logs of its packages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The source release, made by `make example`.
pub(crate) const TARBALL: &str = ".cache/go-release.tgz";
/// The variable with the path of another release.
pub(crate) const TARBALL_VARIABLE: &str = "BOSH_AGENT_GO_RELEASE";
/// The packages with a Go program.
pub(crate) const PROGRAMS: [&str; 5] = ["certinfo", "healthcheck", "logfilter", "lookup", "render"];

/// The path of the source release, which may not exist.
pub(crate) fn tarball() -> PathBuf {
    let chosen = std::env::var_os(TARBALL_VARIABLE).unwrap_or_else(|| TARBALL.into());
    Path::new(env!("CARGO_MANIFEST_DIR")).join(chosen)
}

/// How often each Go package was compiled, by all programs. Their logs are `DIRECTORY/NAME.ENDING`: `go build -v` prints the name of a
/// package that is not in the cache; the other lines are from `bash -x`.
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

/// The programs found the standard library in the cache, except for packages that several programs compiled at the same time. Alone, each
/// program compiles 90 to 200 packages, about 700 in all, of which 214 are different.
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
    // One after another, each is compiled once. A busy machine may let a program start before the shared code is compiled.
    assert!(
        2 * all <= 3 * compiled.len(),
        "{all} compiled, {} different: {compiled:?}",
        compiled.len()
    );
}

/// The maximum number of concurrent packages, according to stderr.
pub(crate) fn most_at_once(stderr: &str) -> usize {
    most_of(stderr, |_| true)
}

/// The maximum number of concurrent programs. Those that share a cache which is not filled yet run one after another.
pub(crate) fn most_programs_at_once(stderr: &str) -> usize {
    most_of(stderr, |name| PROGRAMS.contains(&name))
}

fn most_of(stderr: &str, is_counted: impl Fn(&str) -> bool) -> usize {
    let (mut running, mut most) = (0_usize, 0);
    for line in stderr.lines() {
        let is = |start| {
            let named = line.strip_prefix(start);
            let name = named.and_then(|it| it.split('/').next());
            usize::from(name.is_some_and(&is_counted))
        };
        running += is("Compiling package ");
        most = most.max(running);
        running -= is("Finished compiling release ");
    }
    most
}
