//! Help, the version, and every usage error.

use super::page::Page;
use crate::support::{Agent, World};

/// The arguments that describe a package, and others.
fn of_package<'a>(others: &[&'a str]) -> Vec<&'a str> {
    let package = [
        "compile-package",
        "--source=a.tgz",
        "--name=a",
        "--version=1",
        "--output=out.tgz",
    ];
    [&package[..], others].concat()
}

fn page(calls: &[&[&str]]) -> Page {
    let world = World::new();
    let mut page = Page::default();
    for arguments in calls {
        let ran = Agent::bare(&world.path("printed")).args(arguments).run();
        page.add(&format!("bosh-agent {}", arguments.join(" ")), &world, &ran);
    }
    page
}

#[test]
fn help() {
    page(&[
        &["-h"],
        &["compile", "-h"],
        &["compile", "--help"],
        &["compile-package", "--help"],
        &["inspect", "--help"],
        &["cache", "--help"],
        &["cache", "prune", "--help"],
        &["enter", "--help"],
    ])
    .is("help");
}

#[test]
fn version() {
    page(&[&["-v"], &["--version"]]).is("version");
}

#[test]
fn usage_errors() {
    page(&[
        &[],
        &["compiel"],
        &["help"],
        &["compile"],
        &["compile", ""],
        &["compile", "--no-such-flag", "a.tgz"],
        &["compile", "--output-director=out", "a.tgz"],
        &["compile", "-x", "a.tgz"],
        &["compile", "a.tgz", "--force"],
        &["compile", "--version"],
        &["compile", "--output-directory"],
        &["compile", "--output-directory=", "a.tgz"],
        &["compile", "--scratch-dir=", "a.tgz"],
        &["compile", "--work-dir=", "a.tgz"],
        &["compile", "--logs-dir=", "a.tgz"],
        &["compile", "--base-directory=", "a.tgz"],
        &["compile", "--base-directory=vcap", "a.tgz"],
        &["compile", "--scratch-dir=d", "--no-shared-scratch", "a.tgz"],
        &["compile", "--stemcell=noble", "a.tgz"],
        &["compile", "--stemcell=a/b/c", "a.tgz"],
        &["compile", "--stemcell=-a/1", "a.tgz"],
        &["compile", "--isolation=some", "a.tgz"],
        &["compile", "--second-run=some", "a.tgz"],
        &["compile", "--network=some", "a.tgz"],
        &["compile", "--jobs=0", "a.tgz"],
        &["compile", "--jobs=many", "a.tgz"],
        &["compile", "--memory-per-job=1.5G", "a.tgz"],
        &["compile", "--nice=20", "a.tgz"],
        &["compile", "--grace=soon", "a.tgz"],
        &["compile", "--timeout=0", "a.tgz"],
        &["compile", "--timeout=1.5h", "a.tgz"],
        &["compile", "--silence-timeout=200h", "a.tgz"],
        &["compile", "--compression-level=0", "a.tgz"],
        &["compile", "--force=yes", "a.tgz"],
        &["compile", "--cache-from=s3://bucket/", "a.tgz"],
        &["compile", "--cache-from=", "a.tgz"],
        &["compile", "--cache-to=grpcs://me:hunter2@host/", "a.tgz"],
        &["compile", "--cache-to=http://:80/", "a.tgz"],
        &["compile-package"],
        &[
            "compile-package",
            "--source=a.tgz",
            "--name=a",
            "--version=1",
        ],
        &[
            "compile-package",
            "--job=a.json",
            "--name=a",
            "--output=b.tgz",
        ],
        &["compile-package", "--job=missing.json", "--output=b.tgz"],
        &of_package(&["--dependency=lib=1"]),
        &of_package(&["--dependency=../lib=1=lib.tgz"]),
        &of_package(&["--dependency=lib=1=l.tgz", "--dependency=lib=2=m.tgz"]),
        &of_package(&["--dependency=a=1=b.tgz"]),
        &of_package(&["--log=out.tgz"]),
        &of_package(&["--report=report"]),
        &of_package(&["--base-directory=vcap"]),
        &of_package(&["--env=NO_SUCH_VARIABLE"]),
        &of_package(&["--name=a/b"]),
        &of_package(&["b.tgz"]),
        &["inspect"],
        &["inspect", "a.tgz", "b.tgz"],
        &["inspect", "--stemcell=noble", "a.tgz"],
    ])
    .is("usage_errors");
}

#[test]
fn usage_errors_of_the_daemon() {
    page(&[
        &["-C", "agent.json"],
        &["-P"],
        &["-P", "windows"],
        &["-P", "ubuntu", "-b", "vcap"],
        &["-P", "ubuntu", "-C"],
        &["-P", "ubuntu"],
    ])
    .is("usage_errors_of_the_daemon");
}

#[test]
fn not_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let world = World::new();
    let ran = Agent::bare(&world.path("printed"))
        .arg("compile")
        .arg(OsStr::from_bytes(b"--base-directory=/vc\xffap"))
        .arg("a.tgz")
        .run();
    let mut page = Page::default();
    page.add("a base directory that is not UTF-8", &world, &ran);
    page.is("not_utf8");
}
