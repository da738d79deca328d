//! The files that a run of one package reads and writes.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::support::one_package::{OnePackage, file_in, source, with_tier};
use crate::support::{
    Agent, LANDLOCK, NAMESPACE, NONE, Place, Ran, list, run_tool, snapshot, wait_for,
};

const COPY: &str = "cp @packages@/lib/lib.txt $BOSH_INSTALL_TARGET/app";

/// A compiled dependency.
fn lib(place: &Place) -> std::path::PathBuf {
    OnePackage::new(place, "lib", "echo lib > $BOSH_INSTALL_TARGET/lib.txt").compiled(place)
}

/// Inode, links, mode, times and contents of a file.
fn state(file: &Path) -> (u64, u64, u32, i64, Vec<u8>) {
    let metadata = std::fs::metadata(file).unwrap();
    (
        metadata.ino(),
        metadata.nlink(),
        metadata.mode(),
        metadata.mtime(),
        std::fs::read(file).unwrap(),
    )
}

#[test]
fn inputs_may_be_read_only_hard_links() {
    let Some(place) = Place::new(LANDLOCK) else {
        return;
    };
    let lib = lib(&place);
    let package = OnePackage::new(&place, "app", COPY).depends_on("lib", &lib);
    for (number, input) in [&lib, &package.source].into_iter().enumerate() {
        std::fs::set_permissions(input, PermissionsExt::from_mode(0o444)).unwrap();
        std::fs::hard_link(input, place.world.path(&format!("cas-{number}"))).unwrap();
    }
    // Logs of earlier runs are links, too: they are replaced, not changed.
    let (log, other) = (package.log(), place.world.write("cas-log", "earlier"));
    std::fs::hard_link(&other, &log).unwrap();
    let before = [state(&lib), state(&package.source)];
    package.compiled(&place);
    assert_eq!([state(&lib), state(&package.source)], before);
    assert_eq!(std::fs::read_to_string(other).unwrap(), "earlier");
    assert_eq!(file_in(&package.output(), "app"), "lib\n");
}

#[test]
fn missing_and_damaged_inputs_have_exit_code_3() {
    let Some(place) = Place::new(NAMESPACE) else {
        return;
    };
    let lib = lib(&place);
    let package = OnePackage::new(&place, "app", COPY).depends_on("lib", &lib);
    let pipe = place.world.path("pipe");
    run_tool("mkfifo", &[&pipe]);
    let directory = place.world.path("");
    let missing = place.world.path("missing");
    for (path, reason) in [
        (&missing, "No such file"),
        (&directory, "it is not a regular file"),
        (&pipe, "it is not a regular file"),
    ] {
        let mut wrong = package.clone();
        wrong.source.clone_from(path);
        let ran = wrong.run(&place);
        assert!(
            ran.stderr
                .contains("Error: failed to read the blob of package app: ")
                && ran.stderr.contains(reason),
            "{}",
            ran.stderr
        );
        let report = wrong.checked(ran, 3);
        assert_eq!(report["failure_kind"], "input");
        assert!(report["source"].is_null() && report["times"].is_null());
    }
    let whole = std::fs::read(&lib).unwrap();
    let damaged = place.world.write("damaged.tgz", &whole[..whole.len() / 2]);
    let (mut of_source, mut of_dependency) = (package.clone(), package.clone());
    of_source.source.clone_from(&damaged);
    of_dependency.dependencies[0].1.clone_from(&damaged);
    for wrong in [of_source, of_dependency] {
        let ran = wrong.run(&place);
        let hint = format!("Hint: `{}` (", damaged.display());
        assert!(
            ran.stderr.contains(&hint) && ran.stderr.contains(") is damaged: copy it again"),
            "{}",
            ran.stderr
        );
        let report = wrong.checked(ran, 3);
        assert_eq!(report["failure_kind"], "input");
    }
}

#[test]
fn failures_of_the_machine_have_exit_code_4() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let mut package = OnePackage::new(&place, "app", "true");
    std::fs::create_dir(package.output()).unwrap();
    let ran = package.run(&place);
    assert!(
        ran.stderr
            .contains("failed to write the compiled package to `"),
        "{}",
        ran.stderr
    );
    assert_eq!(package.checked(ran, 4)["failure_kind"], "machine");
    // Without a report, as it cannot be written either.
    package.out = place.world.write("file", "").join("below");
    let ran = package.run(&place);
    assert_eq!(ran.code, Some(4), "{}", ran.stderr);
}

#[test]
fn relative_paths_and_new_directories_are_accepted() {
    let Some(place) = Place::new(NAMESPACE) else {
        return;
    };
    let directory = place.world.path("here");
    std::fs::create_dir(&directory).unwrap();
    source(&directory, "app", "touch $BOSH_INSTALL_TARGET/app");
    let ran = with_tier(&place, place.bare().arg("compile-package"))
        .args(&["--source", "app.src.tgz", "--name", "app", "--version", "1"])
        .args(&["--output", "new/app.tgz"])
        .directory(&directory)
        .run();
    let output = directory.join("new/app.tgz");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout, format!("{}\n", output.display()));
    assert!(directory.join("new/app.tgz.log").exists());
}

#[test]
fn plain_source_gives_a_plain_package() {
    let Some(place) = Place::new(NAMESPACE) else {
        return;
    };
    let mut package = OnePackage::new(&place, "app", "touch $BOSH_INSTALL_TARGET/app");
    let compressed = std::fs::read(&package.source).unwrap();
    let plain = crate::support::run_tool_with("gzip", &["-dc"], &compressed);
    package.source = place.world.write("app.tar", plain);
    let ran = package.run(&place);
    assert_eq!(package.checked(ran, 0)["compiled"]["compression"], "none");
    assert!(list(&package.output()).iter().any(|it| it.name == "./app"));
}

#[test]
fn files_that_would_overwrite_inputs_are_refused() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let package = OnePackage::new(&place, "app", "true");
    let before = snapshot(&place.world.path("sources"));
    let call = |output: &Path| -> Ran {
        let agent = with_tier(&place, place.bare().arg("compile-package"));
        let agent = package.described(agent).arg("--output").arg(output);
        agent.arg("--log").arg(place.world.path("log")).run()
    };
    let ran = call(&package.source);
    assert!(
        ran.stderr
            .contains("is given for --source and for --output"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.code, Some(2));
    let link = place.world.path("link");
    symlink(place.world.path("sources"), &link).unwrap();
    let ran = call(&link.join("app.src.tgz"));
    assert!(
        ran.stderr.contains("Error: the run would overwrite `"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.code, Some(3));
    assert_eq!(snapshot(&place.world.path("sources")), before);
}

#[test]
fn inputs_in_directories_that_force_empties_are_refused() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let mut package = OnePackage::new(&place, "app", "true");
    let inside = place.world.base().join("packages/app.src.tgz");
    std::fs::create_dir_all(inside.parent().unwrap()).unwrap();
    std::fs::copy(&package.source, &inside).unwrap();
    package.source = inside;
    let ran = package.agent(&place).arg("--force").run();
    assert!(
        ran.stderr.contains("which --force empties"),
        "{}",
        ran.stderr
    );
    package.checked(ran, 3);
    assert!(package.source.exists());
}

/// A call whose script waits until `facts/go` exists.
fn waiting(place: &Place, name: &'static str) -> (OnePackage, Agent) {
    let script = format!("touch $FACTS/{name}; until [ -e $FACTS/go ]; do sleep 0.1; done");
    let package = OnePackage::new(place, name, &script);
    let agent = package.agent(place);
    (package, agent)
}

#[test]
fn processes_in_namespaces_share_a_base_directory() {
    let Some(place) = Place::new(NAMESPACE) else {
        return;
    };
    let calls = ["one", "two"].map(|name| waiting(&place, name));
    let running = calls.map(|(package, agent)| (package, agent.start()));
    for (package, process) in &running {
        let started = place.world.path("facts").join(package.name);
        wait_for("both scripts", super::LIMIT, || {
            started.exists().then_some(()).ok_or(process.stderr())
        });
    }
    std::fs::write(place.world.path("facts/go"), "").unwrap();
    for (package, process) in running {
        assert_eq!(process.end().code, Some(0), "{}", package.name);
    }
}

#[test]
fn second_process_in_a_base_directory_without_namespaces_fails() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let (first, agent) = waiting(&place, "one");
    let process = agent.start();
    let started = place.world.path("facts/one");
    wait_for("the script", super::LIMIT, || {
        started.exists().then_some(()).ok_or(process.stderr())
    });
    let mut second = OnePackage::new(&place, "two", "true");
    second.out = place.world.path("other");
    let ran = second.run(&place);
    assert_eq!(second.checked(ran, 4)["failure_kind"], "machine");
    std::fs::write(place.world.path("facts/go"), "").unwrap();
    first.checked(process.end(), 0);
}
