//! Sources, jobs and licenses.

use super::*;

#[test]
fn source_with_links_to_directories_and_unknown_entries_compiles() {
    let source = [
        Member::directory("./"),
        Member::file("./packaging", b"cp -R src/. lib/. $BOSH_INSTALL_TARGET"),
        Member::directory("./real/"),
        Member::link(Kind::Symlink, "./src", "real"),
        Member::file("./src/a.txt", b"a"),
        Member::link(Kind::Symlink, "./lib", "./src/../src"),
        Member::file("./lib/sub/b.txt", b"b"),
    ];
    let mut source = archive(&source);
    // The type of `./lib/sub/b.txt`, and its checksum.
    let at = source
        .windows(15)
        .position(|name| name == b"./lib/sub/b.txt")
        .unwrap();
    source[at + 156] = b'Z';
    let sum: u32 = source[at..at + 512]
        .iter()
        .enumerate()
        .map(|(index, byte)| match index {
            148..156 => u32::from(b' '),
            _ => u32::from(*byte),
        })
        .sum();
    source[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let release = ReleaseBuilder::of_script("").blob(&Compression::Gzip.apply(&source));
    let world = World::new();
    let found = Outcome::of(&world.compiled(&release));
    assert_eq!(found.packages["app"]["a.txt"], "100600 a");
    assert_eq!(found.packages["app"]["sub/b.txt"], "100600 b");
}

#[test]
fn source_with_a_link_out_of_the_tree_is_refused() {
    let world = World::new();
    let outside = world.path("outside");
    std::fs::create_dir(&outside).unwrap();
    for target in [
        outside.to_str().unwrap(),
        "../../../../../../../../tmp",
        "gone",
    ] {
        let source = [
            Member::file("packaging", b""),
            Member::link(Kind::Symlink, "src", target),
            Member::file("src/new", b"x"),
        ];
        let release = ReleaseBuilder::of_script("").blob(&gzip(&source));
        world
            .compile(&[&world.release("release.tgz", &release)])
            .refuses_the_input()
            .says("`src/new` would be unpacked through the symbolic link `src`, which leads ");
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn job_that_is_not_an_archive_is_refused_before_compiling() {
    for (blob, cause) in [
        (
            b"no archive".to_vec(),
            "neither a tar archive nor compressed data",
        ),
        (b"".to_vec(), "the file is empty"),
        (
            Compression::Gzip.apply(b"no archive"),
            "the data is not a tar archive",
        ),
        (
            job(&[("job.MF", "name: web"), ("monit", "")])[..60].to_vec(),
            "ends early",
        ),
    ] {
        refused(&with_job().replace("jobs/web.tgz", &blob))
            .says("job `web`: `jobs/web.tgz` is not a valid tar archive (")
            .says(cause);
    }
}

#[test]
fn job_that_is_not_compressed_with_gzip_is_refused_before_compiling() {
    let members = [
        Member::file("job.MF", b"name: web"),
        Member::file("monit", b""),
    ];
    for (compression, found) in [
        (Compression::Plain, "plain tar"),
        (Compression::Xz, "compressed with xz"),
    ] {
        let blob = compression.apply(&archive(&members));
        refused(&with_job().replace("jobs/web.tgz", &blob)).says(&format!(
            "job `web`: `jobs/web.tgz` is {found}, not gzip: Directors refuse the release"
        ));
    }
}

#[test]
fn license_that_is_not_an_archive_is_refused_before_compiling() {
    refused(&with_job().replace("license.tgz", b"All rights reserved.\n"))
        .says("license: `license.tgz` is not a valid tar archive (")
        .says("although it matches its digest: create the release again");
}

#[test]
fn job_that_a_director_refuses_is_refused_before_compiling() {
    for (files, problem) in [
        (&[("monit", "")][..], "has no job.MF at its top"),
        (
            &[("job.MF", "name: other"), ("monit", "")],
            "has a job.MF of a job `other`",
        ),
        (
            &[
                ("job.MF", "name: web\ntemplates: {ctl: bin/ctl}"),
                ("monit", ""),
            ],
            "lacks the template `templates/ctl`, which its job.MF lists",
        ),
        (
            &[("job.MF", "name: web")],
            "has neither `monit` nor another `*.monit` file",
        ),
    ] {
        refused(&with_job().replace("jobs/web.tgz", &job(files)))
            .says(&format!("job `web`: `jobs/web.tgz` {problem}"))
            .says(": Directors refuse the release");
    }
    let whole = job(&[
        ("./job.MF", "name: web\ntemplates: {ctl: bin/ctl}"),
        ("./web.monit", ""),
        ("./templates/ctl", ""),
    ]);
    let world = World::new();
    world.compiled(&demo().replace("jobs/web.tgz", &whole));
}
