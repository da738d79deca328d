//! The Go release in a container with docker's defaults.

use super::{check, compile_with, smoke_test, volume};
use crate::common::go_release;
use crate::support::inputs;

#[test]
fn go_packages_share_a_build_cache_in_a_default_container() {
    let Some(inputs) = inputs::require_go_release() else {
        return;
    };
    let logs = tempfile::tempdir().unwrap();
    let mount = volume(logs.path(), "/var/vcap/sys/log/compilation");
    // Fails if a package was compiled a second time without restrictions.
    let compiled = compile_with(inputs, "go", &["-v", &mount], &["landlock; "]);
    let at_once = go_release::most_at_once(&compiled.outcome.stderr);
    assert!(at_once > 1, "{}", compiled.outcome);
    let logs = logs.path().join("go-tools-1.0.0");
    go_release::assert_shared(&go_release::compiled(&logs, "log"));
    check(&compiled.output, inputs);
    smoke_test(&compiled.output, "go-release");
}
