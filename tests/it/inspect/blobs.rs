//! Packages, jobs and licenses that are missing or damaged.

use super::*;

const JOB: [(&str, &str); 2] = [("job.MF", "name: web\ntemplates: {}\n"), ("monit", "")];

/// A release whose job has these files.
fn with_job(files: &[(&str, &str)]) -> Vec<u8> {
    bytes(&compiled().replace("jobs/web.tgz", &blob(files)))
}

#[test]
fn missing_blobs_are_reported() {
    for (path, code, text) in [
        (
            "compiled_packages/app.tgz",
            "blob-missing",
            "compiled package `app`: `compiled_packages/app.tgz` is missing",
        ),
        (
            "jobs/web.tgz",
            "blob-missing",
            "job `web`: `jobs/web.tgz` is missing",
        ),
        (
            "license.tgz",
            "license-damaged",
            "license: `license.tgz` is missing",
        ),
    ] {
        has_problem(&bytes(&compiled().without(path)), code, text);
    }
    let release = changed(&compiled(), "jobs/web.tgz", |member| {
        *member = Member::directory("jobs/web.tgz");
    });
    has_problem(&release, "blob-missing", "`jobs/web.tgz` is not a file");
}

#[test]
fn wrong_digests_are_reported_with_their_consequence() {
    for (path, code) in [
        ("compiled_packages/app.tgz", "digest-mismatch"),
        ("jobs/web.tgz", "job-digest-mismatch"),
        ("license.tgz", "license-damaged"),
    ] {
        let release = changed(&compiled(), path, |member| member.content.push(0));
        let text = format!("`{path}` does not match its digest: expected the sha256 digest ");
        has_problem(&release, code, &text);
    }
    let world = World::new();
    let release = changed(&compiled(), "compiled_packages/app.tgz", |member| {
        member.content.push(0);
    });
    let tarball = world.write("release.tgz", release);
    let json = inspected(&world, &[], &tarball);
    assert_eq!(json["packages"][1]["is_verified"], false);
    assert_eq!(
        json["findings"][0]["refused_by"],
        serde_json::json!(["agent", "compile"])
    );
    let printed = run(&world, &[], &tarball).stdout;
    assert!(printed.contains("sha256 WRONG"), "{printed}");
    assert!(
        printed.contains("Refused by: agent, compile.\n"),
        "{printed}"
    );
}

#[test]
fn package_that_cannot_be_extracted_is_reported() {
    let path = "compiled_packages/app.tgz";
    let release = compiled().replace(path, b"no archive");
    has_problem(
        &bytes(&release),
        "package-not-an-archive",
        "`compiled_packages/app.tgz` is not a valid tar archive",
    );
    let whole = blob(&[("f", "text")]);
    let release = compiled().replace(path, &whole[..whole.len() - 4]);
    has_problem(
        &bytes(&release),
        "package-not-an-archive",
        "gzip data ends early",
    );
    let release = compiled().replace(path, &blob(&[("../f", "text")]));
    has_problem(
        &bytes(&release),
        "package-unsafe-path",
        "compiled package `app`: `../f` contains `..`",
    );
}

#[test]
fn damage_is_reported_beside_a_wrong_digest() {
    let world = World::new();
    for (path, codes) in [
        (
            "compiled_packages/app.tgz",
            ["digest-mismatch", "package-not-an-archive"],
        ),
        (
            "jobs/web.tgz",
            ["job-digest-mismatch", "job-not-an-archive"],
        ),
    ] {
        let release = changed(&compiled(), path, |member| {
            member.content.truncate(member.content.len() - 9);
        });
        let tarball = world.write("release.tgz", release);
        let found = found(&inspected(&world, &[], &tarball));
        let has: Vec<&str> = found.iter().map(|it| it.1.as_str()).collect();
        assert_eq!(has, codes, "{found:?}");
        assert!(!found[1].2.contains("matches its digest"), "{found:?}");
    }
}

#[test]
fn hard_link_to_another_kind_of_file_is_reported() {
    let world = World::new();
    let release = compiled();
    let mut members = release.members();
    let job = members.iter().find(|it| it.name == "jobs/web.tgz");
    let mut copy = job.unwrap().clone();
    copy.name = "a.tgz".to_owned();
    members.retain(|it| it.name != "jobs/web.tgz");
    members.push(copy);
    members.push(Member::link(
        crate::support::Kind::HardLink,
        "jobs/web.tgz",
        "a.tgz",
    ));
    has_problem(&packed(&members), "linked-blob", "job `web`");
    let tarball = world.write("release.tgz", packed(&members));
    let json = inspected(&world, &[], &tarball);
    assert_eq!(json["jobs"][0]["is_verified"], true);
}

#[test]
fn symbolic_link_instead_of_a_blob_is_not_missing() {
    let mut members = compiled().members();
    members.retain(|it| it.name != "jobs/web.tgz");
    let kind = crate::support::Kind::Symlink;
    members.push(Member::link(kind, "jobs/web.tgz", "../license.tgz"));
    has_problem(
        &packed(&members),
        "symbolic-link",
        "job `web`: `jobs/web.tgz` is a symbolic link",
    );
}

#[test]
fn long_lists_of_names_are_shown() {
    let world = World::new();
    let names: Vec<String> = (0..60)
        .map(|it| format!("compiled_packages/{it}-{}", "n".repeat(60)))
        .collect();
    let release = names
        .iter()
        .fold(compiled(), |release, name| release.other(name, b"x"));
    let tarball = world.write("release.tgz", bytes(&release));
    let found = found(&inspected(&world, &[], &tarball));
    assert!(found[0].2.len() > 4000, "{found:?}");
}

#[test]
fn packages_with_odd_contents_are_notes() {
    let path = "compiled_packages/app.tgz";
    let empty = packed(&[Member::directory("./")]);
    let release = compiled().replace(path, &empty);
    has_note(&bytes(&release), "package-empty", "without files: app");
    let xz = Compression::Xz.apply(&archive(&[Member::file("f", b"x")]));
    let release = compiled().replace(path, &xz);
    has_note(
        &bytes(&release),
        "package-compression",
        "compiled package `app` is compressed with xz",
    );
    let release = ReleaseBuilder::demo()
        .package("docs", &[], "")
        .without_script()
        .file("README", 0o644, b"");
    has_note(&bytes(&release), "packaging-missing", "docs");
}

#[test]
fn packages_that_the_manifest_does_not_list_are_reported() {
    let release = compiled().other("compiled_packages/more.tgz", b"x");
    has_problem(
        &bytes(&release),
        "unlisted-package",
        "`compiled_packages/more.tgz` is in the tarball",
    );
}

#[test]
fn jobs_that_a_director_refuses_are_reported() {
    let [manifest, monit] = JOB;
    assert_eq!(with_job(&JOB), with_job(&[manifest, monit]));
    for (files, code, text) in [
        (&[monit][..], "job-manifest-missing", "has no job.MF"),
        (&[manifest], "job-monit-missing", "has neither `monit`"),
        (
            &[("job.MF", "name: [\n"), monit],
            "job-manifest-invalid",
            "`jobs/web.tgz` has a job.MF that is not valid YAML",
        ),
        (
            &[("job.MF", "name: db\n"), monit],
            "job-manifest-name",
            "of a job `db`",
        ),
        (
            &[("job.MF", "name: web\ntemplates: {a.erb: bin/a}\n"), monit],
            "job-template-missing",
            "lacks the template `templates/a.erb`",
        ),
    ] {
        has_problem(&with_job(files), code, text);
    }
    let plain = archive(&[
        Member::file("job.MF", b"name: web\n"),
        Member::file("monit", b""),
    ]);
    let release = compiled().replace("jobs/web.tgz", &plain);
    has_problem(&bytes(&release), "job-not-gzip", "is plain tar, not gzip");
    let release = compiled().replace("jobs/web.tgz", b"no archive");
    has_problem(&bytes(&release), "job-not-an-archive", "job `web`");
}

#[test]
fn job_manifest_that_is_too_long_is_not_read() {
    let long = format!("name: web\n#{}", "x".repeat(4 << 20));
    let release = with_job(&[("job.MF", &long), JOB[1]]);
    has_problem(&release, "too-large", "has a job.MF of more than 4.0 MiB");
}

#[test]
fn packages_that_jobs_need_must_exist() {
    let text = "job `web` needs package `gone`, which is not in the release";
    let release = compiled().edit("packages:\n  - app", "packages:\n  - gone");
    has_problem(&bytes(&release), "job-package-missing", text);
    // Exported releases list the packages only in job.MF.
    let files = [
        (
            "job.MF",
            "name: web\ntemplates: {}\npackages: [app, gone]\n",
        ),
        ("monit", ""),
    ];
    let release = compiled()
        .edit("  packages:\n  - app\n", "")
        .replace("jobs/web.tgz", &blob(&files));
    has_problem(&bytes(&release), "job-package-missing", text);
}
