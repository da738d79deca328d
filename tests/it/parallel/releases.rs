//! Several releases in one run.

use super::*;

/// Two releases that share four packages, one of which depends on another.
fn sharing(place: &NamespaceWorld) -> [PathBuf; 2] {
    let script = |name: &str| {
        format!("echo {name} >> $FACTS/runs; echo {name} > $BOSH_INSTALL_TARGET/file; {TIMELESS}")
    };
    let common = |release: ReleaseBuilder| {
        release
            .package("go", &[], &script("go"))
            .package("lib", &["go"], &script("lib"))
            .package("tool", &[], &script("tool"))
            .package("util", &["tool", "lib"], &script("util"))
            // The same name and version with another source.
            .package("own", &[], "")
    };
    let one = common(ReleaseBuilder::new("one", "1"))
        .file("text", 0o644, b"one")
        .package("app", &["util", "go"], &script("app"));
    let two = common(ReleaseBuilder::new("two", "2"))
        .file("text", 0o644, b"two")
        .package("web", &["lib", "own"], &script("web"))
        .no_compression();
    [
        place.release("one.tgz", &one),
        place.release("two.tgz", &two),
    ]
}

#[test]
fn packages_of_two_releases_are_compiled_once() {
    for jobs in [1, 4] {
        let Some(place) = NamespaceWorld::new() else {
            return;
        };
        let tarballs = sharing(&place);
        let ran = place
            .agent_with_jobs(jobs)
            .args(&tarballs)
            .run()
            .succeeds()
            .says("4 packages are the same in several releases and compiled only once\n")
            .says("(8 of 8)");
        let results = ["one-1", "two-2"].map(|name| place.world.result(name));
        let last: Vec<&str> = ran.stderr.lines().rev().take(2).collect();
        for (line, result) in last.iter().rev().zip(&results) {
            let expected = format!("Finished archiving compiled tarball {}", result.display());
            assert_eq!(**line, expected, "in the order of the inputs");
        }
        let mut runs: Vec<String> = std::fs::read_to_string(place.fact("runs"))
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        runs.sort();
        assert_eq!(runs, ["app", "go", "lib", "tool", "util", "web"]);

        let digests = results.each_ref().map(|result| {
            let packages: BTreeMap<String, String> = compiled_packages(&manifest_of(result))
                .into_iter()
                .collect();
            packages
        });
        for name in ["go", "lib", "tool", "util"] {
            assert_eq!(digests[0][name], digests[1][name], "{name}");
        }
        for (result, own) in results.iter().zip(["app", "web"]) {
            // Compares every digest with the bytes.
            let outcome = Outcome::of(result);
            assert_eq!(outcome.packages.len(), 6);
            assert_eq!(outcome.packages[own]["file"], format!("100644 {own}\n"));
        }
        let log = |release: &str| {
            use std::os::unix::fs::MetadataExt;
            let log = place.world.path("logs").join(release).join("go.log");
            assert!(std::fs::read_to_string(&log).unwrap().contains("+ echo go"));
            std::fs::metadata(log).unwrap().ino()
        };
        assert_eq!(log("one-1"), log("two-2"));
        // The same as each release alone.
        for (tarball, result) in tarballs.iter().zip(&results) {
            let alone = format!("alone-{jobs}");
            place
                .agent_with_jobs_to(1, &alone)
                .arg(tarball)
                .run()
                .succeeds();
            let alone = place.world.path(&alone).join(result.file_name().unwrap());
            assert_eq!(Outcome::of(&alone), Outcome::of(result));
        }
        assert_ne!(
            log("one-1"),
            log("two-2"),
            "a run changes the log of another"
        );
    }
}

#[test]
fn release_is_written_while_another_is_compiled() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    let quick = ReleaseBuilder::new("quick", "1").package("a", &[], "true");
    let slow = ReleaseBuilder::new("slow", "1").package(
        "b",
        &[],
        "touch $FACTS/started; while [ ! -e $FACTS/go ]; do sleep 0.01; done",
    );
    let tarballs = [
        place.release("slow.tgz", &slow),
        place.release("quick.tgz", &quick),
    ];
    let mut running = place.agent_with_jobs(2).args(&tarballs).start();
    place.wait_for_facts(&mut running, &["started"]);
    wait_for("the first result", LIMIT, || {
        match place.world.result("quick-1").exists() {
            true => Ok(()),
            false => Err(running.stderr()),
        }
    });
    assert!(!place.world.result("slow-1").exists());
    std::fs::write(place.fact("go"), "").unwrap();
    let ran = running.end().succeeds();
    let last: Vec<&str> = ran.stderr.lines().rev().take(2).collect();
    assert!(last[1].ends_with(&place.world.result("slow-1").display().to_string()));
    assert!(last[0].ends_with(&place.world.result("quick-1").display().to_string()));
}

#[test]
fn unused_files_are_removed_at_once() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "lib",
            &[],
            "head -c 1000 /dev/zero > $BOSH_INSTALL_TARGET/lib",
        )
        .package(
            "app",
            &["lib"],
            "cat @packages@/lib/lib > $BOSH_INSTALL_TARGET/app",
        )
        .package(
            "zoo",
            &["app"],
            "touch $FACTS/started; while [ ! -e $FACTS/go ]; do sleep 0.01; done",
        );
    let tarballs = [
        place.release("release.tgz", &release),
        place.release(
            "other.tgz",
            &ReleaseBuilder::new("other", "1").package("b", &[], "true"),
        ),
    ];
    let mut running = place
        .agent_with_jobs(2)
        .arg("--work-dir")
        .arg(place.world.path("work"))
        .args(&tarballs)
        .start();
    place.wait_for_facts(&mut running, &["started"]);
    let work = below(&place.world.path("work"), ".bosh-agent-work-");
    wait_for("the removal of what is done with", LIMIT, || {
        // Entries that the agent removes meanwhile are errors here.
        let entries = walkdir::WalkDir::new(&work).into_iter().flatten();
        let files: Vec<String> = entries
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| entry.path().strip_prefix(&work).unwrap().to_owned())
            .filter(|path| !path.starts_with("places"))
            .map(|path| path.display().to_string())
            .collect();
        let of = |prefix: &str| files.iter().filter(|path| path.starts_with(prefix)).count();
        // Blobs of `lib` and `app`, which the result needs; the tree of `app` only; the source of `zoo` only.
        match (of("blobs/0"), of("store"), of("spool/0")) {
            (2, 1, 1)
                if files.iter().any(|path| path.contains("/app/"))
                    && of("blobs/1") + of("spool/1") == 0 =>
            {
                Ok(())
            }
            _ => Err(format!("{files:#?}")),
        }
    });
    std::fs::write(place.fact("go"), "").unwrap();
    running.end().succeeds();
}
