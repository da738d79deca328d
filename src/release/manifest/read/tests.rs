use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Manifest {
    Manifest::parse(text.as_bytes()).unwrap()
}

fn problems(text: &str) -> Vec<String> {
    let problems = Manifest::parse(text.as_bytes()).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

/// The problems of a valid manifest with one more line.
fn problems_with(line: &str) -> Vec<String> {
    problems(&format!("name: demo\nversion: a\n{line}"))
}

#[test]
fn source_release_of_the_cli_is_parsed() {
    let manifest = parse(
        r#"name: demo
version: "1.10"
commit_hash: 8ab1aae
uncommitted_changes: true
jobs:
- name: web
  version: 58236d
  fingerprint: 58236d
  sha1: sha256:db17d6
  packages: [app]
packages:
- name: app
  version: 906442
  fingerprint: 0906442
  sha1: 45a4b9
  stemcell: ""
  dependencies: [lib, base, lib]
- {name: lib, version: 0x10, sha1: sha1:00;sha512:11}
license:
  version: 4813a2
  fingerprint: 4813a2
  sha1: sha256:4937d9
no_compression: true
something_new: {other: [1]}
"#,
    );
    assert_eq!(manifest.name.as_str(), "demo");
    assert_eq!(manifest.version.as_str(), "1.10");
    assert_eq!(manifest.commit_hash.as_deref(), Some("8ab1aae"));
    assert!(manifest.uncommitted_changes && manifest.no_compression);
    assert_eq!(manifest.compiled_packages, None);
    let [job] = manifest.jobs.as_slice() else {
        panic!("{:?}", manifest.jobs)
    };
    assert_eq!(job.digest.as_str(), "sha256:db17d6");
    assert_eq!(
        job.packages.as_deref(),
        Some(&[Name::parse("app").unwrap()][..])
    );
    let [app, lib] = manifest.packages.as_slice() else {
        panic!("{:?}", manifest.packages)
    };
    assert_eq!(
        (app.version.as_str(), app.fingerprint.as_str()),
        ("906442", "0906442")
    );
    let dependencies: Vec<_> = app.dependencies.iter().map(Name::as_str).collect();
    assert_eq!(dependencies, ["lib", "base", "lib"]);
    assert_eq!(
        (lib.version.as_str(), lib.fingerprint.as_str()),
        ("0x10", "")
    );
    assert_eq!(manifest.license.unwrap().version, "4813a2");
}

#[test]
fn exported_release_of_a_director_is_parsed() {
    let manifest = parse(
        "---\ncompiled_packages:\n- name: app\n  version: '1'\n  fingerprint: '1'\n  sha1: 00;sha512:11\n  \
         stemcell: ubuntu-jammy/1.406\n  dependencies: []\njobs:\n- name: web\n  version: 1\n  fingerprint: 1\n  \
         sha1: 00\ncommit_hash: unknown\nuncommitted_changes: false\nname: demo\nversion: '1.10'\n",
    );
    let packages = manifest.compiled_packages.unwrap();
    assert_eq!(packages[0].stemcell.to_string(), "ubuntu-jammy/1.406");
    assert_eq!(manifest.jobs[0].packages, None);
}

#[test]
fn binary_texts_of_the_ruby_cli_are_decoded() {
    let text = "name: demo\nversion: !binary |-\n  MS4x\njobs:\n- name: a\n  version: !binary \"MQ==\"\n  \
                sha1: !binary |-\n    YWI=\n";
    let manifest = parse(text);
    assert_eq!(manifest.version.as_str(), "1.1");
    assert_eq!(manifest.jobs[0].digest.as_str(), "ab");
}

#[test]
fn texts_keep_their_notation() {
    for text in [
        "1.10",
        "45",
        "0x10",
        "2020-01-01",
        "1e3",
        "yes",
        "0777",
        "1_000",
        "+.5",
    ] {
        assert_eq!(
            parse(&format!("name: {text}\nversion: {text}"))
                .version
                .as_str(),
            text
        );
    }
    for text in ["1:20", "45.0", "12e4567", "on"] {
        let manifest = parse(&format!("name: a\nversion: b\ncommit_hash: {text}"));
        assert_eq!(manifest.commit_hash.as_deref(), Some(text));
    }
}

#[test]
fn missing_commit_differs_from_an_empty_one() {
    for (line, expected) in [
        ("", None),
        ("commit_hash:", None),
        ("commit_hash: ~", None),
        ("commit_hash: ''", Some("")),
        ("commit_hash: '~'", Some("~")),
    ] {
        let manifest = parse(&format!("name: a\nversion: b\n{line}"));
        assert_eq!(manifest.commit_hash.as_deref(), expected, "{line}");
    }
}

#[test]
fn missing_compiled_packages_differ_from_an_empty_list() {
    for (line, expected) in [
        ("", None),
        ("compiled_packages: ~", None),
        ("compiled_packages: []", Some(vec![])),
    ] {
        let manifest = parse(&format!("name: a\nversion: b\n{line}"));
        assert_eq!(manifest.compiled_packages, expected, "{line}");
    }
    parse("name: a\nversion: b\njobs:\npackages: null\nlicense:\nuncommitted_changes:\n");
}

#[test]
fn all_problems_are_listed_at_once() {
    let text = r#"name: ../x
uncommitted_changes: "yes"
jobs: {a: b}
packages:
- name: app
  version: ""
  dependencies: [lib, a/b, ~, []]
- version: 1
  sha1: md5:00
- just text
- name: app
  version: [1]
  sha1: 00
compiled_packages:
- name: app
  version: 1
  sha1: ;
  stemcell: jammy
  dependencies: lib
license: [x]
"#;
    assert_eq!(
        problems(text),
        [
            "line 1: `name`: `../x` contains '/'; only letters, digits and `-_+.` are allowed",
            "line 1: `version` is missing",
            "line 2: `uncommitted_changes` is `yes`; expected true or false",
            "line 3: `jobs` is a mapping; expected a list",
            "line 6: package `app`: `version`: `` is empty",
            "line 5: package `app`: `sha1` is missing",
            "line 7: package `app`: `dependencies`: `a/b` contains '/'; only letters, digits and `-_+.` are allowed",
            "line 7: package `app`: `dependencies`: `` is empty",
            "line 7: package `app`: `dependencies` is a list; expected a list of names",
            "line 8: package number 2: `name` is missing",
            "line 9: package number 2: `sha1` `md5:00` uses only unsupported algorithms (md5); use sha1, sha256 or sha512",
            "line 10: `packages` is a scalar; expected a list of mappings",
            "line 11: package `app`: duplicate name; the first is on line 5",
            "line 12: package `app`: `version` is a list; expected a string",
            "line 15: compiled package `app`: duplicate name; the first is on line 5",
            "line 17: compiled package `app`: `sha1` `;` contains no digest",
            "line 19: compiled package `app`: `dependencies` is a scalar; expected a list",
            "line 18: compiled package `app`: `stemcell` is `jammy`; expected OS/VERSION",
            "line 20: `license` is a list; expected a mapping",
        ]
    );
}

#[test]
fn problems_name_the_item_and_the_line() {
    for (line, expected) in [
        (
            "no_compression: 1",
            "line 3: `no_compression` is `1`; expected true or false",
        ),
        (
            "license: {version: x}",
            "line 3: license: `sha1` is missing",
        ),
        (
            "commit_hash: {}",
            "line 3: `commit_hash` is a mapping; expected a string",
        ),
        (
            "jobs: [~]",
            "line 3: `jobs` is a scalar; expected a list of mappings",
        ),
        (
            "jobs:\n- {name: a, version: 1, sha1: 0}\n- {name: a, version: 1, sha1: 0}",
            "line 5: job `a`: duplicate name; the first is on line 4",
        ),
        (
            "name: x",
            "line 3, column 1: duplicate key `name`; the first is on line 1",
        ),
        (
            "a: [",
            "line 4, column 1: while parsing a node, did not find expected node content",
        ),
    ] {
        assert_eq!(problems_with(line), [expected]);
    }
    let item = "- {name: a, version: 1, sha1: 0}\n";
    assert_eq!(
        problems_with(&format!("jobs:\n{}", item.repeat(3))),
        [
            "line 5: job `a`: duplicate name; the first is on line 4",
            "line 6: job `a`: duplicate name; the first is on line 4",
        ]
    );
    assert_eq!(
        problems(""),
        ["line 1: the manifest is empty; expected a mapping"]
    );
    assert_eq!(
        problems("- a"),
        ["line 1: the manifest is a list; expected a mapping"]
    );
}

#[test]
fn quoted_flags_are_read() {
    for (text, expected) in [
        ("\"true\"", true),
        ("'True'", true),
        ("!!str true", true),
        ("\"FALSE\"", false),
        ("'false'", false),
        ("yes", true),
    ] {
        let text =
            format!("name: a\nversion: b\nno_compression: {text}\nuncommitted_changes: {text}");
        let manifest = parse(&text);
        assert_eq!(manifest.no_compression, expected, "{text}");
        assert_eq!(manifest.uncommitted_changes, expected, "{text}");
    }
}

#[test]
fn empty_license_is_no_license() {
    for text in [
        "{}",
        "[]",
        "''",
        "~",
        "{version: '', fingerprint: '', sha1: ''}",
        "{sha1: ~}",
    ] {
        let manifest = parse(&format!("name: a\nversion: b\nlicense: {text}"));
        assert_eq!(manifest.license, None, "{text}");
    }
}

#[test]
fn empty_mapping_is_an_empty_list() {
    let manifest = parse("name: a\nversion: b\njobs: {}\npackages: {}\ncompiled_packages: {}");
    assert_eq!(manifest.compiled_packages, Some(vec![]));
    assert!(manifest.packages.is_empty() && manifest.jobs.is_empty());
}

#[test]
fn manifest_that_is_not_text_is_rejected() {
    let problems = Manifest::parse(b"name: \xff").unwrap_err();
    assert_eq!(problems, [ManifestProblem::NotUtf8 { offset: 6 }]);
    let large = vec![b' '; MAX_BYTES + 1];
    let bytes = large.len();
    assert_eq!(
        Manifest::parse(&large).unwrap_err(),
        [ManifestProblem::TooLarge { bytes }]
    );
    parse("\u{feff}name: a\r\nversion: b\r\n");
}

proptest! {
    #[test]
    fn any_bytes_give_a_manifest_or_problems(
        bytes: Vec<u8>,
        text in "((name|version|jobs|packages|sha1|license|commit_hash): ?[a-z\\[\\]{}~'&*!\"]{0,3}\n|- |  ){0,12}",
    ) {
        for bytes in [bytes.as_slice(), text.as_bytes()] {
            if let Err(problems) = Manifest::parse(bytes) {
                prop_assert!(!problems.is_empty());
            }
        }
    }
}
