use super::*;

/// Programs that mount a directory by copying it, as an ordinary user may not mount.
const MOUNT: &str = "#!/bin/sh\nset -eu\n[ \"$1 $2\" = \"-o ro,nosuid,nodev,noexec\" ]\ncp -r \"$3.contents/.\" \"$4\"\n";
const UNMOUNT: &str =
    "#!/bin/sh\nset -eu\necho \"$1\" >>\"$(dirname \"$0\")/unmounted\"\nrm -r \"$1\"/*\n";

struct Machine {
    scratch: tempfile::TempDir,
    environment: Environment,
    cancel: CancellationToken,
}

fn machine() -> Machine {
    let scratch = tempfile::tempdir().unwrap();
    for (name, text) in [("mount", MOUNT), ("umount", UNMOUNT)] {
        let program = scratch.path().join(name);
        fs::write(&program, text.as_bytes()).unwrap();
        fs::set_mode(&program, 0o755).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", scratch.path().display());
    Machine {
        environment: Environment::default().with(&[("PATH", path.into())]),
        cancel: CancellationToken::new(),
        scratch,
    }
}

impl Machine {
    /// A device whose file system has this file.
    fn disk(&self, name: &str, file: &str, text: &[u8]) -> PathBuf {
        let device = self.scratch.path().join(name);
        fs::write(&device, b"").unwrap();
        let contents = self.scratch.path().join(format!("{name}.contents"));
        let file = contents.join(file);
        fs::create_dir_all(fs::parent(&file)).unwrap();
        fs::write(&file, text).unwrap();
        device
    }

    async fn read(&self, disks: &[&Path], file: &str) -> Result<(Vec<u8>, String), DiskError> {
        let source = DiskSource {
            kind: "ConfigDrive",
            disks: disks.iter().map(|disk| (*disk).to_owned()).collect(),
            file: file.into(),
        };
        read(&source, &self.environment, &self.cancel).await
    }
}

#[tokio::test]
async fn file_is_read_from_the_first_disk_that_exists() {
    let machine = machine();
    let disk = machine.disk("vdb", "ec2/latest/user-data", b"{}");
    let missing = machine.scratch.path().join("missing");
    for file in ["ec2/latest/user-data", "/ec2/latest/user-data"] {
        let (text, place) = machine.read(&[&missing, &disk], file).await.unwrap();
        assert_eq!(text, b"{}");
        assert_eq!(place, format!("{}:{file}", disk.display()));
    }
    let unmounted = fs::read_lossy(&machine.scratch.path().join("unmounted")).unwrap();
    assert_eq!(unmounted.lines().count(), 2);
    for directory in unmounted.lines() {
        assert!(!Path::new(directory).exists(), "{directory}");
    }
}

#[tokio::test]
async fn directory_is_read_in_place() {
    let machine = machine();
    machine.disk("vdb", "env", b"{}");
    let mounted = machine.scratch.path().join("vdb.contents");
    let (text, _) = machine.read(&[&mounted], "env").await.unwrap();
    assert_eq!(text, b"{}");
    assert!(!machine.scratch.path().join("unmounted").exists());
}

#[tokio::test]
async fn missing_disks_and_files_are_named() {
    let machine = machine();
    let missing = machine.scratch.path().join("missing");
    let error = machine.read(&[&missing], "env").await.unwrap_err();
    assert!(matches!(error, DiskError::Missing { .. }));
    assert_eq!(
        error.to_string(),
        format!("none of these disks exists: `{}`", missing.display())
    );
    let disk = machine.disk("vdb", "other", b"");
    let error = machine.read(&[&disk], "env").await.unwrap_err();
    assert!(error.to_string().contains("/env`"), "{error}");
    // The disk was unmounted nevertheless.
    assert!(machine.scratch.path().join("unmounted").exists());

    fs::remove_tree(&machine.scratch.path().join("vdb.contents")).unwrap();
    let error = machine.read(&[&disk], "env").await.unwrap_err();
    let start = format!("`mount {}` exited with 1: ", disk.display());
    assert!(error.to_string().starts_with(&start), "{error}");
    fs::remove_file(&machine.scratch.path().join("mount")).unwrap();
    let environment = Environment::default();
    let none = Machine {
        environment,
        ..machine
    };
    let error = none.read(&[&disk], "env").await.unwrap_err();
    assert_eq!(error.to_string(), "there is no program `mount` in PATH");
}

#[tokio::test]
async fn endless_file_is_refused() {
    let machine = machine();
    let disk = machine.disk("vdb", "env", b"");
    let file = machine.scratch.path().join("vdb.contents/env");
    fs::create(&file).unwrap().set_len(SIZE_LIMIT + 1).unwrap();
    let error = machine.read(&[&disk], "env").await.unwrap_err();
    assert!(matches!(error, DiskError::TooLong { .. }), "{error}");
}

#[tokio::test]
async fn disk_of_a_stopped_mount_is_unmounted() {
    let machine = machine();
    let disk = machine.disk("vdb", "env", b"{}");
    let slow = format!("{MOUNT}echo \"$4\" >\"$3.mounted\"\nsleep 1000\n");
    fs::write(&machine.scratch.path().join("mount"), slow.as_bytes()).unwrap();
    let mounted = machine.scratch.path().join("vdb.mounted");
    let stop = async {
        while !fs::read_lossy(&mounted).is_ok_and(|text| text.ends_with('\n')) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        machine.cancel.cancel();
    };
    let disks = [disk.as_path()];
    let (read, ()) = tokio::join!(machine.read(&disks, "env"), stop);
    let error = read.unwrap_err();
    assert!(
        matches!(error, DiskError::Run(RunError::Stopped)),
        "{error}"
    );
    let directory = fs::read_lossy(&mounted).unwrap();
    let unmounted = fs::read_lossy(&machine.scratch.path().join("unmounted")).unwrap();
    assert_eq!(unmounted, directory);
    assert!(!Path::new(directory.trim_end()).exists());
}

#[tokio::test]
async fn files_at_a_mount_point_are_not_removed() {
    let machine = machine();
    let disk = machine.disk("vdb", "env", b"{}");
    let failing = "#!/bin/sh\necho \"$@\" >>\"$(dirname \"$0\")/unmounted\"\nexit 32\n";
    fs::write(&machine.scratch.path().join("umount"), failing.as_bytes()).unwrap();
    let (text, _) = machine.read(&[&disk], "env").await.unwrap();
    assert_eq!(text, b"{}");
    let calls = fs::read_lossy(&machine.scratch.path().join("unmounted")).unwrap();
    let (first, second) = calls.trim_end().split_once('\n').unwrap();
    assert_eq!(second, format!("-l {first}"));
    assert_eq!(fs::read(&Path::new(first).join("env")).unwrap(), b"{}");
    fs::remove_tree(Path::new(first)).unwrap();
}
