//! `compile-package` in containers of the stemcell image: the inputs are mounted read-only, and only one directory is written.

use super::*;

const LIB: &str =
    "set -e\necho lib >\"$BOSH_INSTALL_TARGET/lib\"\nid -u >\"$BOSH_INSTALL_TARGET/uid\"\n";
const APP: &str = "set -e\ncat /var/vcap/packages/lib/lib >\"$BOSH_INSTALL_TARGET/app\"\n";

/// A directory with the sources of two packages, and a directory for their results.
struct Files {
    sources: TempDir,
    out: TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            sources: tempfile::tempdir().unwrap(),
            out: tempfile::tempdir().unwrap(),
        };
        for (name, script) in [("lib", LIB), ("app", APP)] {
            let tree = tempfile::tempdir().unwrap();
            fs::write(tree.path().join("packaging"), script).unwrap();
            let mut tar = Command::new("tar");
            tar.arg("-czf").arg(files.sources.path().join(name));
            tar.arg("-C").arg(tree.path()).arg(".");
            run(&mut tar, SHORT).expect_code(0, "tar");
        }
        for directory in [&files.sources, &files.out] {
            fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
        }
        files
    }

    /// Compiles a package in a container of its own. Its result becomes an input of later containers. It is copied: a directory that is
    /// mounted at two paths cannot be restricted by Landlock.
    fn compile(&self, label: &str, options: &[&str], name: &str, dependencies: &[&str]) -> Outcome {
        let sources = format!("{}:ro", volume(self.sources.path(), "/in"));
        let out = volume(self.out.path(), "/out");
        let fixed = ["--rm", "-v", &sources, "-v", &out];
        let dependencies = dependencies.iter();
        let dependencies: Vec<String> = dependencies
            .map(|it| format!("--dependency={it}=1=/in/{it}.tgz"))
            .collect();
        let named = [
            format!("--source=/in/{name}"),
            format!("--name={name}"),
            format!("--output=/out/{name}.tgz"),
            format!("--report=/out/{name}.json"),
        ];
        let arguments = named.iter().chain(&dependencies).map(String::as_str);
        let command = [AGENT, "compile-package", "--version=1"].into_iter();
        let command: Vec<&str> = command.chain(arguments).collect();
        let options = [&fixed, options].concat();
        let outcome = Container::new(label).run(&options, AGENT_IMAGE, &command, SHORT);
        let result = format!("{name}.tgz");
        // The caller reports a failed container.
        let _ = fs::copy(
            self.out.path().join(&result),
            self.sources.path().join(&result),
        );
        outcome
    }

    /// A file of a compiled package.
    fn content(&self, package: &str, file: &str) -> String {
        let mut tar = Command::new("tar");
        tar.arg("-xzOf").arg(self.out.path().join(package));
        let outcome = run(tar.arg(format!("./{file}")), SHORT);
        outcome.expect_code(0, "tar");
        outcome.stdout
    }
}

/// Compiles two packages, the second against the first, in two containers.
fn compiles(label: &str, options: &[&str], isolations: &[&str]) {
    if inputs::require().is_none() {
        return;
    }
    let files = Files::new();
    for (name, dependencies) in [("lib", &[][..]), ("app", &["lib"])] {
        let outcome = files.compile(label, options, name, dependencies);
        outcome.expect_code(0, label);
        let taken = |name: &&str| outcome.stderr.contains(&format!("Isolation: {name}"));
        assert!(
            isolations.iter().any(taken),
            "not one of {isolations:?}: {outcome}"
        );
        assert_eq!(outcome.stdout, format!("/out/{name}.tgz\n"), "{outcome}");
    }
    assert_eq!(files.content("app.tgz", "app"), "lib\n");
    let expected = [
        "app.json",
        "app.tgz",
        "app.tgz.log",
        "lib.json",
        "lib.tgz",
        "lib.tgz.log",
    ];
    assert_eq!(names(files.out.path()), expected);
}

#[test]
fn unprivileged_container_compiles_one_package() {
    compiles("one", &[], &["landlock"]);
}

#[test]
fn privileged_container_compiles_one_package() {
    if inputs::require().is_none() {
        return;
    }
    compiles("one-privileged", privileged(), &["namespace"]);
}

#[test]
fn ordinary_user_compiles_one_package_in_a_container() {
    compiles("one-user", &["--user", "1000:1000"], &["landlock"]);
}

#[test]
fn output_directory_that_is_read_only_is_a_failure_of_the_machine() {
    if inputs::require().is_none() {
        return;
    }
    let files = Files::new();
    let sources = format!("{}:ro", volume(files.sources.path(), "/in"));
    let options = ["--rm", "-v", &sources];
    let command = [
        AGENT,
        "compile-package",
        "--source=/in/lib",
        "--name=lib",
        "--version=1",
        "--output=/in/lib.tgz",
    ];
    let outcome = Container::new("one-read-only").run(&options, AGENT_IMAGE, &command, SHORT);
    outcome.expect_code(4, "a read-only output directory");
    for part in ["/in", "Read-only file system", "Hint: "] {
        assert!(outcome.stderr.contains(part), "no {part:?}: {outcome}");
    }
    assert_eq!(names(files.sources.path()), ["app", "lib"]);
}
