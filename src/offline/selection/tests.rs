use std::fmt::Write;
use std::path::PathBuf;

use super::*;
use crate::offline::checked::{CheckedPackage, Listed};
use crate::offline::tarball::{Blob, Carried};
use crate::release::digest::BlobHasher;

/// Jobs as `web: app`, packages as `app: lib`, both separated by commas. `?` instead of a job's packages stands for a manifest that does
/// not list them.
fn release(jobs: &str, packages: &str) -> CheckedRelease {
    let split = |text: &str| -> Vec<(String, String)> {
        let parts = text.split(", ").filter(|it| !it.is_empty());
        parts
            .map(|part| {
                let (name, rest) = part.split_once(':').unwrap_or((part, ""));
                (name.to_owned(), rest.trim().to_owned())
            })
            .collect()
    };
    let list = |names: &str| names.split_whitespace().collect::<Vec<_>>().join(", ");
    let digest = "sha1: da39a3ee5e6b4b0d3255bfef95601890afd80709";
    let mut text = "name: demo\nversion: 1\npackages:\n".to_owned();
    for (name, dependencies) in split(packages) {
        let dependencies = list(&dependencies);
        writeln!(text, "- {{name: {name}, version: 1, fingerprint: 1, {digest}, dependencies: [{dependencies}]}}").unwrap();
    }
    text += "jobs:\n";
    for (name, needs) in split(jobs) {
        let needs = match needs.as_str() {
            "?" => String::new(),
            needs => format!(", packages: [{}]", list(needs)),
        };
        writeln!(
            text,
            "- {{name: {name}, version: 1, fingerprint: 1, {digest}{needs}}}"
        )
        .unwrap();
    }
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    let packages = manifest.packages.iter().map(|package| CheckedPackage {
        listed: Listed::Source(package.clone()),
        path: PathBuf::from(format!("packages/{}.tgz", package.name)),
        blob: Blob {
            file: PathBuf::new(),
            size: 1,
            digests: BlobHasher::new(&[]).finish(),
        },
        reused_from: None,
        replaced: None,
    });
    CheckedRelease {
        tarball: PathBuf::from("demo.tgz"),
        digests: BlobHasher::new(&[]).finish(),
        packages: packages.map(std::sync::Arc::new).collect(),
        carried: Vec::<Carried>::new(),
        manifest,
    }
}

fn demo() -> CheckedRelease {
    release(
        "web: app, db: store app, idle:",
        "base:, lib: base, app: lib, store: base, windows:",
    )
}

fn names(text: &str) -> BTreeSet<Name> {
    text.split_whitespace()
        .map(|name| Name::parse(name).unwrap())
        .collect()
}

fn named(jobs: &str, packages: &str) -> Selection {
    Selection::Named {
        jobs: names(jobs),
        packages: names(packages),
    }
}

/// The selected jobs and packages, and what is left out.
fn parts(release: CheckedRelease, selection: &Selection) -> [String; 4] {
    let (part, left_out) = apply(release, &JobPackages::new(), selection).unwrap();
    let joined = |names: Vec<&Name>| {
        let names: Vec<&str> = names.iter().map(|it| it.as_str()).collect();
        names.join(" ")
    };
    let packages: Vec<&Name> = part.packages.iter().map(|it| it.name()).collect();
    let listed: Vec<&Name> = packages_of(&part.manifest).collect();
    assert_eq!(packages, listed);
    [
        joined(jobs_of(&part.manifest).collect()),
        joined(packages),
        joined(left_out.jobs.iter().collect()),
        joined(left_out.packages.iter().collect()),
    ]
}

#[test]
fn needed_packages_are_those_of_jobs_and_their_dependencies() {
    assert_eq!(
        parts(demo(), &Selection::OnlyNeeded),
        ["web db idle", "base lib app store", "", "windows"]
    );
    assert_eq!(
        parts(demo(), &Selection::All),
        ["web db idle", "base lib app store windows", "", ""]
    );
}

#[test]
fn named_jobs_are_alone_in_the_result() {
    assert_eq!(
        parts(demo(), &named("web", "")),
        ["web", "base lib app", "db idle", "store windows"]
    );
    assert_eq!(
        parts(demo(), &named("idle", "")),
        ["idle", "", "web db", "base lib app store windows"]
    );
    assert_eq!(
        parts(demo(), &named("idle", "windows")),
        ["idle", "windows", "web db", "base lib app store"]
    );
}

#[test]
fn named_packages_come_with_the_jobs_that_need_no_others() {
    assert_eq!(
        parts(demo(), &named("", "app")),
        ["web idle", "base lib app", "db", "store windows"]
    );
    assert_eq!(
        parts(demo(), &named("", "app store")),
        ["web db idle", "base lib app store", "", "windows"]
    );
}

#[test]
fn packages_of_a_job_are_those_of_either_manifest() {
    let in_job = |packages: &[&str]| {
        let packages = packages.iter().map(ToString::to_string).collect();
        JobPackages::from([("web".to_owned(), packages)])
    };
    let selected = |jobs: &str, in_job: &JobPackages| {
        let release = release(jobs, "app:, lib:, other:");
        let (part, _) = apply(release, in_job, &Selection::OnlyNeeded)?;
        let names = part.packages.iter().map(|it| it.name().to_string());
        Ok::<_, Vec<Problem>>(names.collect::<Vec<_>>())
    };
    assert_eq!(selected("web: ?", &in_job(&["app"])).unwrap(), ["app"]);
    assert_eq!(
        selected("web: lib", &in_job(&["app"])).unwrap(),
        ["app", "lib"]
    );
    assert_eq!(
        selected("web: ?", &in_job(&["gone"])).unwrap_err(),
        [Problem::JobPackage {
            job: Name::parse("web").unwrap(),
            package: "gone".to_owned()
        }]
    );
    let unknown = selected("web: ?", &JobPackages::new()).unwrap_err();
    assert!(matches!(&unknown[..], [Problem::UnknownJobPackages { .. }]));
}

#[test]
fn name_of_a_result_has_the_selection() {
    let manifest = demo().manifest;
    let full = "demo-1-ubuntu-noble-1.406.tgz";
    for (selection, expected) in [
        (Selection::All, ""),
        (Selection::OnlyNeeded, ".only-needed"),
        (named("web db", ""), ".job=db,web"),
        (named("", "lib base"), ".package=base,lib"),
        (named("web", "lib"), ".job=web.package=lib"),
        // A name of another release of the run.
        (named("web other", "lib more"), ".job=web.package=lib"),
    ] {
        let name = selection.name_of_result(full, &manifest);
        assert_eq!(name, format!("demo-1-ubuntu-noble-1.406{expected}.tgz"));
        assert_eq!(is_name_of_part(&name, full), selection.is_partial());
    }
    assert!(!is_name_of_part("demo-1-ubuntu-noble-1.406.job=a", full));
    assert!(!is_name_of_part("demo-1-ubuntu-noble-1.4061.tgz", full));
}

#[test]
fn long_selection_becomes_a_digest_in_the_name() {
    let jobs: Vec<String> = (0..40).map(|number| format!("job-{number:03}")).collect();
    let manifest = release(&jobs.join(", "), "").manifest;
    let full = "demo-1-ubuntu-noble-1.406.tgz";
    let name = |count: usize| {
        let selection = named(&jobs[..count].join(" "), "");
        selection.name_of_result(full, &manifest)
    };
    assert!(name(25).ends_with(",job-024.tgz"), "{}", name(25));
    assert!(name(40).starts_with("demo-1-ubuntu-noble-1.406.selection="));
    assert_ne!(name(40), name(39));
    assert_eq!(
        name(40).len(),
        full.len() + ".selection=".len() + DIGEST_LENGTH
    );
    assert!(is_name_of_part(&name(40), full));
}

#[test]
fn unknown_names_have_a_hint() {
    let (demo, empty) = (demo().manifest, release("", "").manifest);
    let hints = |selection: &Selection, manifests: &[&Manifest]| {
        let unknown = selection.unknown(manifests);
        unknown.iter().map(UnknownName::hint).collect::<Vec<_>>()
    };
    let wrong = named("wbe web", "libb nothing");
    assert_eq!(
        hints(&wrong, &[&demo, &empty]),
        [
            "did you mean job `web`?",
            "did you mean package `lib`?",
            "the packages are app, base, lib, store, windows"
        ]
    );
    assert_eq!(
        hints(&named("web", ""), &[&empty]),
        ["the releases have no jobs"]
    );
    assert_eq!(hints(&named("web", "lib"), &[&empty, &demo]), [""; 0]);
}

#[test]
fn selected_part_is_described() {
    let described = |selection: &Selection| {
        let (part, left_out) = apply(demo(), &JobPackages::new(), selection).unwrap();
        describe(&part, &left_out)
    };
    assert_eq!(
        described(&Selection::OnlyNeeded),
        "Selected 4 of 5 packages and 3 of 3 jobs of release demo/1. Left out: package windows"
    );
    assert_eq!(
        described(&named("web", "")),
        "Selected 3 of 5 packages and 1 of 3 jobs of release demo/1. Left out: packages store, windows; jobs db, idle"
    );
    let packages: Vec<String> = (0..12).map(|number| format!("p{number:02}")).collect();
    let many = release("web:", &packages.join(", "));
    let (part, left_out) = apply(many, &JobPackages::new(), &named("web", "")).unwrap();
    assert!(describe(&part, &left_out).ends_with(", p09 and 2 more"));
}
