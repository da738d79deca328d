//! Scripts that attack their sandbox in a container that may mount.

use super::*;

/// What lets a container make namespaces of its own.
const SYS_ADMIN: [&str; 4] = [
    "--cap-add",
    "SYS_ADMIN",
    "--security-opt",
    "apparmor=unconfined",
];

/// Marks the package, so that a search finds it.
const MARKED: &str = "echo mark >$BOSH_INSTALL_TARGET/hidden-mark\n\
                      echo own >$BOSH_INSTALL_TARGET/file\n";

/// Unmounts what it can, searches the container for packages that it does not declare, changes what it finds and what it declares,
/// and writes to the container's own directories.
const ATTACK: &str = r#"
for round in 1 2 3; do
  for path in /var/vcap /var/vcap/data /var/vcap/packages /tmp /var/tmp /proc /var /; do umount $path; umount -l $path; done
  umount -a; umount -R -l /
done
mkdir m; mount --rbind / m; umount -l m/var/vcap
unshare --mount bash -c 'umount -l /var/vcap; umount -l /; find / -name hidden-mark -not -path "/proc/*"' >unshared
{ find / -name hidden-mark -not -path '/proc/*'; cat unshared; } 2>/dev/null |
  grep -v -e /packages/lib/ >$BOSH_INSTALL_TARGET/found
for file in $(find / -name file -path '*/lib/*' -not -path '/proc/*' 2>/dev/null); do echo changed >$file; done
echo written >/etc/written-by-a-script
ls /etc | grep -c written-by-a-script >$BOSH_INSTALL_TARGET/written
exit 0
"#;

/// Runs once the attack is over, compiled against the packages that it aimed at.
const LATE: &str = "set -e\ncat /var/vcap/packages/{lib,other}/file >$BOSH_INSTALL_TARGET/file\n";

/// The attack's results: undeclared packages that it found, how many files it wrote to `/etc`, what later packages read.
fn attack(label: &str, flags: &[&str]) -> Option<[String; 3]> {
    let inputs = inputs::require()?;
    let releases = tempfile::tempdir().unwrap();
    let packages: [release::Package; 4] = [
        ("other", &[], MARKED),
        ("lib", &["other"], MARKED),
        ("app", &["lib"], ATTACK),
        ("late", &["app", "lib", "other"], LATE),
    ];
    release::write_all(releases.path(), "hostile", &packages);
    let volume = volume(releases.path(), "/releases");
    let options = [&["--rm", "-v", &volume], &SYS_ADMIN[..]].concat();
    let call = [AGENT, "compile", "--output-directory=/releases/out"];
    let command = [&call[..], flags, &["/releases/hostile.tgz"]].concat();
    let outcome = Container::new(label).run(&options, AGENT_IMAGE, &command, SHORT);
    outcome.expect_code(0, label);
    takes(&outcome, &["namespace"]);

    let inputs = Inputs::new(inputs.dist.clone(), releases.path().join("hostile.tgz"));
    let output = releases.path().join("out").join(&inputs.compiled_name);
    Some(
        [("app", "found"), ("app", "written"), ("late", "file")]
            .map(|(package, file)| file_of(&output, package, file)),
    )
}

/// The contents of one file of a compiled package.
fn file_of(output: &Path, package: &str, file: &str) -> String {
    let script = format!("tar -xOf \"$1\" ./compiled_packages/{package}.tgz | tar -xzO ./{file}");
    let outcome = run(
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script, "bash"])
            .arg(output),
        SHORT,
    );
    outcome.expect_code(0, "reading a compiled package");
    outcome.stdout
}

#[test]
fn unmounting_reveals_and_changes_no_package() {
    if let Some([found, _, late]) = attack("unmounting", &[]) {
        assert_eq!((found.as_str(), late.as_str()), ("", "own\nown\n"));
    }
}

#[test]
fn protect_host_keeps_the_container_as_it_was() {
    if let Some([found, written, late]) = attack("protected", &["--protect-host"]) {
        assert_eq!(
            (found.as_str(), written.as_str(), late.as_str()),
            ("", "0\n", "own\nown\n")
        );
    }
}
