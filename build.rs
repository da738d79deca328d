//! Tells the program which commit it was built from, for `bosh-agent --version`.
#![expect(clippy::disallowed_methods, reason = "a build script runs git itself")]

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_COMMIT");
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=BOSH_AGENT_TARGET={target}");
    println!("cargo::rustc-env=BOSH_AGENT_COMMIT={}", commit());
}

/// The abbreviated commit and its date. Builds without optimization do not name one: they would be repeated for each commit.
fn commit() -> String {
    if let Ok(commit) = std::env::var("SOURCE_COMMIT") {
        return commit;
    }
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return "development build".to_owned();
    }
    for reference in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", reference]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["show", "--no-patch", "--format=%h %cs", "HEAD"])
        .unwrap_or_else(|| "unknown commit".to_owned())
}

/// What git prints; `None` where it fails, as without a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
