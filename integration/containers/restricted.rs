//! Containers with fewer permissions than Docker's default: the lines of `README.md` and `docs/isolation.md` for them.

use super::*;

/// The second is compiled against the first.
const PACKAGES: [release::Package; 2] = [
    ("lib", &[], "id -u >\"$BOSH_INSTALL_TARGET/uid\"\n"),
    (
        "app",
        &["lib"],
        "set -e\nls /var/vcap/packages/lib >$BOSH_INSTALL_TARGET/lib\n",
    ),
];

/// Volumes where packages are compiled.
const DATA: [&str; 4] = ["-v", "/var/vcap/data", "-v", "/var/vcap/packages"];

#[test]
fn ordinary_user_compiles_in_a_container() {
    compiles("user", &["--user", "1000:1000"]);
}

#[test]
fn any_user_compiles_in_a_container() {
    compiles("any-user", &["--user", "54321:54321"]);
}

#[test]
fn read_only_container_compiles_with_volumes() {
    let options = [&["--read-only", "--tmpfs", "/tmp"], &DATA[..]].concat();
    compiles("read-only", &options);
    let options = [&["--user", "1000:1000"], &options[..]].concat();
    compiles("read-only-user", &options);
}

#[test]
fn read_only_container_without_volumes_names_the_remedy() {
    let Some((outcome, out)) = compile("sealed", &["--read-only"]) else {
        return;
    };
    outcome.expect_code(4, "a read-only container");
    for part in ["/var/vcap/data", "Read-only file system", "Hint: "] {
        assert!(outcome.stderr.contains(part), "no {part:?}: {outcome}");
    }
    assert!(names(out.path()).is_empty(), "{outcome}");
}

#[test]
fn stemcell_closed_to_users_names_the_remedy() {
    let Some(inputs) = inputs::require() else {
        return;
    };
    let releases = releases();
    let binary = format!("{}:/agent:ro", inputs.dist.display());
    let volume = volume(releases.path(), "/releases");
    let options = ["--rm", "--user", "1000:1000", "-v", &binary, "-v", &volume];
    let command = ["/agent", "compile", "/releases/small.tgz"];
    let outcome = Container::new("closed").run(&options, STEMCELL_IMAGE, &command, SHORT);
    outcome.expect_code(4, "an unreadable stemcell version");
    for part in ["stemcell_version", "--stemcell"] {
        assert!(outcome.stderr.contains(part), "no {part:?}: {outcome}");
    }
}

fn compiles(label: &str, options: &[&str]) {
    let Some((outcome, out)) = compile(label, options) else {
        return;
    };
    outcome.expect_code(0, label);
    assert_eq!(
        names(out.path()),
        ["small-1-ubuntu-noble-1.406.tgz"],
        "{outcome}"
    );
}

fn releases() -> TempDir {
    let releases = tempfile::tempdir().unwrap();
    release::write_all(releases.path(), "small", &PACKAGES);
    open_to_all(releases.path());
    releases
}

/// Compiles a small release. `None` if there is no Docker.
fn compile(label: &str, options: &[&str]) -> Option<(Outcome, TempDir)> {
    inputs::require()?;
    let (releases, out) = (releases(), tempfile::tempdir().unwrap());
    open_to_all(out.path());
    let (input, output) = (
        volume(releases.path(), "/releases"),
        volume(out.path(), "/out"),
    );
    let options = [&["--rm", "-v", &input, "-v", &output], options].concat();
    let command = [
        AGENT,
        "compile",
        "--output-directory=/out",
        "/releases/small.tgz",
    ];
    let outcome = Container::new(label).run(&options, AGENT_IMAGE, &command, SHORT);
    Some((outcome, out))
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}
