//! The archives of compiled packages.

use super::*;

#[test]
fn entries_of_a_package_are_sorted() {
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
fn links_modes_and_times_of_a_package_are_packed() {
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
fn top_directory_of_a_package_belongs_to_root_and_vcap() {
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
fn owners_set_by_a_script_are_packed() {
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
fn long_and_unusual_names_are_packed() {
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
fn holes_of_sparse_files_are_packed_as_holes() {
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
fn empty_package_has_only_its_top_directory() {
    let (_world, _blob, entries) = packed("true");
    assert_eq!(names(&entries), ["./"]);
}

#[test]
fn equal_trees_give_equal_bytes() {
    let script = "cd $BOSH_INSTALL_TARGET\nmkdir d\necho x > d/f\nln d/f d/g\nfind . -depth -exec touch -h -d @1000 {} +";
    let digest = || {
        let world = World::new();
        let result = world.compiled(&ReleaseBuilder::of_script(script));
        compiled_packages(&manifest_of(&result))[0].1.clone()
    };
    assert_eq!(digest(), digest());
}
