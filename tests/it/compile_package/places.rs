//! Where a run of one package may write, and which report a program finds there.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::one_package::{OnePackage, with_tier};
use crate::support::{Agent, NONE, Place, Ran, USERNS_OF_A_USER, snapshot};

/// A call that writes only the files of `flags`.
fn call(place: &Place, package: &OnePackage, flags: &[(&str, &Path)]) -> Ran {
    let agent = with_tier(place, place.bare().arg("compile-package"));
    with_files(package.described(agent), flags).run()
}

fn with_files(agent: Agent, flags: &[(&str, &Path)]) -> Agent {
    let flags = flags.iter();
    flags.fold(agent, |agent, (flag, path)| agent.arg(flag).arg(path))
}

#[track_caller]
fn refused(ran: &Ran, code: i32, text: &str) {
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(code), ""),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains(text), "{}", ran.stderr);
}

fn report(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn input_behind_a_link_is_not_replaced() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let mut package = OnePackage::new(&place, "app", "true");
    let blob = place.world.path("sources/blob.json");
    std::fs::rename(&package.source, &blob).unwrap();
    let middle = place.world.path("sources/middle");
    symlink("blob.json", &middle).unwrap();
    package.source = place.world.path("sources/first");
    symlink("middle", &package.source).unwrap();
    let before = snapshot(&place.world.path("sources"));
    let out = place.world.path("compiled/app.tgz");
    for flags in [
        &[("--output", blob.as_path())][..],
        &[("--output", &middle)],
        &[("--output", &out), ("--log", &blob)],
        &[("--output", &out), ("--report", &blob)],
    ] {
        let ran = call(&place, &package, flags);
        refused(&ran, 3, "Error: the run would overwrite `");
        assert_eq!(snapshot(&place.world.path("sources")), before);
    }
}

#[test]
fn job_file_is_not_replaced() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let package = OnePackage::new(&place, "app", "true");
    let job = json!({"name": "app", "version": "1", "source": package.source});
    let file = place.world.write("sources/job.json", job.to_string());
    let link = place.world.path("link.json");
    symlink(&file, &link).unwrap();
    let before = snapshot(&place.world.path("sources"));
    let out = place.world.path("compiled/app.tgz");
    for flags in [
        &[("--output", file.as_path())][..],
        &[("--output", &out), ("--log", &file)],
        &[("--output", &out), ("--report", &file)],
    ] {
        for (job, code) in [(&file, 2), (&link, 3)] {
            let agent = place.bare().args(&["compile-package", "--job"]).arg(job);
            let ran = with_files(agent, flags).run();
            refused(
                &ran,
                code,
                if code == 2 {
                    "is given for --job"
                } else {
                    "the run would overwrite `"
                },
            );
            assert_eq!(snapshot(&place.world.path("sources")), before);
        }
    }
}

#[test]
fn written_files_in_the_same_place_are_refused() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let package = OnePackage::new(&place, "app", "true");
    let out = |name: &str| place.world.path("compiled").join(name);
    symlink(place.world.path("compiled"), place.world.path("link")).unwrap();
    let link = |name: &str| place.world.path("link").join(name);
    for (output, log, report) in [
        (out("a.json"), link("a.json"), None),
        (out("a.tgz"), out("a.log"), Some(link("a.tgz/r.json"))),
        (
            out("a.tgz"),
            out("new/../a.log"),
            Some(link("a.log/r.json")),
        ),
        (link("a@first.log"), out("a.log"), None),
    ] {
        let mut flags = vec![("--output", output.as_path()), ("--log", &log)];
        flags.extend(report.as_deref().map(|report| ("--report", report)));
        refused(
            &call(&place, &package, &flags),
            3,
            "Error: cannot write both `",
        );
        assert!(snapshot(&place.world.path("compiled")).len() <= 1);
    }
    for (output, log, text) in [
        (out("new/"), out("log"), "expected the path of a file"),
        (out("a"), out("a/log"), "one of them would be a directory"),
        (
            out("a@first.log"),
            out("a.log"),
            "is given for --output and for the log of a first run",
        ),
    ] {
        let ran = call(&place, &package, &[("--output", &output), ("--log", &log)]);
        refused(&ran, 2, text);
    }
}

#[test]
fn written_files_in_directories_that_force_empties_are_refused() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let package = OnePackage::new(&place, "app", "true");
    let out = place.world.path("compiled/app.tgz");
    let inside = place.world.base().join("data/packages/new/app.json");
    for flags in [
        &[("--output", inside.as_path())][..],
        &[("--output", &out), ("--log", &inside)],
        &[("--output", &out), ("--report", &inside)],
    ] {
        let agent = with_tier(&place, place.bare().args(&["compile-package", "--force"]));
        let ran = with_files(package.described(agent), flags).run();
        refused(&ran, 3, "which --force empties");
        assert!(!inside.exists());
    }
}

#[test]
fn report_of_an_earlier_run_does_not_survive() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let package = OnePackage::new(&place, "app", "true");
    let (file, log) = (package.report_file(), package.log());
    std::fs::write(&file, "earlier").unwrap();
    std::fs::write(&log, "earlier").unwrap();
    std::fs::write(package.out.join(".bosh-agent-write-1-0"), "").unwrap();
    // The output is refused, the report is not.
    let link = place.world.path("link");
    symlink(place.world.path("sources"), &link).unwrap();
    let output = link.join("app.src.tgz");
    let flags = [
        ("--output", output.as_path()),
        ("--log", &log),
        ("--report", &file),
    ];
    refused(
        &call(&place, &package, &flags),
        3,
        "the run would overwrite `",
    );
    let report = report(&file);
    assert_eq!(report["failure_kind"], "input");
    // The log is that of an earlier run.
    assert_eq!(report["has_log"], false);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "earlier");
    assert!(!package.out.join(".bosh-agent-write-1-0").exists());
    // A kill before the end leaves no report.
    std::fs::write(&file, "earlier").unwrap();
    let script = format!("test ! -e {}", file.display());
    let package = OnePackage::new(&place, "app", &script);
    package.compiled(&place);
}

#[test]
fn written_package_counts_although_its_directory_cannot_be_synced() {
    let Some(place) = Place::new(USERNS_OF_A_USER) else {
        return;
    };
    let package = OnePackage::new(&place, "app", "touch $BOSH_INSTALL_TARGET/app");
    // Files can be created in it, but it cannot be opened.
    std::fs::set_permissions(&package.out, PermissionsExt::from_mode(0o333)).unwrap();
    let (output, log) = (package.output(), package.log());
    let report_file = place.world.path("facts/app.json");
    let flags = [
        ("--output", output.as_path()),
        ("--log", &log),
        ("--report", &report_file),
    ];
    let ran = call(&place, &package, &flags);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout, format!("{}\n", output.display()));
    let warnings = report(&report_file)["warnings"].to_string();
    assert!(
        warnings.contains("could not be written to the disk"),
        "{warnings}"
    );
    assert!(output.exists());
}

#[test]
fn wrong_source_date_of_a_job_is_an_error_of_the_job() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let package = OnePackage::new(&place, "app", "true");
    let job = json!({
        "name": "app", "version": "1", "source": package.source,
        "settings": {"variables": {"SOURCE_DATE_EPOCH": "today"}},
    });
    let file = place.world.write("job.json", job.to_string());
    let agent = place.bare().args(&["compile-package", "--job"]).arg(&file);
    let ran = package.written(agent).run();
    refused(
        &ran,
        3,
        &format!(
            "invalid job `{}`: invalid value of the variable `SOURCE_DATE_EPOCH`",
            file.display()
        ),
    );
    let agent = package
        .agent(&place)
        .args(&["--env", "SOURCE_DATE_EPOCH=today"]);
    refused(
        &agent.run(),
        2,
        "Error: invalid value of the variable `SOURCE_DATE_EPOCH`",
    );
}

#[test]
fn hints_name_flags_that_the_command_has() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let package = OnePackage::new(&place, "app", "true");
    let read_only = "mount -t tmpfs -o ro none \"$0\" && exec \"$@\"";
    let through = format!("unshare -m sh -c '{read_only}' {}", package.out.display());
    let agent = place.bare_through(&through).arg("compile-package");
    let ran = with_tier(&place, package.described(package.written(agent))).run();
    assert_eq!(ran.code, Some(4), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("--output, --log, --report"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("--output-directory"), "{}", ran.stderr);
}

#[test]
fn stdout_that_cannot_be_written_is_a_failure_of_the_machine() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let package = OnePackage::new(&place, "app", "true");
    let full = "sh -c 'exec \"$0\" \"$@\" >/dev/full'";
    let agent = place.bare_through(full).arg("compile-package");
    let ran = with_tier(&place, package.described(package.written(agent))).run();
    let text = "Error: failed to print the path of the compiled package to stdout: ";
    refused(&ran, 4, text);
    let report = report(&package.report_file());
    assert_eq!(report["result"], "compiled");
    assert_eq!(report["exit_code"], 4);
    assert!(package.output().exists());
}

#[test]
fn report_has_the_warning_about_noexec() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let package = OnePackage::new(&place, "app", "true");
    let data = place.world.base().join("data");
    std::fs::create_dir_all(&data).unwrap();
    let noexec = "mount -t tmpfs -o noexec none \"$0\" && exec \"$@\"";
    let through = format!("unshare -m sh -c '{noexec}' {}", data.display());
    let agent = place.bare_through(&through).arg("compile-package");
    let ran = with_tier(&place, package.described(package.written(agent))).run();
    let warnings = package.checked(ran, 0)["warnings"].to_string();
    assert!(warnings.contains("is mounted noexec"), "{warnings}");
}

#[test]
fn full_disk_of_the_result_leaves_the_older_one() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let script = "head -c 8388608 /dev/urandom > $BOSH_INSTALL_TARGET/large";
    let package = OnePackage::new(&place, "app", script);
    // Only the written files are on the small disk.
    let small = "mount -t tmpfs -o size=1m,mode=777 none \"$0\" && echo older > \"$0/app.tgz\" && \
                 { \"$@\"; code=$?; cat \"$0/app.tgz\"; ls -A \"$0\"; exit $code; }";
    let through = format!("unshare -m sh -c '{small}' {}", package.out.display());
    let agent = place.bare_through(&through).arg("compile-package");
    let ran = with_tier(&place, package.described(package.written(agent))).run();
    assert_eq!(ran.code, Some(4), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("No space left on device"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("Hint: free disk space"),
        "{}",
        ran.stderr
    );
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines, ["older", "app.json", "app.log", "app.tgz"]);
}
