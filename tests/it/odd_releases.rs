//! Releases that were packed in odd ways, and files that are no releases.

use std::path::PathBuf;

use crate::support::{
    Compression, Kind, Member, Outcome, Ran, ReleaseBuilder, World, archive, compiled_packages,
    list, manifest_of, require_tools, run_tool, run_tool_with,
};

fn demo() -> ReleaseBuilder {
    ReleaseBuilder::demo()
}

fn gzip(members: &[Member]) -> Vec<u8> {
    Compression::Gzip.apply(&archive(members))
}

/// Compiles bytes as a release.
fn compile(tarball: &[u8]) -> Ran {
    let world = World::new();
    let tarball = world.write("release.tgz", tarball);
    world.compile(&[&tarball])
}

/// What the tarball of a release with other members compiles to, and what was printed.
fn outcome(members: &[Member]) -> (Outcome, Ran) {
    let world = World::new();
    let tarball = world.write("release.tgz", gzip(members));
    let ran = world.compile(&[&tarball]).succeeds();
    (Outcome::of(&world.result("demo-1.10")), ran)
}

/// A script that fails the test when it runs.
const NEVER: &str = "touch \"$MARK\"";

/// Asserts that a release is refused before any of its scripts runs.
#[track_caller]
fn refused(release: &ReleaseBuilder) -> Ran {
    let world = World::new();
    let tarball = world.release("release.tgz", release);
    let mark = world.path("mark");
    let agent = world.agent().env("MARK", mark.to_str().unwrap());
    let ran = agent.arg(&tarball).run().fails();
    assert!(!mark.exists(), "a script ran");
    assert!(
        ran.stderr.contains("Error: nothing was compiled"),
        "{}",
        ran.stderr
    );
    ran
}

fn with_job() -> ReleaseBuilder {
    ReleaseBuilder::of_script(NEVER)
        .job("web", &["app"])
        .license()
}

fn job(files: &[(&str, &str)]) -> Vec<u8> {
    let members: Vec<Member> = files
        .iter()
        .map(|(name, text)| Member::file(name, text.as_bytes()))
        .collect();
    gzip(&members)
}

#[test]
fn files_of_operating_systems_are_ignored_with_one_warning() {
    let clutter = [
        "._release.MF",
        "packages/._lib.tgz",
        "packages/.DS_Store",
        "packages/Thumbs.db",
        "jobs/._web.tgz",
        "compiled_packages/._lib.tgz",
        "__MACOSX/packages/._lib.tgz",
        "PaxHeaders.12/release.MF",
    ];
    let mut members = vec![Member::directory("__MACOSX/")];
    members.extend(
        clutter
            .iter()
            .map(|name| Member::file(name, b"\0\x05\x16\x07")),
    );
    members.extend(demo().members());
    let (found, ran) = outcome(&members);
    let (expected, clean) = outcome(&demo().members());
    assert_eq!(found.without_order(), expected.without_order());
    let ran = ran
        .says("Warning: ignoring 9 files that are not part of the release in ")
        .says("`packages/._lib.tgz`")
        .says("`__MACOSX`");
    assert_eq!(ran.stderr.matches("Warning: ").count(), 1, "{}", ran.stderr);
    clean.does_not_say("Warning: ");
}

#[test]
fn package_with_the_name_of_clutter_is_compiled() {
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("._odd", &[], "echo x > $BOSH_INSTALL_TARGET/x")
        .other("packages/._other.tgz", b"x");
    let world = World::new();
    let ran = world
        .compile(&[&world.release("release.tgz", &release)])
        .succeeds();
    let result = world.result("demo-1.10");
    assert_eq!(compiled_packages(&manifest_of(&result)).len(), 1);
    ran.says("ignoring a file that is not part of the release");
}

#[test]
fn clutter_alone_is_an_empty_archive() {
    compile(&gzip(&[Member::file("._release.MF", b"")]))
        .fails()
        .says("there is no release.MF at the top of the tarball: the archive has no entries");
}

#[test]
fn manifest_in_any_form_of_yaml_gives_the_same_release() {
    let files = demo().files();
    let text = String::from_utf8(files[0].1.clone()).unwrap();
    assert_eq!(files[0].0, "release.MF");
    let world = World::new();
    let expected = Outcome::of(&world.compiled(&demo()));
    let value = |text: &str| {
        let (before, after) = text.split_once("name: demo").unwrap();
        (before.to_owned(), after.to_owned())
    };
    let (before, after) = value(&text);
    let forms = [
        ("a tab behind colons", text.replace(": ", ":\t")),
        (
            "a second document",
            format!("---\n{text}---\nname: other\n"),
        ),
        (
            "a second document that is none",
            format!("{text}...\n---\n[\n"),
        ),
        ("quoted flags", text.replace("false", "\"false\"")),
        ("line ends of Windows", text.replace('\n', "\r\n")),
        ("a byte order mark", format!("\u{feff}{text}")),
        ("comments", text.replace('\n', " # a comment\n")),
        ("tags", format!("{before}name: !!str demo{after}")),
        (
            "binary",
            format!(
                "{before}name: !binary |-\n  ZGVtbw==\n{}",
                after.trim_start()
            ),
        ),
        ("a block", format!("{before}name: >-\n  demo{after}")),
        (
            "anchors",
            text.replace("name: lib", "name: &lib lib")
                .replace("  - lib\n", "  - *lib\n"),
        ),
        ("a directive", format!("%YAML 1.1\n---\n{text}...\n")),
    ];
    for (what, text) in &forms {
        let world = World::new();
        let release = demo().manifest(text.as_bytes());
        world
            .compile(&[&world.release("release.tgz", &release)])
            .succeeds();
        let found = Outcome::of(&world.result("demo-1.10"));
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn yaml_that_psych_reads_is_read_alike() {
    if !require_tools(&["ruby"]) {
        return;
    }
    // Name, version and flags of each manifest as Psych reads them, in the order in which they are printed below.
    let manifests = [
        "name:\tdemo\nversion: 'v1'\n",
        "name: demo\nversion: v1\n---\nversion: v2\n",
        "{\n\t\"name\":\t\"demo\",\n\t\"version\": \"v1\"\n}\n",
        "base: &base {version: v1}\n<<: *base\nname: demo\n",
        "name: 'de\n\n  mo'\nversion: v1\n".trim_start(),
        "name: \"d\\x65mo\"\nversion: |-\n  v1\n",
        "? name\n: demo\n? version\n: v1\n",
        "name: demo # x\r\nversion: v1\r\nlicense: {}\r\n",
    ];
    for manifest in manifests {
        let script = "require 'psych'; m = Psych.safe_load(STDIN.read, aliases: true); print m['name'], '/', m['version']";
        let theirs = run_tool_with("ruby", &["-e", script], manifest.as_bytes());
        let theirs = String::from_utf8(theirs).unwrap();
        let ran = compile(&gzip(&[Member::file("release.MF", manifest.as_bytes())]));
        match theirs.as_str() {
            "demo/v1" => {
                ran.succeeds().says("Release demo/v1 has 0 packages");
            }
            // A name that no release may have.
            _ => {
                ran.fails().says("`name`: ");
            }
        }
    }
}

#[test]
fn yaml_that_is_refused_names_the_rule() {
    let base = "name: demo\nversion: v1\n";
    for (manifest, rule) in [
        (
            format!("{base}name: other\n"),
            "the key `name` is already on line 1",
        ),
        (
            format!("{base}packages:\n\t- name: a\n"),
            "tabs disallowed within this context (block indentation)",
        ),
        (
            format!("{base}no_compression: 'maybe'\n"),
            "`no_compression` must be true or false, it is `maybe`",
        ),
        (
            format!("{base}license: [MIT]\n"),
            "`license` must be a mapping, it is a list",
        ),
        (
            format!("---\n---\n{base}"),
            "the manifest is empty, not a mapping",
        ),
    ] {
        compile(&gzip(&[Member::file("release.MF", manifest.as_bytes())]))
            .fails()
            .says(rule);
    }
}

#[test]
fn empty_license_in_the_manifest_is_none() {
    let release =
        demo().manifest(b"name: demo\nversion: '1.10'\nlicense: {}\nno_compression: \"true\"\n");
    let members = [Member::file("release.MF", &release.files()[0].1)];
    let world = World::new();
    let tarball = world.write("release.tgz", gzip(&members));
    world.compile(&[&tarball]).succeeds();
    let text = manifest_of(&world.result("demo-1.10"));
    assert!(!text.contains("license"), "{text}");
    assert!(text.contains("no_compression: true"), "{text}");
}

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
fn source_with_a_link_that_leads_out_is_refused() {
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
            .fails()
            .says("`src/new` would be unpacked through the symbolic link `src`, which leads ");
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn job_that_is_no_archive_is_refused_before_compiling() {
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
            .says("job `web`: `jobs/web.tgz` is not a tar archive that can be extracted (")
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
            "job `web`: `jobs/web.tgz` is {found}, not gzip: a Director refuses the release"
        ));
    }
}

#[test]
fn license_that_is_no_archive_is_refused_before_compiling() {
    refused(&with_job().replace("license.tgz", b"All rights reserved.\n"))
        .says("license: `license.tgz` is not a tar archive that can be extracted (")
        .says("although its digest is right: create the release again");
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
            .says(": a Director refuses the release");
    }
    let whole = job(&[
        ("./job.MF", "name: web\ntemplates: {ctl: bin/ctl}"),
        ("./web.monit", ""),
        ("./templates/ctl", ""),
    ]);
    let world = World::new();
    world.compiled(&demo().replace("jobs/web.tgz", &whole));
}

#[test]
fn files_that_are_no_releases_are_named_for_what_they_are() {
    let members = |names: &[&str]| {
        let members: Vec<Member> = names.iter().map(|name| Member::file(name, b"x")).collect();
        gzip(&members)
    };
    let page = b"<!DOCTYPE html>\n<html><title>Sign in</title></html>".to_vec();
    let cases: [(&str, Vec<u8>, &str, &str); 18] = [
        ("empty file", vec![], "the file is empty", "download"),
        ("HTML", page.clone(), "it is an HTML page", "download"),
        (
            "compressed HTML",
            Compression::Gzip.apply(&page),
            "it is an HTML page",
            "download",
        ),
        (
            "S3 error",
            b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code></Error>"
                .to_vec(),
            "it is the error `NoSuchKey` of a blobstore",
            "check the URL",
        ),
        (
            "Git LFS pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n".to_vec(),
            "it is a Git LFS pointer",
            "git lfs pull",
        ),
        (
            "zip",
            b"PK\x03\x04\x14\0\0\0".to_vec(),
            "it is a zip archive",
            "bosh create-release",
        ),
        (
            "manifest of a final release",
            demo().files()[0].1.clone(),
            "it is a release manifest in YAML",
            "bosh create-release --tarball=RELEASE.tgz MANIFEST",
        ),
        (
            "index of final releases",
            b"builds:\n  ab:\n    version: \"1\"\nformat-version: \"2\"\n".to_vec(),
            "it is the index of a release's final versions",
            "bosh create-release",
        ),
        (
            "JSON",
            b"{\"message\": \"Not Found\"}".to_vec(),
            "it is JSON",
            "download",
        ),
        (
            "stemcell",
            members(&["stemcell.MF", "image", "apply_spec.yml"]),
            "it is a stemcell",
            "--stemcell OS/VERSION",
        ),
        (
            "source archive of GitHub",
            members(&[
                "redis-release-15/config/final.yml",
                "redis-release-15/packages/redis/spec",
            ]),
            "it is the source repository of a release (`redis-release-15`), as GitHub packs it",
            "bosh create-release",
        ),
        (
            "release one directory too deep",
            members(&["demo/release.MF", "demo/packages/app.tgz"]),
            "the release is in its directory `demo`",
            "tar -czf RELEASE.tgz -C demo .",
        ),
        (
            "source of a package",
            members(&["./packaging", "./main.c"]),
            "it is the source of a package",
            "the whole release",
        ),
        (
            "job",
            members(&["./job.MF", "./monit"]),
            "it is a job",
            "the whole release",
        ),
        (
            "compiled package",
            members(&["./bin/app"]),
            "it has `bin` at its top, as a compiled package",
            "the whole release",
        ),
        (
            "container image",
            members(&["manifest.json", "0a/layer.tar", "repositories"]),
            "it is a container image",
            "a release tarball",
        ),
        (
            "release without its manifest",
            members(&["packages/app.tgz"]),
            "but not its manifest",
            "with release.MF",
        ),
        (
            "tarballs in a tarball",
            members(&["a/demo-1.tgz"]),
            "such as `a/demo-1.tgz`",
            "extract it",
        ),
    ];
    for (what, bytes, name, advice) in cases {
        let ran = compile(&bytes).fails();
        assert!(ran.stderr.contains(name), "{what}:\n{}", ran.stderr);
        assert!(ran.stderr.contains(advice), "{what}:\n{}", ran.stderr);
    }
}

#[test]
fn directories_are_named_for_what_they_are() {
    let world = World::new();
    let tree = world.path("tree");
    demo().write_tree(&tree);
    world.compile(&[&tree]).fails().says(
        "it is a directory and not a tarball: pack the release in it, as `tar -czf RELEASE.tgz -C ",
    );
    world.write("repository/config/final.yml", "name: demo\n");
    world
        .compile(&[&world.path("repository")])
        .fails()
        .says("run `bosh create-release --tarball=RELEASE.tgz` in it");
}

/// A release of a package whose blob was packed with other times and owners, and in another order.
fn repacked(name: &str, own: &str, times: &str, script: &str) -> ReleaseBuilder {
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("packaging"), script).unwrap();
    std::fs::write(tree.path().join("source"), "source").unwrap();
    let arguments = [
        "-c".to_owned(),
        format!("--mtime=@{times}"),
        format!("--owner=someone:{}", times.len()),
        "-C".to_owned(),
        tree.path().display().to_string(),
        ".".to_owned(),
    ];
    let mut tar = std::process::Command::new("tar");
    let output = tar.args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    ReleaseBuilder::new(name, "1")
        .package("shared", &[], script)
        .blob(&Compression::Gzip.apply(&output.stdout))
        .package(
            own,
            &["shared"],
            "cp $(dirname $BOSH_INSTALL_TARGET)/shared/x $BOSH_INSTALL_TARGET",
        )
}

#[test]
fn package_packed_at_other_times_is_compiled_once() {
    let script = "echo run >> \"$RUNS\"\necho x > $BOSH_INSTALL_TARGET/x";
    let (one, two) = (
        repacked("one", "a", "1500000000", script),
        repacked("two", "b", "160000000", script),
    );
    let world = World::new();
    let tarballs = [
        world.release("one.tgz", &one),
        world.release("two.tgz", &two),
    ];
    assert_ne!(one.files()[1].1, two.files()[1].1);
    let runs = world.path("runs");
    let agent = world.agent().env("RUNS", runs.to_str().unwrap());
    agent
        .args(&tarballs)
        .run()
        .succeeds()
        .says("One package is the same in several releases and compiled once")
        .says("(1 of 3) for releases one/1, two/1\n")
        .does_not_say("different contents");
    assert_eq!(world.read("runs"), "run\n");
    let packages = |name: &str| compiled_packages(&manifest_of(&world.result(name)));
    assert_eq!(packages("one-1")[0], packages("two-1")[0]);
    Outcome::of(&world.result("two-1"));
}

#[test]
fn package_with_other_contents_is_compiled_for_each_with_a_warning() {
    let script =
        |text: &str| format!("echo run >> \"$RUNS\"\necho {text} > $BOSH_INSTALL_TARGET/x");
    let (one, two) = (
        repacked("one", "a", "1500000000", &script("one")),
        repacked("two", "b", "1500000000", &script("two")),
    );
    let world = World::new();
    let tarballs = [
        world.release("one.tgz", &one),
        world.release("two.tgz", &two),
    ];
    let runs = world.path("runs");
    let agent = world.agent().env("RUNS", runs.to_str().unwrap());
    let version = format!("{}16", "5a".repeat(19));
    agent.args(&tarballs).run().succeeds().says(&format!(
        "Warning: package shared/{version} has the same fingerprint but different contents in releases one/1, two/1: it is \
         compiled for each\n"
    ));
    assert_eq!(world.read("runs"), "run\nrun\n");
    let found = |name: &str| Outcome::of(&world.result(name)).packages["shared"]["x"].clone();
    assert_eq!(
        (found("one-1"), found("two-1")),
        ("100644 one\n".into(), "100644 two\n".into())
    );
}

#[test]
fn lines_of_several_releases_say_which_they_belong_to() {
    let world = World::new();
    let release =
        |name: &str, package: &str| ReleaseBuilder::new(name, "1").package(package, &[], "true");
    let tarballs: Vec<PathBuf> = [("one", "a"), ("two", "bb")]
        .iter()
        .map(|(name, package)| world.release(&format!("{name}.tgz"), &release(name, package)))
        .collect();
    let ran = world.agent().args(&tarballs).run().succeeds();
    let lines: Vec<&str> = ran.stderr.lines().collect();
    for (name, package, version) in [("one", "a", 11), ("two", "bb", 12)] {
        let start = format!("Compiling package {package}/{}{version} (", "5a".repeat(19));
        let start = lines.iter().find(|line| line.starts_with(&start)).unwrap();
        assert!(
            start.ends_with(&format!(" of 2) for release {name}/1")),
            "{start}"
        );
        let at = lines
            .iter()
            .position(|line| *line == format!("Compiled all packages of release {name}/1"))
            .unwrap();
        assert!(lines[at + 1].starts_with("Finished packages compilation after "));
        let archiving = format!("Archiving compiled BOSH Release {name}/1 with stemcell ");
        assert!(lines[at + 2].starts_with(&archiving));
    }
    let alone = world.agent().arg(&tarballs[0]).run().succeeds();
    alone
        .says(" (1 of 1)\n")
        .does_not_say("Compiled all packages of release");
}

#[test]
fn list_of_the_result_has_no_clutter() {
    let mut members = demo().members();
    members.push(Member::file("docs/._notes", b"x"));
    members.push(Member::file("docs/notes", b"x"));
    let world = World::new();
    let tarball = world.write("release.tgz", gzip(&members));
    world.compile(&[&tarball]).succeeds();
    let names: Vec<String> = list(&world.result("demo-1.10"))
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert!(names.contains(&"./docs/notes".to_owned()), "{names:?}");
    assert!(!names.contains(&"./docs/._notes".to_owned()), "{names:?}");
    let tree = run_tool(
        "tar",
        &["-tzf".as_ref(), world.result("demo-1.10").as_os_str()],
    );
    assert!(!tree.contains("._"), "{tree}");
}
