//! A result of this program, damaged in many ways.

use bosh_agent::release::{Algorithm, Digests};

use super::*;
use crate::support::{Kind, extract};

/// A result that a test damages: its entries or, if they cannot express the damage, its bytes.
struct Damaged {
    members: Vec<Member>,
    bytes: Option<Vec<u8>>,
}

/// The paths of the parts of the result.
const MANIFEST: &str = "./release.MF";
const APP: &str = "./compiled_packages/app.tgz";
const LIB: &str = "./compiled_packages/lib.tgz";
const WEB: &str = "./jobs/web.tgz";

impl Damaged {
    /// The entries of a tarball.
    fn of(world: &World, tarball: &Path) -> Vec<Member> {
        let scratch = world.path("entries");
        extract(tarball, &scratch);
        let listed = run_tool("tar", &["-tf".as_ref(), tarball.as_os_str()]);
        let members = listed.lines().map(|name| match name.ends_with('/') {
            true => Member::directory(name),
            false => Member::file(name, &std::fs::read(scratch.join(name)).unwrap()),
        });
        members.collect()
    }

    fn member(&mut self, name: &str) -> &mut Member {
        let member = self.members.iter_mut().find(|it| it.name == name);
        member.unwrap_or_else(|| panic!("no entry is `{name}`"))
    }

    fn remove(&mut self, name: &str) {
        self.member(name);
        self.members.retain(|it| it.name != name);
    }

    fn add(&mut self, member: Member) {
        self.members.push(member);
    }

    /// Changes the manifest.
    fn edit(&mut self, from: &str, to: &str) {
        let manifest = self.member(MANIFEST);
        let text = String::from_utf8(manifest.content.clone()).unwrap();
        assert!(text.contains(from), "`{from}` is not in {text}");
        manifest.content = text.replacen(from, to, 1).into_bytes();
    }

    /// Replaces a blob, and its digests in the manifest.
    fn replace(&mut self, name: &str, content: &[u8]) {
        let old = std::mem::replace(&mut self.member(name).content, content.to_vec());
        let [old, new] = [&old[..], content].map(|it| Digests::of(it, &Algorithm::ALL));
        let pairs = [
            (old.sha1(), new.sha1()),
            (old.sha256(), new.sha256()),
            (old.sha512(), new.sha512()),
        ];
        let manifest = self.member(MANIFEST);
        let mut text = String::from_utf8(manifest.content.clone()).unwrap();
        for (old, new) in pairs {
            text = text.replace(old.unwrap(), new.unwrap());
        }
        assert_ne!(text.as_bytes(), manifest.content);
        manifest.content = text.into_bytes();
    }

    fn packed(&self) -> Vec<u8> {
        self.bytes.clone().unwrap_or_else(|| packed(&self.members))
    }

    fn set_bytes(&mut self, change: impl Fn(&mut Vec<u8>)) {
        let mut bytes = self.packed();
        change(&mut bytes);
        self.bytes = Some(bytes);
    }
}

/// A kind of damage, the damage, and the codes of the problems that it causes.
type Row = (&'static str, fn(&mut Damaged), &'static [&'static str]);

const TABLE: [Row; 34] = [
    (
        "truncated",
        |it| it.set_bytes(|bytes| bytes.truncate(bytes.len() / 2)),
        &["unreadable-tarball"],
    ),
    (
        "wrong checksum of gzip",
        |it| {
            it.set_bytes(|bytes| {
                let at = bytes.len() - 6;
                bytes[at] ^= 1;
            })
        },
        &["unreadable-tarball"],
    ),
    (
        "empty",
        |it| it.bytes = Some(Vec::new()),
        &["not-a-release"],
    ),
    (
        "page of an error",
        |it| it.bytes = Some(b"<!DOCTYPE html><html>".to_vec()),
        &["not-a-release"],
    ),
    (
        "no manifest",
        |it| it.remove(MANIFEST),
        &["manifest-missing"],
    ),
    (
        "manifest is not YAML",
        |it| it.member(MANIFEST).content = b"name: [".to_vec(),
        &["manifest-invalid"],
    ),
    (
        "no version",
        |it| it.edit("\nversion: ", "\nx: "),
        &["field-missing"],
    ),
    (
        "name with a slash",
        |it| it.edit("name: demo", "name: de/mo"),
        &["name-invalid"],
    ),
    (
        "version without quotes",
        |it| it.edit("version: \"1.10\"", "version: 1.10"),
        &["unquoted-text"],
    ),
    (
        "two packages of a name",
        |it| it.edit("name: lib", "name: app"),
        &["duplicate-name"],
    ),
    (
        "two stemcells",
        |it| it.edit("stemcell: ubuntu-noble", "stemcell: ubuntu-jammy"),
        &["mixed-stemcells"],
    ),
    (
        "half a stemcell",
        |it| it.edit("stemcell: ubuntu-noble/1.406", "stemcell: ubuntu-noble"),
        &["stemcell-invalid"],
    ),
    (
        "unknown dependency",
        |it| it.edit("- lib\n", "- gone\n"),
        &["unknown-dependency"],
    ),
    (
        "dependency on itself",
        |it| it.edit("- lib\n", "- app\n"),
        &["dependency-cycle"],
    ),
    (
        "unknown package of a job",
        |it| it.edit("- app\n", "- gone\n"),
        &["job-package-missing"],
    ),
    ("no package", |it| it.remove(APP), &["blob-missing"]),
    (
        "package with one more byte",
        |it| it.member(APP).content.push(0),
        &["digest-mismatch"],
    ),
    (
        "exchanged packages",
        exchange_packages,
        &["digest-mismatch", "digest-mismatch"],
    ),
    (
        "digest without text",
        |it| empty_digest(it),
        &["digest-missing"],
    ),
    (
        "digest of another algorithm",
        |it| it.edit("sha1: ", "sha1: md5:"),
        &["digest-invalid"],
    ),
    (
        "package is not an archive",
        |it| it.replace(APP, b"no archive"),
        &["package-not-an-archive"],
    ),
    (
        "package with `..`",
        |it| it.replace(APP, &blob(&[("../x", "")])),
        &["package-unsafe-path"],
    ),
    (
        "package is a link",
        |it| *it.member(APP) = Member::link(Kind::Symlink, APP, "lib.tgz"),
        &["symbolic-link"],
    ),
    (
        "unlisted package",
        |it| it.add(Member::file("./compiled_packages/more.tgz", b"")),
        &["unlisted-package"],
    ),
    ("no job", |it| it.remove(WEB), &["blob-missing"]),
    (
        "job with one more byte",
        |it| it.member(WEB).content.push(0),
        &["job-digest-mismatch"],
    ),
    (
        "job is not an archive",
        |it| it.replace(WEB, b"no archive"),
        &["job-not-an-archive"],
    ),
    (
        "job is not compressed",
        |it| it.replace(WEB, &archive(&[Member::file("job.MF", b"")])),
        &["job-not-gzip"],
    ),
    (
        "job without job.MF",
        |it| it.replace(WEB, &blob(&[("monit", "")])),
        &["job-manifest-missing"],
    ),
    (
        "job without monit",
        |it| it.replace(WEB, &blob(&[("job.MF", "name: web\n")])),
        &["job-monit-missing"],
    ),
    (
        "job of another name",
        |it| it.replace(WEB, &blob(&[("job.MF", "name: db\n"), ("monit", "")])),
        &["job-manifest-name"],
    ),
    (
        "no license",
        |it| it.remove("./license.tgz"),
        &["license-damaged"],
    ),
    (
        "entry outside the release",
        |it| it.add(Member::file("../x", b"")),
        &["unsafe-path"],
    ),
    (
        "link to nothing",
        |it| it.add(Member::link(Kind::HardLink, "./jobs/x", "./jobs/gone")),
        &["dangling-link"],
    ),
];

fn exchange_packages(it: &mut Damaged) {
    let app = it.member(APP).content.clone();
    let lib = std::mem::replace(&mut it.member(LIB).content, app);
    it.member(APP).content = lib;
}

fn empty_digest(it: &mut Damaged) {
    let text = String::from_utf8(it.member(MANIFEST).content.clone()).unwrap();
    let line = text.lines().find(|it| it.contains("sha1: ")).unwrap();
    let (indentation, _) = line.split_once("sha1: ").unwrap();
    it.edit(line, &format!("{indentation}sha1: ''"));
}

#[test]
fn each_kind_of_damage_of_a_result_is_reported() {
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::demo());
    let members = Damaged::of(&world, &result);
    let whole = world.write("whole.tgz", packed(&members));
    assert_eq!(found(&inspected(&world, &[], &whole)), []);
    let mut wrong = Vec::new();
    for (name, damage, codes) in TABLE {
        let mut damaged = Damaged {
            members: members.clone(),
            bytes: None,
        };
        damage(&mut damaged);
        let tarball = world.write("damaged.tgz", damaged.packed());
        let json = inspected(&world, &[], &tarball);
        let mut problems = found(&json);
        problems.retain(|it| it.0 == "problem");
        let found: Vec<&str> = problems.iter().map(|it| it.1.as_str()).collect();
        if json["is_good"] == true || found != codes {
            wrong.push(format!("{name}: {codes:?} expected: {problems:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_documented_code_is_named_by_a_test() {
    let page = include_str!("../../../docs/inspect.md");
    let sources = [
        include_str!("blobs.rs"),
        include_str!("damage.rs"),
        include_str!("manifests.rs"),
        include_str!("questions.rs"),
        include_str!("tarballs.rs"),
    ];
    let rows = page.lines().filter_map(|row| row.strip_prefix("| `"));
    let codes = rows.filter_map(|row| {
        let (code, rest) = row.split_once("` | ")?;
        let kind = rest.split(' ').next()?;
        matches!(kind, "problem" | "note").then_some(code)
    });
    let codes: Vec<&str> = codes.collect();
    assert!(codes.len() > 50, "{codes:?}");
    let untested = codes.iter().filter(|code| {
        let quoted = format!("\"{code}\"");
        !sources.iter().any(|source| source.contains(&quoted))
    });
    // The limit is the memory for millions of entries: see the tests of `inspect::read`. Its code must not be found in this file.
    let other = ["too", "many", "entries"].join("-");
    assert_eq!(untested.collect::<Vec<_>>(), [&other]);
}
