//! Damaged tarballs and archives.

use super::*;

#[test]
fn truncated_tarball_is_refused_at_any_length() {
    let whole = bytes_of(&marking().license());
    for length in [
        1,
        5,
        10,
        18,
        100,
        whole.len() / 2,
        whole.len() - 8,
        whole.len() - 4,
        whole.len() - 1,
    ] {
        let ran = refused_bytes(&whole[..length]);
        let told = [
            "ends early",
            "neither a tar archive",
            "failed to read the tarball",
        ];
        assert!(
            told.iter().any(|text| ran.stderr.contains(text)),
            "{length}: {}",
            ran.stderr
        );
    }
    let whole = archive(&marking().license().members());
    for length in [100, 513, 700, whole.len() - 1100] {
        refused_bytes(&whole[..length]);
    }
}

#[test]
fn missing_gzip_trailer_is_reported() {
    let whole = bytes_of(&marking());
    refused_bytes(&whole[..whole.len() - 8]).says("gzip data ends early");
    refused_bytes(&whole[..whole.len() - 4]).says("gzip data ends early");
}

#[test]
fn wrong_checksum_at_the_end_is_reported() {
    let whole = bytes_of(&marking());
    for back in [8, 4] {
        let mut wrong = whole.clone();
        let at = wrong.len() - back;
        wrong[at] ^= 0xff;
        refused_bytes(&wrong).says("gzip data is damaged");
    }
}

#[test]
fn damaged_bytes_are_reported() {
    let whole = bytes_of(&marking().license());
    for part in 1..8 {
        let mut wrong = whole.clone();
        wrong[whole.len() * part / 8] ^= 0x55;
        refused_bytes(&wrong);
    }
    for compression in [Compression::Bzip2, Compression::Xz, Compression::Zstd] {
        if !require_tools(&[compression.tool().unwrap()]) {
            continue;
        }
        let mut wrong = compression.apply(&archive(&marking().members()));
        let middle = wrong.len() / 2;
        wrong[middle] ^= 0x55;
        refused_bytes(&wrong).says("failed to read the tarball");
        wrong.truncate(middle);
        refused_bytes(&wrong).says("failed to read the tarball");
    }
}

#[test]
fn bytes_after_the_compressed_data_are_reported() {
    let mut whole = bytes_of(&marking());
    whole.extend(b"more");
    refused_bytes(&whole).says("gzip data is followed by other bytes");
}

#[test]
fn files_that_are_not_tarballs_are_reported() {
    refused_bytes(b"").says("the file is empty");
    refused_bytes(b"# a script\n")
        .says("neither a tar archive nor compressed data of a known kind");
    let page = format!("<html>{}</html>", "not found ".repeat(500));
    refused_bytes(page.as_bytes()).says("it is an HTML page");
    refused_bytes(&Compression::Gzip.apply(page.as_bytes())).says("it is an HTML page");
    refused_bytes(&Compression::Gzip.apply(b"# a script\n")).says("not a tar archive");
    refused_bytes(&Compression::Gzip.apply(b"")).says("the file is empty");
}

#[test]
fn missing_files_and_directories_are_reported() {
    let world = World::new();
    refused(&world, &[&world.path("missing.tgz")])
        .says("missing.tgz:\n")
        .says("it does not exist: ");
    refused(&world, &[&world.path("no/such/directory/release.tgz")])
        .says("No such file or directory");
    refused(&world, &[&world.path("printed")]).says("Is a directory");
}

#[test]
fn missing_input_creates_no_directory() {
    let world = World::new();
    let before = world.snapshot();
    world
        .flags(Agent::bare(&world.path("printed")))
        .arg(world.path("no/such/release.tgz"))
        .run()
        .refuses_the_input()
        .says("No such file or directory");
    assert_eq!(world.snapshot(), before);
}

#[test]
fn tarball_without_a_manifest_is_reported() {
    let members = [Member::file("release/release.MF", b"name: demo\n")];
    refused_bytes(&archive(&members)).says("the tarball has no release.MF at its top");
    let members = [Member::directory("release.MF/")];
    refused_bytes(&archive(&members)).says("release.MF is not a file");
}

#[test]
fn entries_that_leave_the_release_are_refused() {
    for name in ["../packages/app.tgz", "packages/../../x", "/etc/passwd"] {
        let mut members = marking().members();
        members.push(Member::file(name, b""));
        refused_bytes(&archive(&members)).says(name);
    }
}

#[test]
fn problems_of_a_manifest_are_reported_with_lines() {
    for (manifest, told) in [
        ("", "the manifest is empty"),
        ("just a text", "expected a mapping"),
        ("- a\n- b\n", "expected a mapping"),
        ("name: demo\n", "`version` is missing"),
        ("name: [\n", "release.MF: "),
        ("name: a\nname: b\nversion: 1\n", "name"),
        (
            "name: a\nversion: 1\npackages: 7\n",
            "line 3: `packages` is a scalar; expected a list",
        ),
        (
            "name: a\nversion: 1\npackages: [7]\n",
            "line 3: `packages` is a scalar; expected a list of mappings",
        ),
        (
            "name: a\nversion: 1\npackages:\n- version: 1\n",
            "package number 1: `name` is missing",
        ),
        (
            "name: a\nversion: 1\nno_compression: \"maybe\"\n",
            "`no_compression` is `maybe`; expected true or false",
        ),
        (
            "name: a\nversion: 1\nlicense: [x]\n",
            "`license` is a list; expected a mapping",
        ),
        (
            "name: {a: b}\nversion: 1\n",
            "line 1: `name` is a mapping; expected a string",
        ),
    ] {
        let release = ReleaseBuilder::new("", "").manifest(manifest.as_bytes());
        refused_release(&release).says("release.MF").says(told);
    }
    let release = ReleaseBuilder::new("", "").manifest(b"name: \xff\xfe\n");
    refused_release(&release).says("not UTF-8");
}

#[test]
fn compiled_package_without_a_stemcell_is_reported() {
    let release = ReleaseBuilder::new("demo", "1").compiled("app", &[], STEMCELL, ("f", b""));
    let with = |stemcell: &str| {
        release
            .clone()
            .edit(&format!("stemcell: {STEMCELL}"), stemcell)
    };
    refused_release(&with("stemcell: noble")).says("`stemcell` is `noble`; expected OS/VERSION");
    refused_release(&with("other: x")).says("`stemcell` is missing");
}
