//! What a compiled release looks like, to the byte where its readers care.

use std::path::{Path, PathBuf};

use crate::support::{
    Agent, Compression, Kind, Listed, Member, ReleaseBuilder, World, archive, compiled_packages,
    list, manifest_of, mode_of, require_root, require_tools, run_tool, sha1_of,
};

/// The compiled package of a result, as a file of its own.
fn blob_of(world: &World, result: &Path, package: &str) -> PathBuf {
    let release = world.path("unpacked");
    crate::support::extract(result, &release);
    release.join(format!("compiled_packages/{package}.tgz"))
}

/// What a script makes becomes a package, which is listed.
fn packed(script: &str) -> (World, PathBuf, Vec<Listed>) {
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::of_script(script));
    let blob = blob_of(&world, &result, "app");
    let entries = list(&blob);
    (world, blob, entries)
}

fn names(entries: &[Listed]) -> Vec<&str> {
    entries.iter().map(|entry| entry.name.as_str()).collect()
}

#[track_caller]
fn entry<'a>(entries: &'a [Listed], name: &str) -> &'a Listed {
    entries
        .iter()
        .find(|entry| entry.name == name)
        .unwrap_or_else(|| panic!("{name} is not among {:?}", names(entries)))
}

#[test]
fn entries_have_canonical_names_the_times_and_modes_of_the_go_agent_and_the_owners_of_their_source()
{
    let world = World::new();
    let mut members = ReleaseBuilder::demo().members();
    for member in &mut members {
        member.mode = match member.name.as_str() {
            "release.MF" => 0o640,
            "jobs/" => 0o700,
            "packages/" => 0o750,
            "LICENSE" => 0o400,
            _ => member.mode,
        };
        if member.name == "packages/" {
            member.owner = (77, 78);
            member.names = ("pack", "packs");
        }
    }
    let tarball = world.write("release.tgz", Compression::Gzip.apply(&archive(&members)));
    world.compile(&[&tarball]).succeeds();
    let entries = list(&world.result("demo-1.10"));
    let found: Vec<String> = entries
        .iter()
        .map(|entry| {
            format!(
                "{} {} {} {}",
                entry.mode, entry.owner, entry.names, entry.name
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            "-rw-r----- 1001/1002 builder/builders ./release.MF",
            "drwx------ 1001/1002 builder/builders ./jobs/",
            "-rw-r--r-- 1001/1002 builder/builders ./jobs/web.tgz",
            "drwxr-x--- 77/78 pack/packs ./compiled_packages/",
            "-rw-r--r-- 77/78 pack/packs ./compiled_packages/lib.tgz",
            "-rw-r--r-- 77/78 pack/packs ./compiled_packages/app.tgz",
            "-rw-r--r-- 1001/1002 builder/builders ./license.tgz",
            "-rw-r--r-- 1001/1002 builder/builders ./LICENSE",
        ]
    );
    for entry in &entries {
        assert_eq!(entry.time, "1970-01-01 00:00:00", "{}", entry.name);
    }
}

#[test]
fn without_a_directory_of_packages_in_the_source_there_is_one_in_the_result() {
    let world = World::new();
    let mut members = ReleaseBuilder::demo().members();
    members.retain(|member| member.kind == Kind::File);
    let tarball = world.write("release.tgz", archive(&members));
    world.compile(&[&tarball]).succeeds();
    let entries = list(&world.result("demo-1.10"));
    let directory = entry(&entries, "./compiled_packages/");
    assert_eq!(directory.mode, "drwxr-xr-x");
    assert_eq!(directory.owner, "0/0");
    assert!(names(&entries).iter().all(|name| *name != "./jobs/"));
}

#[test]
fn the_manifest_is_written_as_the_go_agent_writes_it() {
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
    // A digest such as 12e4… would be quoted; where one is, it is in the list above as well.
    assert_eq!(manifest, expected);
}

#[test]
fn the_sha1_of_a_compiled_package_is_that_of_its_blob() {
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::demo());
    for (name, digest) in compiled_packages(&manifest_of(&result)) {
        let blob = blob_of(&world, &result, &name);
        assert_eq!(digest.trim_matches('"'), sha1_of(&blob), "{name}");
    }
}

#[test]
fn texts_that_readers_of_yaml_take_for_something_else_are_quoted() {
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
        // YAML 1.1 and 1.2 agree on plain words that begin with a letter and on nothing else here.
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
fn ruby_and_python_read_the_manifest_as_it_is_meant() {
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
fn an_absent_commit_and_an_absent_fingerprint_are_what_a_director_expects() {
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
fn the_result_is_a_plain_tar_where_the_manifest_wants_no_compression() {
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::demo().no_compression());
    let bytes = std::fs::read(&result).unwrap();
    assert_eq!(&bytes[257..262], b"ustar");
    assert!(manifest_of(&result).ends_with("no_compression: true\n"));
    // The packages in it are compressed as their sources are.
    let blob = std::fs::read(blob_of(&world, &result, "app")).unwrap();
    assert_eq!(&blob[..2], b"\x1f\x8b");
}

#[test]
fn the_manifest_and_not_the_source_decides_on_the_compression_of_the_result() {
    let world = World::new();
    let members = ReleaseBuilder::demo().members();
    let tarball = world.write("release.tgz", archive(&members));
    world.compile(&[&tarball]).succeeds();
    let result = std::fs::read(world.result("demo-1.10")).unwrap();
    assert_eq!(&result[..2], b"\x1f\x8b");
}

#[test]
fn a_package_from_a_plain_source_is_plain_and_any_other_is_gzip() {
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
fn gzip_files_are_one_member_each_without_time_and_name() {
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
fn a_result_has_the_mode_that_the_umask_leaves() {
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

#[test]
fn the_entries_of_a_package_are_sorted_with_each_directory_before_what_is_in_it() {
    let (_world, _blob, entries) = packed(
        "cd $BOSH_INSTALL_TARGET\n\
         mkdir -p b/inner B a.d\n\
         touch z b/inner/2 b/inner/10 b/inner/1 B/x a.d/y a-file _under 10 9",
    );
    assert_eq!(
        names(&entries),
        [
            "./",
            "./10",
            "./9",
            "./B/",
            "./B/x",
            "./_under",
            "./a-file",
            "./a.d/",
            "./a.d/y",
            "./b/",
            "./b/inner/",
            "./b/inner/1",
            "./b/inner/10",
            "./b/inner/2",
            "./z"
        ]
    );
}

#[test]
fn links_modes_and_times_of_a_package_are_kept() {
    let (world, blob, entries) = packed(
        "cd $BOSH_INSTALL_TARGET\n\
         mkdir dir\n\
         printf content > file\n\
         ln file hard\n\
         ln -s file soft\n\
         ln -s /nowhere/else dangling\n\
         mkfifo pipe\n\
         printf x > setuid; chmod 4755 setuid\n\
         printf x > setgid; chmod 2755 setgid\n\
         chmod 1777 dir\n\
         printf x > secret; chmod 0 secret\n\
         touch -d '2001-02-03 04:05:06 UTC' file\n\
         touch -h -d '2011-02-03 04:05:06 UTC' soft\n\
         touch -d '2021-02-03 04:05:06 UTC' dir",
    );
    let of = |name: &str| entry(&entries, name);
    assert_eq!(of("./file").time, "2001-02-03 04:05:06");
    assert_eq!(of("./soft").time, "2011-02-03 04:05:06");
    assert_eq!(of("./dir/").time, "2021-02-03 04:05:06");
    assert_eq!(of("./hard").mode, "hrw-r--r--");
    assert_eq!(of("./hard").link, "./file");
    assert_eq!(of("./soft").link, "file");
    assert_eq!(of("./dangling").link, "/nowhere/else");
    assert_eq!(of("./pipe").mode, "prw-r--r--");
    assert_eq!(of("./setuid").mode, "-rwsr-xr-x");
    assert_eq!(of("./setgid").mode, "-rwxr-sr-x");
    assert_eq!(of("./dir/").mode, "drwxrwxrwt");
    assert_eq!(of("./secret").mode, "----------");

    let tree = world.path("tree");
    crate::support::extract(&blob, &tree);
    assert_eq!(std::fs::read(tree.join("hard")).unwrap(), b"content");
    assert_eq!(mode_of(&tree.join("setuid")), 0o4755);
}

#[test]
fn the_top_of_a_package_belongs_to_root_and_vcap() {
    if !require_root() {
        return;
    }
    let (_world, _blob, entries) = packed("touch $BOSH_INSTALL_TARGET/file");
    let top = entry(&entries, "./");
    assert_eq!(top.mode, "drwxr-xr-x");
    assert_eq!(top.names, "root/vcap");
    assert_eq!(entry(&entries, "./file").names, "root/root");
}

#[test]
fn the_owners_of_a_package_are_as_its_script_left_them() {
    if !require_root() {
        return;
    }
    let (_world, _blob, entries) = packed(
        "cd $BOSH_INSTALL_TARGET\n\
         touch a b c\n\
         chown 1234:5678 a\n\
         chown 3000000000:4000000000 b\n\
         ln -s nowhere c-link; chown -h 42:43 c-link\n\
         chown 7:8 . && chmod 700 .",
    );
    assert_eq!(entry(&entries, "./a").owner, "1234/5678");
    assert_eq!(entry(&entries, "./b").owner, "3000000000/4000000000");
    assert_eq!(entry(&entries, "./c").owner, "0/0");
    assert_eq!(entry(&entries, "./c-link").owner, "42/43");
    let top = entry(&entries, "./");
    assert_eq!(
        (top.owner.as_str(), top.mode.as_str()),
        ("7/8", "drwx------")
    );
}

#[test]
fn long_and_odd_names_are_kept() {
    if !require_tools(&["python3"]) {
        return;
    }
    let make = "import os\n\
                os.chdir(os.environ['BOSH_INSTALL_TARGET'])\n\
                names = [b'x' * 255, b'line\\nbreak', b'bl ank', b'-dash', b'\\xff\\xfe', 'ünï'.encode(), b'back\\\\slash', b'\\'\"$`', b'tab\\t']\n\
                for name in names: open(name, 'wb').write(name)\n\
                path = b'.'\n\
                for _ in range(12):\n\
                \x20   path += b'/' + b'd' * 200\n\
                \x20   os.mkdir(path)\n\
                open(path + b'/deep', 'wb').write(b'deep')\n\
                os.symlink(b't' * 3000, b'long-link')\n\
                os.link(path + b'/deep', b'other-name')\n";
    let world = World::new();
    let release =
        ReleaseBuilder::of_script("python3 make.py").file("make.py", 0o644, make.as_bytes());
    let result = world.compiled(&release);
    let blob = blob_of(&world, &result, "app");
    let tree = world.path("tree");
    crate::support::extract(&blob, &tree);
    let check = "import os, sys\n\
                 os.chdir(sys.argv[1].encode())\n\
                 names = [b'x' * 255, b'line\\nbreak', b'bl ank', b'-dash', b'\\xff\\xfe', 'ünï'.encode(), b'back\\\\slash', b'\\'\"$`', b'tab\\t']\n\
                 for name in names: assert open(name, 'rb').read() == name, name\n\
                 deep = b'./' + b'/'.join([b'd' * 200] * 12) + b'/deep'\n\
                 assert open(deep, 'rb').read() == b'deep'\n\
                 assert os.readlink(b'long-link') == b't' * 3000\n\
                 assert os.path.samefile(deep, b'other-name')\n\
                 assert len(os.listdir(b'.')) == len(names) + 3, os.listdir(b'.')\n";
    run_tool(
        "python3",
        &["-c".as_ref(), check.as_ref(), tree.as_os_str()],
    );
}

#[test]
fn holes_of_sparse_files_cost_nothing_and_come_back() {
    let (world, blob, entries) = packed(
        "cd $BOSH_INSTALL_TARGET\n\
         truncate -s 200M all-hole\n\
         printf begin > some\n\
         truncate -s 100M some\n\
         printf end >> some",
    );
    assert_eq!(entry(&entries, "./all-hole").size, 200 << 20);
    let size = std::fs::metadata(&blob).unwrap().len();
    assert!(size < 100_000, "holes were written: {size} bytes");
    let tree = world.path("tree");
    crate::support::extract(&blob, &tree);
    let some = std::fs::read(tree.join("some")).unwrap();
    assert_eq!(some.len(), (100 << 20) + 3);
    assert!(some.starts_with(b"begin\0") && some.ends_with(b"\0end"));
    assert!(some[5..100 << 20].iter().all(|byte| *byte == 0));
}

#[test]
fn sockets_and_extended_attributes_are_left_out() {
    if !require_tools(&["python3"]) {
        return;
    }
    let make = "import os, socket\n\
                os.chdir(os.environ['BOSH_INSTALL_TARGET'])\n\
                socket.socket(socket.AF_UNIX).bind('socket')\n\
                open('file', 'w').write('x')\n\
                try: os.setxattr('file', 'user.mark', b'value')\n\
                except OSError: pass\n";
    let world = World::new();
    let release =
        ReleaseBuilder::of_script("python3 make.py").file("make.py", 0o644, make.as_bytes());
    let result = world.compiled(&release);
    let blob = blob_of(&world, &result, "app");
    assert_eq!(names(&list(&blob)), ["./", "./file"]);
    let plain = run_tool("gzip", &["-dc".as_ref(), blob.as_os_str()]);
    assert!(!plain.contains("user.mark") && !plain.contains("SCHILY"));
}

#[test]
fn an_empty_package_is_an_archive_with_its_top_alone() {
    let (_world, _blob, entries) = packed("true");
    assert_eq!(names(&entries), ["./"]);
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let script = "cd $BOSH_INSTALL_TARGET\nmkdir d\necho x > d/f\nln d/f d/g\nfind . -depth -exec touch -h -d @1000 {} +";
    let digest = || {
        let world = World::new();
        let result = world.compiled(&ReleaseBuilder::of_script(script));
        compiled_packages(&manifest_of(&result))[0].1.clone()
    };
    assert_eq!(digest(), digest());
}

#[test]
fn jobs_the_license_and_other_files_are_carried_over_byte_by_byte() {
    let world = World::new();
    let big: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let release = ReleaseBuilder::demo()
        .other("NOTICE.md", b"notice\n")
        .other("docs/deep/big.bin", &big)
        .other("empty", b"");
    let result = world.compiled(&release);
    let unpacked = world.path("unpacked");
    crate::support::extract(&result, &unpacked);
    for (path, content) in release.files() {
        if path != "release.MF" && !path.starts_with("packages/") {
            let found = std::fs::read(unpacked.join(&path)).unwrap();
            assert!(found == content, "{path} has changed");
        }
    }
    assert!(!unpacked.join("packages").exists());
}

#[test]
fn a_members_long_path_is_carried_over() {
    let world = World::new();
    let tree = world.path("tree");
    let path = format!("docs/{}/{}.txt", "d".repeat(180), "f".repeat(200));
    ReleaseBuilder::demo()
        .other(&path, b"far away")
        .write_tree(&tree);
    let tarball = world.path("release.tgz");
    let mut arguments = vec!["-czf".as_ref(), tarball.as_os_str(), "-C".as_ref()];
    arguments.extend([tree.as_os_str(), ".".as_ref()]);
    run_tool("tar", &arguments);
    world.compile(&[&tarball]).succeeds();
    let unpacked = world.path("unpacked");
    crate::support::extract(&world.result("demo-1.10"), &unpacked);
    assert_eq!(std::fs::read(unpacked.join(path)).unwrap(), b"far away");
}

#[test]
fn the_lines_that_other_programs_look_for_are_said_on_stderr() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let ran = world.compile(&[&tarball]).succeeds();
    let version = format!("{}13", "5a".repeat(19));
    let before = [
        "Compiling with stemcell ubuntu-noble/1.406",
        "Reading BOSH Release Manifest from tarball ",
        "Release demo/1.10 has 2 packages",
        "Starting packages compilation",
    ];
    let after = [
        "Finished packages compilation after ",
        "Archiving compiled BOSH Release demo/1.10 with stemcell ubuntu-noble/1.406",
        "Finished archiving compiled tarball ",
    ];
    for package in ["lib", "app"] {
        // `lib` is packed while `app` is compiled.
        let own = [
            &format!("Compiling package {package}/{version}"),
            &format!("Finished compiling release {package}/{version} BlobstoreID="),
        ];
        let own = own.map(String::as_str);
        let mut lines = ran.stderr.lines();
        for beginning in before.into_iter().chain(own).chain(after) {
            assert!(
                lines.any(|line| line.starts_with(beginning)),
                "`{beginning}` is missing or out of order:\n{}",
                ran.stderr
            );
        }
        assert_eq!(lines.next(), None, "the result is named in the last line");
    }
}

#[test]
fn a_link_in_the_place_of_a_member_is_no_way_out() {
    // Only tar could follow it: the result is written entry by entry, and the source read so.
    let mut members = ReleaseBuilder::demo().members();
    members.insert(0, Member::link(Kind::Symlink, "docs", "/etc"));
    members.push(Member::file("docs/passwd", b"not yours"));
    let world = World::new();
    let tarball = world.write("release.tgz", archive(&members));
    let before = std::fs::read("/etc/passwd").unwrap();
    let ran = world.compile(&[&tarball]);
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    assert!(std::fs::read("/etc/passwd").unwrap() == before);
}
