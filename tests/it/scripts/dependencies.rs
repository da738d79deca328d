//! A script's view of its dependencies, and its install target.

use super::*;

#[test]
fn install_target_is_a_link_to_the_version() {
    let facts = Facts::new();
    let text = "readlink $BOSH_INSTALL_TARGET > $FACTS/link\n\
                stat -c '%a %u' $BOSH_INSTALL_TARGET/. > $FACTS/directory";
    facts.run(&script(text).of_version("1.2.3")).succeeds();
    let directory = format!("data/packages/app/{}", sha1("1.2.3"));
    let expected = facts.world.base().join(directory);
    assert_eq!(facts.read("link"), expected.to_str().unwrap());
    let user = nix::unistd::geteuid();
    assert_eq!(facts.read("directory"), format!("755 {user}"));
}

#[test]
fn only_direct_dependencies_are_installed() {
    let facts = Facts::new();
    let look = "cd $(dirname $BOSH_INSTALL_TARGET)\n\
                ls > $FACTS/$BOSH_PACKAGE_NAME\n\
                ls ../data/packages > $FACTS/$BOSH_PACKAGE_NAME.data\n\
                ls ../data/compile > $FACTS/$BOSH_PACKAGE_NAME.compile\n\
                echo $BOSH_PACKAGE_NAME > $BOSH_INSTALL_TARGET/name\n";
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("base", &[], look)
        .package("lib", &["base"], look)
        .package(
            "app",
            &["lib", "tool"],
            &format!("{look}\ncat */name > $FACTS/names"),
        )
        .package("tool", &[], look);
    facts.run(&release).succeeds();
    for (package, seen) in [
        ("base", &["base"][..]),
        ("lib", &["base", "lib"]),
        ("tool", &["tool"]),
        ("app", &["app", "lib", "tool"]),
    ] {
        assert_eq!(facts.lines(package), seen, "{package} sees other packages");
        assert_eq!(facts.lines(&format!("{package}.data")), seen, "{package}");
        assert_eq!(facts.lines(&format!("{package}.compile")), [package]);
    }
    assert_eq!(facts.lines("names"), ["app", "lib", "tool"]);
}

#[test]
fn dependency_is_a_link_to_its_version() {
    let facts = Facts::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "pwd > $BOSH_INSTALL_TARGET/built-in")
        .of_version("4.5")
        .package("app", &["lib"], "readlink @packages@/lib > $FACTS/link");
    facts.run(&release).succeeds();
    let link = facts.read("link");
    let parent = facts.world.base().join("data/packages/lib");
    assert_eq!(Path::new(&link).parent(), Some(parent.as_path()), "{link}");
}

#[test]
fn changes_to_a_dependency_are_not_visible_to_others() {
    let facts = Facts::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "lib",
            &[],
            "echo good > $BOSH_INSTALL_TARGET/file\nmkdir $BOSH_INSTALL_TARGET/directory",
        )
        .package(
            "b-changes",
            &["lib"],
            "cd @packages@/lib\necho bad > file\ntouch directory/more\nrm -f directory\nchmod 0 .\ncp file $FACTS/b",
        )
        .package("c-deletes", &["lib"], "cp -r @packages@/lib/. $FACTS/c\nrm -rf @packages@/lib/*")
        .package("d-looks", &["lib"], "cp -r @packages@/lib/. $FACTS/d");
    facts.run(&release).succeeds();
    assert_eq!(facts.read("b"), "bad");
    for directory in ["c", "d"] {
        let seen = crate::support::snapshot(&facts.world.path("facts").join(directory));
        assert_eq!(seen["file"], "100644 good\n");
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["", "directory", "file"]);
    }
    let (_scratch, lib) = unpacked(&facts.world.result("demo-1.10"), "lib");
    assert_eq!(lib["file"], "100644 good\n");
}

#[test]
fn dependency_has_all_installed_files() {
    let facts = Facts::new();
    let install = "cd $BOSH_INSTALL_TARGET\n\
                   mkdir -p bin empty\n\
                   printf x > bin/tool\n\
                   chmod 4755 bin/tool\n\
                   ln bin/tool bin/hard\n\
                   ln -s tool bin/soft\n\
                   ln -s /nowhere dangling\n\
                   mkfifo pipe\n\
                   chmod 2775 empty\n\
                   touch -d '2001-02-03 04:05:06 UTC' bin/tool\n\
                   truncate -s 3M sparse";
    let look = "cd @packages@/lib\n\
                stat -c '%n %a %h %F %s' bin bin/* empty dangling pipe sparse > $FACTS/stat\n\
                readlink bin/soft dangling > $FACTS/links\n\
                stat -c %Y bin/tool > $FACTS/time\n\
                [ bin/tool -ef bin/hard ] && touch $FACTS/same";
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], install)
        .package("app", &["lib"], look);
    facts.run(&release).succeeds();
    assert_eq!(
        facts.lines("stat"),
        [
            "bin 755 2 directory 4096",
            "bin/hard 4755 2 regular file 1",
            "bin/soft 777 1 symbolic link 4",
            "bin/tool 4755 2 regular file 1",
            "empty 2775 2 directory 4096",
            "dangling 777 1 symbolic link 8",
            "pipe 644 1 fifo 0",
            "sparse 644 1 regular file 3145728",
        ]
    );
    assert_eq!(facts.lines("links"), ["tool", "/nowhere"]);
    assert_eq!(facts.read("time"), "981173106");
    assert!(facts.has("same"));
}

#[test]
fn package_without_a_script_is_empty() {
    let facts = Facts::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("nothing", &[], "")
        .file("left-alone.txt", 0o644, b"text")
        .without_script()
        .package("app", &["nothing"], "ls -A @packages@/nothing > $FACTS/ls");
    facts.run(&release).succeeds();
    assert_eq!(facts.read("ls"), "");
    let (_scratch, contents) = unpacked(&facts.world.result("demo-1.10"), "nothing");
    assert_eq!(contents.keys().collect::<Vec<_>>(), [""]);
}

#[test]
fn script_may_replace_its_install_target_by_a_directory() {
    let facts = Facts::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "lib",
            &[],
            "rm $BOSH_INSTALL_TARGET\nmkdir -m 750 $BOSH_INSTALL_TARGET\necho mine > $BOSH_INSTALL_TARGET/file",
        )
        .package("app", &["lib"], "cat @packages@/lib/file > $BOSH_INSTALL_TARGET/copy");
    facts.run(&release).succeeds();
    let (_scratch, lib) = unpacked(&facts.world.result("demo-1.10"), "lib");
    assert_eq!(lib["file"], "100644 mine\n");
    assert_eq!(lib[""], "40750 ");
    let (_scratch, app) = unpacked(&facts.world.result("demo-1.10"), "app");
    assert_eq!(app["copy"], "100644 mine\n");
    facts.assert_clean();
}

#[test]
fn script_may_link_its_install_target_to_another_directory() {
    let facts = Facts::new();
    let text = "mkdir $FACTS/real\necho real > $FACTS/real/file\n\
                rm $BOSH_INSTALL_TARGET\nln -s $FACTS/real $BOSH_INSTALL_TARGET";
    facts.run(&script(text)).succeeds();
    let (_scratch, app) = unpacked(&facts.world.result("demo-1.10"), "app");
    assert_eq!(app["file"], "100644 real\n");
    assert_eq!(facts.read("real/file"), "real");
    facts.assert_clean();
}

#[test]
fn install_target_that_is_not_a_directory_is_reported() {
    for (text, told) in [
        (
            "rm $BOSH_INSTALL_TARGET; echo x > $BOSH_INSTALL_TARGET",
            "there is a file",
        ),
        (
            "rm -rf $(readlink $BOSH_INSTALL_TARGET)",
            "there is a link that leads nowhere",
        ),
        (
            "rm -rf $(readlink $BOSH_INSTALL_TARGET) $BOSH_INSTALL_TARGET",
            "there is nothing",
        ),
    ] {
        let facts = Facts::new();
        facts.run(&script(text)).fails().says("app").says(told);
        facts.assert_clean();
    }
}

#[test]
fn source_files_have_their_modes_and_the_users_owner() {
    let facts = Facts::new();
    let release = script("stat -c '%a %u %n' packaging plain tool suid locked > $FACTS/stat")
        .file("plain", 0o644, b"")
        .file("tool", 0o755, b"")
        .file("suid", 0o6755, b"")
        .file("locked", 0o400, b"");
    facts.run(&release).succeeds();
    let user = nix::unistd::geteuid();
    let expected = [
        "644 packaging",
        "644 plain",
        "755 tool",
        "6755 suid",
        "400 locked",
    ]
    .map(|line| {
        let (mode, name) = line.split_once(' ').unwrap();
        format!("{mode} {user} {name}")
    });
    assert_eq!(facts.lines("stat"), expected);
}

#[test]
fn script_may_be_a_link_and_not_executable() {
    let facts = Facts::new();
    let blob = crate::support::archive(&[
        crate::support::Member::file("./real", b"touch $FACTS/ran"),
        crate::support::Member::link(crate::support::Kind::Symlink, "./packaging", "real"),
    ]);
    facts.run(&script("").blob(&blob)).succeeds();
    assert!(facts.has("ran"));
}
