//! Releases that are refused before anything is compiled.

use super::page::Page;
use crate::support::{Compression, Digest, Kind, Member, ReleaseBuilder, STEMCELL, World, archive};

fn demo() -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10").package("app", &[], "true")
}

fn gzip(members: &[Member]) -> Vec<u8> {
    Compression::Gzip.apply(&archive(members))
}

#[test]
fn files_that_are_not_releases() {
    let members = |names: &[&str]| {
        let members: Vec<Member> = names.iter().map(|name| Member::file(name, b"x")).collect();
        gzip(&members)
    };
    let mut page = Page::default();
    for (title, bytes) in [
        ("an empty file", &b""[..]),
        ("a script", b"# a script\n"),
        ("an HTML page", b"<!DOCTYPE html>\n<html></html>"),
        ("an error of S3", b"<Error><Code>NoSuchKey</Code></Error>"),
        ("an error of a blobstore", b"<Error><Code></Code></Error>"),
        ("XML", b"<?xml version=\"1.0\"?><project/>"),
        ("JSON", b"{\"message\": \"Not Found\"}"),
        (
            "a Git LFS pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        ),
        ("a zip archive", b"PK\x03\x04\x14\0\0\0"),
        ("a program", b"\x7fELF\x02"),
        (
            "a release manifest",
            b"name: redis\nversion: 15\njobs:\n- name: a\n",
        ),
        (
            "an index of final releases",
            b"builds:\n  ab:\n    version: \"1\"\nformat-version: \"2\"\n",
        ),
        (
            "a deployment manifest",
            b"name: dep\nreleases:\n- name: x\nstemcells:\n",
        ),
    ] {
        page.compile_bytes(title, bytes);
    }
    for (title, names) in [
        ("an archive without entries", &[][..]),
        ("a stemcell", &["stemcell.MF", "image", "apply_spec.yml"]),
        ("a job", &["./job.MF", "./monit"]),
        ("the source of a package", &["./packaging", "./main.c"]),
        ("a license", &["LICENSE"]),
        (
            "a container image",
            &["manifest.json", "0a/layer.tar", "repositories"],
        ),
        ("a root file system", &["etc/passwd", "usr/bin/x", "var/x"]),
        (
            "a release in a directory",
            &["demo/release.MF", "demo/packages/app.tgz"],
        ),
        (
            "a manifest by another name",
            &["Release.mf", "packages/app.tgz"],
        ),
        (
            "a source archive of GitHub",
            &["redis-15/config/final.yml", "redis-15/packages/redis/spec"],
        ),
        ("a release without its manifest", &["packages/app.tgz"]),
        ("tarballs in a tarball", &["a/demo-1.tgz"]),
        ("a compiled package", &["./bin/app", "./lib/x"]),
    ] {
        page.compile_bytes(title, &members(names));
    }
    let world = World::new();
    let tree = world.path("tree");
    demo().write_tree(&tree);
    page.add(
        "a directory with a release",
        &world,
        &world.compile(&[&tree]),
    );
    world.write("repository/config/final.yml", "name: demo\n");
    let repository = world.path("repository");
    page.add(
        "a source repository",
        &world,
        &world.compile(&[&repository]),
    );
    let printed = world.path("printed");
    page.add("any directory", &world, &world.compile(&[&printed]));
    let missing = world.path("missing.tgz");
    page.add("a missing file", &world, &world.compile(&[&missing]));
    page.is("files_that_are_not_releases");
}

#[test]
fn damaged_tarballs() {
    let mut page = Page::default();
    let plain = archive(&demo().license().members());
    let whole = Compression::Gzip.apply(&plain);
    page.compile_bytes("gzip without its trailer", &whole[..whole.len() - 8]);
    let mut wrong = whole.clone();
    let at = wrong.len() - 8;
    wrong[at] ^= 0xff;
    page.compile_bytes("gzip with a wrong checksum", &wrong);
    page.compile_bytes("bytes behind gzip", &[&whole[..], b"more"].concat());
    page.compile_bytes("tar that ends in a header", &plain[..513]);
    page.compile_bytes("tar that ends in an entry", &plain[..700]);
    let mut wrong = plain.clone();
    wrong[0] ^= 0x01;
    page.compile_bytes("a wrong checksum of a header", &wrong);
    page.compile_bytes("no tar in gzip", &Compression::Gzip.apply(b"# a script\n"));
    for name in ["../packages/app.tgz", "/etc/passwd"] {
        let mut members = demo().members();
        members.push(Member::file(name, b""));
        page.compile_bytes(&format!("the entry {name}"), &gzip(&members));
    }
    let mut members = demo().members();
    members.push(Member::link(Kind::HardLink, "NOTICE", "NOT-THERE"));
    page.compile_bytes("a hard link to nothing", &gzip(&members));
    let members = [Member::directory("release.MF/")];
    page.compile_bytes("a directory release.MF", &gzip(&members));
    page.is("damaged_tarballs");
}

#[test]
fn problems_of_manifests() {
    let mut page = Page::default();
    for manifest in [
        &b""[..],
        b"just a text",
        b"name: demo\n",
        b"name: [\n",
        b"name: a\nname: b\nversion: 1\n",
        b"name: a\nversion: 1\npackages: 7\n",
        b"name: a\nversion: 1\npackages: [7]\n",
        b"name: a\nversion: 1\npackages:\n- version: 1\n",
        b"name: a\nversion: 1\nno_compression: \"maybe\"\n",
        b"name: a\nversion: 1\nlicense: [x]\n",
        b"name: {a: b}\nversion: 1\n",
        b"name: a\nversion: 1\n? [x]\n: y\n",
        b"name: a\nversion: 1\n<<: x\n",
        b"name: a\nversion: &v [*v]\n",
        b"name: \xff\xfe\n",
        b"name: \"\x07\"\n",
    ] {
        let release = ReleaseBuilder::new("", "").manifest(manifest);
        page.compile(&manifest.escape_ascii().to_string(), &release);
    }
    for name in ["..", "-x", "a b", ""] {
        let edited = demo().edit("name: demo", &format!("name: {name:?}"));
        page.compile(&format!("the release name {name:?}"), &edited);
    }
    let long = "x".repeat(201);
    page.compile(
        "a long package name",
        &demo().edit("- name: app", &format!("- name: {long}")),
    );
    let compiled = ReleaseBuilder::new("demo", "1").compiled("app", &[], STEMCELL, ("f", b""));
    for stemcell in ["stemcell: noble", "other: x"] {
        let from = format!("stemcell: {STEMCELL}");
        page.compile(stemcell, &compiled.clone().edit(&from, stemcell));
    }
    let text = String::from_utf8(demo().files()[0].1.clone()).unwrap();
    let digest = |text: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix("  sha1: "))
            .unwrap()
            .to_owned()
    };
    for wrong in [
        "'not a digest'",
        "12;12",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "''",
    ] {
        let manifest = text.replace(&digest(&text), wrong);
        page.compile(
            &format!("the digest {wrong}"),
            &demo().manifest(manifest.as_bytes()),
        );
    }
    page.is("problems_of_manifests");
}

#[test]
fn problems_of_releases() {
    let mut page = Page::default();
    let with_job = demo().job("web", &["app"]).license();
    page.compile(
        "missing blobs",
        &with_job
            .clone()
            .without("packages/app.tgz")
            .without("jobs/web.tgz")
            .without("license.tgz"),
    );
    for (form, name) in [(Digest::Sha1, "sha1"), (Digest::Sha256, "sha256")] {
        let release = |blob| {
            ReleaseBuilder::new("demo", "1")
                .digests(form)
                .package("app", &[], "")
                .blob(blob)
        };
        let manifest = release(b"one").files()[0].1.clone();
        page.compile(
            &format!("a wrong {name}"),
            &release(b"other").manifest(&manifest),
        );
    }
    let mut members = demo().members();
    for member in &mut members {
        if member.name == "packages/app.tgz" {
            *member = Member::link(Kind::Symlink, "packages/app.tgz", "elsewhere.tgz");
        }
    }
    page.compile_bytes("a blob that is a link", &gzip(&members));
    page.compile(
        "wrong dependencies",
        &ReleaseBuilder::new("demo", "1")
            .package("app", &["lib", "gone"], "")
            .package("lib", &["lost"], "")
            .package("a", &["b"], "")
            .package("b", &["a"], "")
            .job("web", &["app", "gone"]),
    );
    page.compile(
        "names given twice",
        &ReleaseBuilder::new("demo", "1")
            .package("app", &[], "")
            .package("app", &[], "")
            .job("web", &[])
            .job("web", &[]),
    );
    page.compile(
        "packages that the manifest does not list",
        &demo().other("packages/extra.tgz", b""),
    );
    page.compile(
        "compiled for another stemcell",
        &ReleaseBuilder::new("demo", "1").compiled("app", &[], "ubuntu-jammy/1", ("f", b"")),
    );
    page.compile(
        "a long result",
        &ReleaseBuilder::new(&"n".repeat(150), &"1".repeat(150)).package("app", &[], ""),
    );
    let job = |files: &[(&str, &str)]| {
        let members: Vec<Member> = files
            .iter()
            .map(|(name, text)| Member::file(name, text.as_bytes()))
            .collect();
        archive(&members)
    };
    for (title, blob) in [
        ("a job that is not an archive", b"no archive".to_vec()),
        (
            "a job that is not compressed",
            job(&[("job.MF", "name: web\n")]),
        ),
        (
            "a job without job.MF",
            Compression::Gzip.apply(&job(&[("monit", "")])),
        ),
        (
            "a job of another name, without template and monit file",
            Compression::Gzip.apply(&job(&[("job.MF", "name: x\ntemplates: {a: b}\n")])),
        ),
        (
            "a job without name",
            Compression::Gzip.apply(&job(&[("job.MF", "templates: {}\n"), ("monit", "")])),
        ),
    ] {
        page.compile(title, &with_job.clone().replace("jobs/web.tgz", &blob));
    }
    page.is("problems_of_releases");
}
