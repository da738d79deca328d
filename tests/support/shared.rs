//! Files that are made once for all tests of a run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs that started longer ago have ended.
const A_DAY: Duration = Duration::from_hours(24);

/// Whether to run long tests.
pub(crate) fn is_soak() -> bool {
    std::env::var_os("BOSH_AGENT_SOAK").is_some()
}

/// A time limit of a test, longer in its long form: trees have more levels, and the kernel's checks of Landlock rules are quadratic.
pub(crate) fn for_this_form(limit: Duration) -> Duration {
    if is_soak() { 5 * limit } else { limit }
}

/// A directory that is filled once in a run of the tests. nextest runs each test in its own process, so a static is not enough. Concurrent
/// tests wait for the first one; if it fails, the next one tries again.
pub(crate) fn once(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let run = std::env::var("NEXTEST_RUN_ID")
        .unwrap_or_else(|_| format!("process-{}", std::process::id()));
    let runs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shared");
    let directory = runs.join(run);
    if !directory.exists() {
        remove_old(&runs);
    }
    fs::create_dir_all(&directory).unwrap();
    let lock = File::create(directory.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let (made, is_made) = (
        directory.join(name),
        directory.join(format!("{name}.complete")),
    );
    if !is_made.exists() {
        let _ = fs::remove_dir_all(&made);
        fs::create_dir(&made).unwrap();
        make(&made);
        File::create(is_made).unwrap();
    }
    made
}

fn remove_old(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let began = entry.metadata().and_then(|metadata| metadata.modified());
        let age = began.ok().and_then(|began| began.elapsed().ok());
        if age.is_some_and(|age| age > A_DAY) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The source release of `make example`, or one from a variable.
pub(crate) fn example_release() -> PathBuf {
    let chosen = std::env::var_os("BOSH_AGENT_EXAMPLE_RELEASE");
    let chosen = chosen.unwrap_or_else(|| ".cache/example-release.tgz".into());
    Path::new(env!("CARGO_MANIFEST_DIR")).join(chosen)
}
