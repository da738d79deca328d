use super::*;
use crate::release::{CompiledPackage, MultiDigest, Slug, Version};
use proptest::option;
use proptest::prelude::*;

const COMPILED: &str = r#"name: demo
version: "1.10"
commit_hash: 8ab1aae
uncommitted_changes: false
jobs:
    - name: web
      version: 58236daa
      fingerprint: 58236daa
      sha1: sha256:db17d6aa
      packages:
        - app
    - name: idle
      version: "12"
      fingerprint: ""
      sha1: 8076c165584712aa
      packages: []
    - name: old
      version: 12.1-dev
      fingerprint: "5812"
      sha1: 8076c165584712ab
compiled_packages:
    - name: base
      version: 5100eaaa
      fingerprint: 5100eaaa
      sha1: "8076165584712123"
      stemcell: ubuntu-jammy/1.406
      dependencies: []
    - name: app
      version: 906442ac
      fingerprint: 906442ac
      sha1: 8076c165584712ad
      stemcell: ubuntu-jammy/1.406
      dependencies:
        - base
        - base
license:
    version: 4813a2aa
    fingerprint: 4813a2aa
    sha1: sha256:4937d9aa
no_compression: false
"#;

#[test]
fn compiled_manifest_has_the_go_agents_format() {
    let manifest = Manifest::parse(COMPILED.as_bytes()).unwrap();
    assert_eq!(manifest.to_yaml(), COMPILED);
}

#[test]
fn empty_parts_are_omitted() {
    let source = "name: demo\nversion: 1.0\ncommit_hash: ''\nuncommitted_changes: yes\nno_compression: on\n\
                  compiled_packages: []\npackages: [{name: a, version: b, sha1: c}]";
    let manifest = Manifest::parse(source.as_bytes()).unwrap();
    assert_eq!(
        manifest.to_yaml(),
        "name: demo\nversion: \"1.0\"\ncommit_hash: \"\"\nuncommitted_changes: true\nno_compression: true\n"
    );
}

#[test]
fn missing_commit_is_written_as_unknown() {
    let manifest = Manifest::parse(b"{name: demo, version: a}").unwrap();
    assert!(manifest.to_yaml().contains("\ncommit_hash: unknown\n"));
}

prop_compose! {
    fn any_text()(text in prop_oneof![
        any::<String>(),
        "[ \t\n\r:#'\"\\\\&*!|>%@`{},?~\u{0}\u{7}\u{1b}\u{7f}\u{85}\u{a0}\u{2028}\u{2029}\u{feff}\u{fffe}a0-]{0,12}",
        prop::sample::select(vec![
            "", " ", "\n", "~", "null", "on", "1:20", "0777", "1e3", "a: b", "a #b", "- a", "---", "...", "<<", "=",
            "2020-01-01", " a", "a ", "\u{feff}a", "a\n\nb\n",
        ]).prop_map(str::to_owned),
    ]) -> String {
        text
    }
}

prop_compose! {
    fn name()(text in "[0-9A-Za-z_+][-0-9A-Za-z_+.]{0,6}|[0-9]{1,3}[.e:+]?[0-9]{0,2}|yes|null|on|inf|0x1f") -> Name {
        Name::parse(&text.replace(':', "_")).unwrap()
    }
}

fn version() -> impl Strategy<Value = Version> {
    name().prop_map(|name| Version::parse(name.as_str()).unwrap())
}

fn names() -> impl Strategy<Value = Vec<Name>> {
    prop::collection::vec(name(), 0..3)
}

prop_compose! {
    fn digest()(
        text in "[0-9a-f]{40}|[0-9]{1,4}e[0-9]{1,4}|[0-9]{4}|;?sha256:[0-9a-f]{64};?|[0-9a-f]{40};sha512:[0-9]{3}"
    ) -> MultiDigest {
        MultiDigest::parse(&text).unwrap()
    }
}

prop_compose! {
    fn job()(
        name in name(), version in version(), fingerprint in any_text(), digest in digest(), packages in option::of(names()),
    ) -> Job {
        Job { name, version, fingerprint, digest, packages }
    }
}

prop_compose! {
    fn compiled_package()(
        name in name(), version in version(), fingerprint in any_text(), digest in digest(), dependencies in names(),
        os in name(), stemcell_version in version(),
    ) -> CompiledPackage {
        let stemcell = Slug { os, version: stemcell_version };
        CompiledPackage { name, version, fingerprint, digest, stemcell, dependencies }
    }
}

prop_compose! {
    fn license()(version in any_text(), fingerprint in any_text(), digest in digest()) -> License {
        License { version, fingerprint, digest }
    }
}

prop_compose! {
    /// A manifest that the compiled form can represent: no source packages, a commit, no empty list of compiled packages.
    fn manifest()(
        (name, version) in (name(), version()),
        commit_hash in any_text(),
        uncommitted_changes: bool,
        mut jobs in prop::collection::vec(job(), 0..3),
        mut compiled in prop::collection::vec(compiled_package(), 0..3),
        license in option::of(license()),
        no_compression: bool,
    ) -> Manifest {
        jobs.sort_by(|a, b| a.name.cmp(&b.name));
        jobs.dedup_by(|a, b| a.name == b.name);
        compiled.sort_by(|a, b| a.name.cmp(&b.name));
        compiled.dedup_by(|a, b| a.name == b.name);
        Manifest {
            name,
            version,
            commit_hash: Some(commit_hash),
            uncommitted_changes,
            jobs,
            packages: vec![],
            compiled_packages: (!compiled.is_empty()).then_some(compiled),
            license,
            no_compression,
        }
    }
}

proptest! {
    #[test]
    fn written_manifest_is_parsed_back(manifest in manifest()) {
        let text = manifest.to_yaml();
        prop_assert_eq!(Manifest::parse(text.as_bytes()), Ok(manifest), "{}", text);
    }
}
