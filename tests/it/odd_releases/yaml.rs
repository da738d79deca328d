//! Manifests in unusual YAML.

use super::*;

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
    // Name, version and flags of each manifest as Psych reads them, in order.
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
            // An invalid name of a release.
            _ => {
                ran.refuses_the_input().says("`name`: ");
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
            "duplicate key `name`; the first is on line 1",
        ),
        (
            format!("{base}packages:\n\t- name: a\n"),
            "tabs disallowed within this context (block indentation)",
        ),
        (
            format!("{base}no_compression: 'maybe'\n"),
            "`no_compression` is `maybe`; expected true or false",
        ),
        (
            format!("{base}license: [MIT]\n"),
            "`license` is a list; expected a mapping",
        ),
        (
            format!("---\n---\n{base}"),
            "the manifest is empty; expected a mapping",
        ),
    ] {
        compile(&gzip(&[Member::file("release.MF", manifest.as_bytes())]))
            .refuses_the_input()
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
