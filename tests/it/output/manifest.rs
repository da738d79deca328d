//! The manifest of a result, and its compression.

use super::*;

#[test]
fn manifest_has_the_format_of_the_go_agent() {
    let world = World::new();
    let release = ReleaseBuilder::demo()
        .job_without_packages("cell")
        .package("zeta", &["lib", "app", "lib"], "true")
        .of_version("58236d");
    let result = world.compiled(&release);
    let source = String::from_utf8(release.files()[0].1.clone()).unwrap();
    let digest_behind = |name: &str| {
        source
            .lines()
            .skip_while(|line| *line != name)
            .find_map(|line| line.strip_prefix("  sha1: "))
            .unwrap()
            .to_owned()
    };
    let manifest = manifest_of(&result);
    let packages = compiled_packages(&manifest);
    let order: Vec<&str> = packages.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(order, ["lib", "app", "zeta"]);
    let version = format!("{}13", "5a".repeat(19));
    let expected = format!(
        "name: demo\n\
         version: \"1.10\"\n\
         commit_hash: 8ab1aae\n\
         uncommitted_changes: false\n\
         jobs:\n\
         \x20   - name: web\n\
         \x20     version: 0a0b0c\n\
         \x20     fingerprint: 0a0b0c\n\
         \x20     sha1: {web}\n\
         \x20     packages:\n\
         \x20       - app\n\
         \x20   - name: cell\n\
         \x20     version: 0a0b0c\n\
         \x20     fingerprint: 0a0b0c\n\
         \x20     sha1: {cell}\n\
         compiled_packages:\n\
         \x20   - name: lib\n\
         \x20     version: {version}\n\
         \x20     fingerprint: {version}\n\
         \x20     sha1: {lib}\n\
         \x20     stemcell: ubuntu-noble/1.406\n\
         \x20     dependencies: []\n\
         \x20   - name: app\n\
         \x20     version: {version}\n\
         \x20     fingerprint: {version}\n\
         \x20     sha1: {app}\n\
         \x20     stemcell: ubuntu-noble/1.406\n\
         \x20     dependencies:\n\
         \x20       - lib\n\
         \x20   - name: zeta\n\
         \x20     version: 58236d\n\
         \x20     fingerprint: 58236d\n\
         \x20     sha1: {zeta}\n\
         \x20     stemcell: ubuntu-noble/1.406\n\
         \x20     dependencies:\n\
         \x20       - lib\n\
         \x20       - app\n\
         \x20       - lib\n\
         license:\n\
         \x20   version: 4813a2\n\
         \x20   fingerprint: 4813a2\n\
         \x20   sha1: {license}\n\
         no_compression: false\n",
        web = digest_behind("- name: web"),
        cell = digest_behind("- name: cell"),
        lib = packages[0].1,
        app = packages[1].1,
        zeta = packages[2].1,
        license = digest_behind("license:"),
    );
    // A digest such as 12e4… would be quoted; if there is one, it is in the list above, too.
    assert_eq!(manifest, expected);
}

#[test]
fn digest_of_a_compiled_package_is_that_of_its_blob() {
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::demo());
    for (name, digest) in compiled_packages(&manifest_of(&result)) {
        let blob = blob_of(&world, &result, &name);
        assert_eq!(digest.trim_matches('"'), sha1_of(&blob), "{name}");
    }
}

#[test]
fn ambiguous_yaml_texts_are_quoted() {
    for text in [
        "45",
        "1.10",
        "1e3",
        "0x1f",
        "0777",
        "1_000",
        "yes",
        "no",
        "on",
        "2020-01-01",
        "5e1234",
        "123456789012345678901234567890",
        "1.0+dev.12",
        "8ab1aae",
        "true",
    ] {
        let world = World::new();
        let release = ReleaseBuilder::of_script("true")
            .of_version(text)
            .edit("commit_hash: 8ab1aae", &format!("commit_hash: {text}"));
        let manifest = manifest_of(&world.compiled(&release));
        // YAML 1.1 and 1.2 agree only on plain words that start with a letter.
        let is_word = ["8ab1aae", "1.0+dev.12"].contains(&text);
        let line = manifest
            .lines()
            .find_map(|line| line.strip_prefix("commit_hash: "))
            .unwrap();
        assert_eq!(line.trim_matches('"'), text);
        assert!(is_word || line.starts_with('"'), "{line}");
        assert!(
            manifest.contains(&format!("version: {line}\n")),
            "{manifest}"
        );
        assert!(
            manifest.contains(&format!("fingerprint: {line}\n")),
            "{manifest}"
        );
    }
}

#[test]
fn ruby_and_python_read_the_manifest_correctly() {
    let world = World::new();
    let release = ReleaseBuilder::demo()
        .of_version("1e3")
        .edit("commit_hash: 8ab1aae", "commit_hash: 1234567");
    let result = world.compiled(&release);
    let path = world.write("manifest.yml", manifest_of(&result));
    let check = "m['name'] == 'demo' and m['version'] == '1.10' and m['commit_hash'] == '1234567' \
                 and m['uncommitted_changes'] == false and m['compiled_packages'][1]['version'] == '1e3' \
                 and m['compiled_packages'][0]['dependencies'] == [] \
                 and m['jobs'][0]['packages'] == ['app']";
    if require_tools(&["ruby"]) {
        let program = format!("require 'yaml'; m = YAML.load_file(ARGV[0]); exit(({check}))");
        run_tool("ruby", &["-e".as_ref(), program.as_ref(), path.as_os_str()]);
    }
    let has_yaml = std::process::Command::new("python3")
        .args(["-c", "import yaml"])
        .output()
        .is_ok_and(|output| output.status.success());
    if crate::support::require(has_yaml, "the YAML module of python3") {
        let check = check.replace("false", "False");
        let program = format!(
            "import sys, yaml; m = yaml.safe_load(open(sys.argv[1])); sys.exit(not ({check}))"
        );
        run_tool(
            "python3",
            &["-c".as_ref(), program.as_ref(), path.as_os_str()],
        );
    }
}

#[test]
fn missing_commit_and_fingerprint_have_the_expected_values() {
    let world = World::new();
    let release = ReleaseBuilder::of_script("true")
        .of_version("abc")
        .edit("commit_hash: 8ab1aae\n", "")
        .edit("uncommitted_changes: false\n", "")
        .edit("no_compression: false\n", "")
        .edit("  fingerprint: abc\n", "");
    let manifest = manifest_of(&world.compiled(&release));
    assert!(
        manifest.contains("\ncommit_hash: unknown\nuncommitted_changes: false\n"),
        "{manifest}"
    );
    assert!(manifest.contains("      fingerprint: \"\"\n"), "{manifest}");
    assert!(manifest.ends_with("no_compression: false\n"), "{manifest}");
}

#[test]
fn uncommitted_changes_are_kept() {
    let world = World::new();
    let release = ReleaseBuilder::of_script("true").edit("changes: false", "changes: true");
    let manifest = manifest_of(&world.compiled(&release));
    assert!(
        manifest.contains("\nuncommitted_changes: true\n"),
        "{manifest}"
    );
}

#[test]
fn result_is_uncompressed_if_the_manifest_says_so() {
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::demo().no_compression());
    let bytes = std::fs::read(&result).unwrap();
    assert_eq!(&bytes[257..262], b"ustar");
    assert!(manifest_of(&result).ends_with("no_compression: true\n"));
    // Its packages have the compression of their sources.
    let blob = std::fs::read(blob_of(&world, &result, "app")).unwrap();
    assert_eq!(&blob[..2], b"\x1f\x8b");
}

#[test]
fn manifest_determines_the_compression_of_the_result() {
    let world = World::new();
    let members = ReleaseBuilder::demo().members();
    let tarball = world.write("release.tgz", archive(&members));
    world.compile(&[&tarball]).succeeds();
    let result = std::fs::read(world.result("demo-1.10")).unwrap();
    assert_eq!(&result[..2], b"\x1f\x8b");
}

#[test]
fn package_of_an_uncompressed_source_is_uncompressed() {
    for (compression, is_plain) in [
        (Compression::Plain, true),
        (Compression::Gzip, false),
        (Compression::Bzip2, false),
        (Compression::Xz, false),
    ] {
        if let Some(tool) = compression.tool()
            && !require_tools(&[tool])
        {
            continue;
        }
        let world = World::new();
        let release =
            ReleaseBuilder::of_script("echo x > $BOSH_INSTALL_TARGET/x").compressed(compression);
        let result = world.compiled(&release);
        let blob = std::fs::read(blob_of(&world, &result, "app")).unwrap();
        if is_plain {
            assert_eq!(&blob[257..262], b"ustar");
        } else {
            assert_eq!(&blob[..2], b"\x1f\x8b", "{compression:?}");
        }
    }
}

#[test]
fn gzip_files_have_one_member_without_time_and_name() {
    if !require_tools(&["python3"]) {
        return;
    }
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::of_script(
        "head -c 3000000 /dev/urandom > $BOSH_INSTALL_TARGET/data",
    ));
    let blob = blob_of(&world, &result, "app");
    let program = "import sys, zlib\n\
                   for path in sys.argv[1:]:\n\
                   \x20   data = open(path, 'rb').read()\n\
                   \x20   assert data[:4] == b'\\x1f\\x8b\\x08\\0' and data[4:8] == b'\\0' * 4, data[:10]\n\
                   \x20   decoder = zlib.decompressobj(31)\n\
                   \x20   decoder.decompress(data)\n\
                   \x20   assert decoder.eof and decoder.unused_data == b'', path\n";
    run_tool(
        "python3",
        &[
            "-c".as_ref(),
            program.as_ref(),
            result.as_os_str(),
            blob.as_os_str(),
        ],
    );
}

#[test]
fn other_readers_of_tar_read_the_result() {
    let world = World::new();
    let script = format!(
        "cd $BOSH_INSTALL_TARGET\nmkdir -p {0}/{0}/{0}\ntouch {0}/{0}/{0}/file\ntruncate -s 5M sparse\nln -s /{0}/{0}/{0} link",
        "long-name".repeat(9)
    );
    let result = world.compiled(&ReleaseBuilder::of_script(&script));
    let blob = blob_of(&world, &result, "app");
    let long = "long-name".repeat(9);
    let expected = [
        "./".to_owned(),
        "./link".to_owned(),
        format!("./{long}/"),
        format!("./{long}/{long}/"),
        format!("./{long}/{long}/{long}/"),
        format!("./{long}/{long}/{long}/file"),
        "./sparse".to_owned(),
    ];
    assert_eq!(names(&list(&blob)), expected);
    if require_tools(&["bsdtar"]) {
        let listed = run_tool("bsdtar", &["-tf".as_ref(), blob.as_os_str()]);
        assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
    }
    if require_tools(&["python3"]) {
        let program = "import sys, tarfile\n\
                       t = tarfile.open(sys.argv[1])\n\
                       for m in t: print(m.name)\n\
                       assert t.getmember('./sparse').size == 5 << 20\n\
                       assert t.extractfile('./sparse').read() == bytes(5 << 20)\n";
        let listed = run_tool(
            "python3",
            &["-c".as_ref(), program.as_ref(), blob.as_os_str()],
        );
        let without_slashes: Vec<&str> = expected
            .iter()
            .map(|name| name.strip_suffix('/').unwrap_or(name))
            .collect();
        assert_eq!(listed.lines().collect::<Vec<_>>(), without_slashes);
    }
}

#[test]
fn mode_of_a_result_depends_on_the_umask() {
    for (umask, mode) in [("022", 0o644), ("077", 0o600), ("000", 0o666)] {
        for release in [
            ReleaseBuilder::demo(),
            ReleaseBuilder::new("demo", "1.10").compiled(
                "a",
                &[],
                crate::support::STEMCELL,
                ("f", b""),
            ),
        ] {
            let world = World::new();
            let tarball = world.release("release.tgz", &release);
            let script = format!("umask {umask}; exec \"$@\"");
            let wrapped = Agent::wrapped(&world.path("printed"), &["sh", "-c", &script, "sh"]);
            world
                .flags(wrapped)
                .arg("--output-directory")
                .args(&[world.out(), tarball])
                .run()
                .succeeds();
            assert_eq!(mode_of(&world.result("demo-1.10")), mode, "umask {umask}");
        }
    }
}
