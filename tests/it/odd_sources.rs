//! Unusual sources, scripts and directories, and the messages about them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::support::{
    Agent, Compression, Kind, LANDLOCK, Member, NAMESPACE, NONE, Place, Ran, ReleaseBuilder,
    STEMCELL, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT, World, archive, in_tiers, require_root,
    require_tools, run_tool,
};

in_tiers!(owners_beyond_the_range_of_a_user_are_explained: USERNS_OF_A_USER);
in_tiers!(owners_with_any_id_are_set: NAMESPACE USERNS_OF_ROOT);
in_tiers!(missing_script_is_a_warning_with_similar_names: NAMESPACE USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(script_that_is_a_dangling_link_is_an_error: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(script_that_is_not_a_file_is_refused: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(script_may_be_a_link_into_a_dependency: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(linked_script_is_checked_like_a_file: NAMESPACE USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(link_to_a_fifo_in_a_dependency_is_refused: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(windows_line_ends_are_a_warning_or_a_hint: NAMESPACE USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(byte_order_mark_is_a_warning: NAMESPACE LANDLOCK NONE);
in_tiers!(empty_package_after_errors_is_a_warning: NAMESPACE USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(empty_package_without_errors_gives_no_warning: NAMESPACE LANDLOCK NONE);
in_tiers!(directories_need_not_be_utf_8: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(references_to_the_compile_directory_are_a_warning: NAMESPACE USERNS_OF_A_USER LANDLOCK NONE);

/// A release with one package that has this script and these other files.
fn source_with(script: &[u8], others: &[Member]) -> ReleaseBuilder {
    let mut members = vec![Member::directory("./"), Member::file("./packaging", script)];
    members.extend(others.iter().cloned());
    source_of(&members)
}

fn source_of(members: &[Member]) -> ReleaseBuilder {
    ReleaseBuilder::of_script("").blob(&Compression::Gzip.apply(&archive(members)))
}

/// A tarball with a file of an unusual owner.
fn tar_of_owner(number: u32) -> Vec<u8> {
    let mut member = Member::file("file", b"content\n");
    member.owner = (number, number);
    member.names = ("", "");
    archive(&[member])
}

mod bodies {
    use super::*;

    pub(super) fn owners_beyond_the_range_of_a_user_are_explained(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let extract = "cd $BOSH_INSTALL_TARGET; tar xf $BOSH_COMPILE_TARGET/x.tar";
        let hint = "`tar: file: Cannot change ownership to uid 70000, gid 70000: Invalid argument`: the highest owner that \
                    scripts can use here is 65536. Extract with `tar --no-same-owner`, or give this user a larger range in \
                    /etc/subuid and /etc/subgid, or compile as root";
        let release = |script: &str| {
            ReleaseBuilder::of_script(script).file("x.tar", 0o644, &tar_of_owner(70_000))
        };
        place
            .run(&release(&format!("set -e; {extract}")))
            .fails()
            .says(&format!("Hint: package app: {hint}"));
        // Without `set -e`, the script continues.
        place
            .run(&release(&format!("{extract}; echo done")))
            .succeeds()
            .says(&format!("Warning: package app: {hint}"));
        place
            .run(&release(&format!("set -e; {extract} --no-same-owner")))
            .succeeds()
            .does_not_say("Warning");
        assert_eq!(place.file("app", "file"), "100600 content\n");
    }

    pub(super) fn owners_with_any_id_are_set(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let release = ReleaseBuilder::of_script(
            "set -e; cd $BOSH_INSTALL_TARGET; tar xf $BOSH_COMPILE_TARGET/x.tar; stat -c %u:%g file > owner",
        );
        place
            .run(&release.file("x.tar", 0o644, &tar_of_owner(1_000_000)))
            .succeeds();
        assert_eq!(place.file("app", "owner"), "100644 1000000:1000000\n");
    }

    pub(super) fn missing_script_is_a_warning_with_similar_names(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let members = [
            Member::directory("./"),
            Member::file("./packaging.ps1", b""),
            Member::file("./Packaging", b""),
            Member::directory("./src/"),
            Member::file("./src/packaging", b""),
        ];
        place.run(&source_of(&members)).succeeds().says(
            "Warning: package app: its source has no `packaging` script, so the compiled package is empty, as with the Go agent. The script must \
             be called `packaging`, not `Packaging`, `packaging.ps1`, `src/packaging`. The source has `Packaging`, \
             `packaging.ps1`, `src/`",
        );
        assert_eq!(place.entries("app").len(), 1);
    }

    pub(super) fn script_that_is_a_dangling_link_is_an_error(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        for target in ["../shared/packaging.sh", "/var/nowhere/packaging.sh"] {
            let members = [
                Member::directory("./"),
                Member::link(Kind::Symlink, "./packaging", target),
            ];
            place
                .run(&source_of(&members))
                .refuses_the_input()
                .says(&format!(
                    "the `packaging` script of `app` is a link to `{target}`, which does not exist"
                ));
        }
    }

    pub(super) fn script_that_is_not_a_file_is_refused(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let source = place.world.path("source");
        std::fs::create_dir(&source).unwrap();
        let packaging = source.join("packaging");
        type Make = fn(&Path);
        let kinds: [(&str, Make); 3] = [
            ("a FIFO", |packaging| {
                run_tool("mkfifo", &[packaging]);
            }),
            ("a device", |packaging| {
                std::os::unix::fs::symlink("/dev/zero", packaging).unwrap();
            }),
            ("a directory", |packaging| {
                std::fs::create_dir(packaging).unwrap();
            }),
        ];
        for (found, make) in kinds {
            make(&packaging);
            let blob = place.world.path("source.tgz");
            let arguments = [
                "-czf".as_ref(),
                blob.as_os_str(),
                "-C".as_ref(),
                source.as_os_str(),
                ".".as_ref(),
            ];
            run_tool("tar", &arguments);
            let release = ReleaseBuilder::of_script("").blob(&std::fs::read(blob).unwrap());
            place.run(&release).refuses_the_input().says(&format!(
                "the `packaging` script of `app` is {found}, not a file"
            ));
            let entry = std::fs::symlink_metadata(&packaging).unwrap();
            match entry.is_dir() {
                true => std::fs::remove_dir(&packaging).unwrap(),
                false => std::fs::remove_file(&packaging).unwrap(),
            }
        }
    }

    pub(super) fn script_may_be_a_link_into_a_dependency(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let members = [
            Member::directory("./"),
            Member::link(
                Kind::Symlink,
                "./packaging",
                "../../../packages/lib/build.sh",
            ),
        ];
        let release = ReleaseBuilder::new("demo", "1.10")
            .package(
                "lib",
                &[],
                "echo 'echo built > $BOSH_INSTALL_TARGET/file' > $BOSH_INSTALL_TARGET/build.sh",
            )
            .package("app", &["lib"], "")
            .blob(&Compression::Gzip.apply(&archive(&members)));
        place.run(&release).succeeds().does_not_say("Warning");
        assert_eq!(place.file("app", "file"), "100644 built\n");
    }

    pub(super) fn link_to_a_fifo_in_a_dependency_is_refused(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        for target in ["../../../packages/lib/fifo", "@packages@/lib/fifo", "way"] {
            let target = target.replace(
                "@packages@",
                &place.world.base().join("packages").display().to_string(),
            );
            let members = [
                Member::directory("./"),
                Member::link(Kind::Symlink, "./packaging", &target),
                Member::link(Kind::Symlink, "./way", "../../../packages/lib/more/fifo"),
            ];
            let release = ReleaseBuilder::new("demo", "1.10")
                .package(
                    "lib",
                    &[],
                    "cd $BOSH_INSTALL_TARGET; mkfifo fifo; ln -s . more",
                )
                .package("app", &["lib"], "")
                .blob(&Compression::Gzip.apply(&archive(&members)));
            place
                .run(&release)
                .refuses_the_input()
                .says("the `packaging` script of `app` is a FIFO, not a file");
        }
    }

    pub(super) fn linked_script_is_checked_like_a_file(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = b"echo x > $BOSH_INSTALL_TARGET/x\r\n";
        let members = [
            Member::directory("./"),
            Member::directory("./src/"),
            Member::file("./src/build.sh", script),
            Member::link(Kind::Symlink, "./packaging", "src/build.sh"),
        ];
        place.run(&source_of(&members)).succeeds().says(
            "Warning: package app: 1 line of its `packaging` script ends with a carriage return",
        );
    }

    pub(super) fn windows_line_ends_are_a_warning_or_a_hint(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let told = "of its `packaging` script end with a carriage return, the first is line 1: bash reads it as a part of the \
                    command (`$'\\r': command not found`). Convert the script to Unix line ends (dos2unix)";
        place
            .run(&source_with(
                b"\r\necho x > $BOSH_INSTALL_TARGET/x\r\ntrue\n",
                &[],
            ))
            .succeeds()
            .says(&format!("Warning: package app: 2 lines {told}"));
        place
            .run(&source_with(b"set -e\r\n\r\nexit 3\r\n", &[]))
            .fails()
            .says(&format!("Hint: package app: 3 lines {told}"));
    }

    pub(super) fn byte_order_mark_is_a_warning(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = b"\xef\xbb\xbf#!/bin/bash\necho x > $BOSH_INSTALL_TARGET/x\n";
        place.run(&source_with(script, &[])).succeeds().says(
            "Warning: package app: its `packaging` script begins with a byte order mark, which bash reads as a part of the \
             first line. Save the script as UTF-8 without it",
        );
        assert_eq!(place.file("app", "x"), "100644 x\n");
    }

    pub(super) fn empty_package_after_errors_is_a_warning(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let log = place.world.path("logs/demo-1.10/app.log");
        place
            .run(&ReleaseBuilder::of_script(
                "cp nothing $BOSH_INSTALL_TARGET/\nno-such-command --version\necho done",
            ))
            .succeeds()
            .says(&format!(
                "Warning: package app: it is empty: its script continued after errors (with `set -e` it would stop) and installed \
                 nothing\n  line 2: cp: cannot stat 'nothing': No such file or directory\n  line 4: packaging: line 2: \
                 no-such-command: command not found\n  in {}",
                log.display()
            ));
    }

    pub(super) fn empty_package_without_errors_gives_no_warning(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        place
            .run(&ReleaseBuilder::of_script("echo nothing to do"))
            .succeeds()
            .does_not_say("Warning");
        place
            .run(&ReleaseBuilder::of_script(
                "ls nothing; echo x > $BOSH_INSTALL_TARGET/x",
            ))
            .succeeds()
            .does_not_say("Warning");
    }

    pub(super) fn directories_need_not_be_utf_8(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let path = |name: &[u8]| place.world.path("facts").join(OsStr::from_bytes(name));
        let out = path(b"out-\xfe");
        let release = place.release(
            &ReleaseBuilder::new("demo", "1.10")
                .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/lib")
                .package(
                    "app",
                    &["lib"],
                    "set -e; cp @packages@/lib/lib $BOSH_INSTALL_TARGET/; \
                     printf 'all: a b\\na b:\\n\\techo $@ > $(BOSH_INSTALL_TARGET)/$@\\n' > Makefile; make",
                ),
        );
        place
            .bare()
            .args(&["compile", "--isolation", tier.flag])
            .args(&["--stemcell", STEMCELL, "--make-jobserver"])
            .arg("--base-directory")
            .arg(place.world.base())
            .arg("--work-dir")
            .arg(path(b"work-\xfd"))
            .arg("--logs-dir")
            .arg(path(b"logs-\xfc"))
            .arg("--output-directory")
            .arg(&out)
            .arg(release)
            .run()
            .succeeds()
            .does_not_say("Warning");
        let result = out.join(format!("demo-1.10-{}.tgz", STEMCELL.replace('/', "-")));
        let (_scratch, contents) = crate::support::unpacked(&result, "app");
        assert_eq!(contents["lib"], "100644 lib\n");
        assert_eq!(contents["a"], "100644 a\n");
    }

    pub(super) fn references_to_the_compile_directory_are_a_warning(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        if !require_tools(&["cc"]) {
            return;
        }
        let script = "set -e; cd $BOSH_INSTALL_TARGET; mkdir -p bin lib\n\
             echo 'int main(void) { return 0; }' > $BOSH_COMPILE_TARGET/a.c\n\
             cc -o bin/broken -Wl,-rpath,$BOSH_COMPILE_TARGET/lib $BOSH_COMPILE_TARGET/a.c\n\
             cc -o bin/good -Wl,-rpath,'$ORIGIN/../lib' $BOSH_COMPILE_TARGET/a.c\n\
             echo \"#!$BOSH_COMPILE_TARGET/env/bin/python\" > bin/script\n\
             ln -s $BOSH_COMPILE_TARGET/a.c lib/link\n\
             ln -s ../bin/good lib/good";
        let compile = place.world.base().join("data/compile");
        let below = compile.join("app");
        place
            .run(&ReleaseBuilder::of_script(script))
            .succeeds()
            .says(&format!(
                "Warning: package app: what it installed refers to `{}`, which does not exist on the VM\n  \
                 bin/broken: it looks for libraries in `{below}/lib`\n  bin/script: its interpreter is \
                 `{below}/env/bin/python`\n  lib/link: it is a link to `{below}/a.c`\n",
                compile.display(),
                below = below.display(),
            ))
            .does_not_say("good");
        // Packages with dependents are searched, too.
        let release = ReleaseBuilder::new("demo", "1.10")
            .package(
                "lib",
                &[],
                "ln -s $BOSH_COMPILE_TARGET/x $BOSH_INSTALL_TARGET/link",
            )
            .package("app", &["lib"], "");
        place
            .run(&release)
            .succeeds()
            .says("Warning: package lib: what it installed refers to ");
    }
}

/// A program with this directory on its own file system, mounted noexec.
fn agent_with_noexec(world: &World, directory: &str) -> Agent {
    std::fs::create_dir_all(world.path(directory)).unwrap();
    let directory = world.path(directory).display().to_string();
    let script =
        format!("mount -t tmpfs -o noexec,size=64m,mode=755 tmpfs {directory} && exec \"$@\"");
    let words = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    Agent::wrapped(&world.path("printed"), &words)
}

/// A script that runs a program that it created.
const RUNS_ITS_OWN: &str = "set -e; printf '#!/bin/sh\\necho ran\\n' > tool; chmod +x tool; ./tool > $BOSH_INSTALL_TARGET/ran";

fn can_mount() -> bool {
    require_root() && require_tools(&["unshare"])
}

/// The names of those tiers that this machine has.
fn possible<const N: usize>(tiers: [Tier; N]) -> impl Iterator<Item = &'static str> {
    let possible = |tier: &Tier| can_mount() && tier.is_possible();
    tiers.into_iter().filter(possible).map(|tier| tier.name)
}

fn compile_in(world: &World, noexec: &str, isolation: &str, arguments: &[PathBuf]) -> Ran {
    let release = world.release("release.tgz", &ReleaseBuilder::of_script(RUNS_ITS_OWN));
    let agent = world.flags_with(agent_with_noexec(world, noexec), isolation);
    agent
        .arg("--output-directory")
        .arg(world.out())
        .args(arguments)
        .arg(release)
        .run()
}

fn warning(world: &World, directory: &str, option: &str) -> String {
    format!(
        "Warning: `{}` is on a file system that is mounted noexec: packaging scripts cannot run programs that they build there. \
         Choose another directory with {option}, or mount the file system with exec (docker: `--tmpfs PATH:exec`)",
        world.path(directory).display()
    )
}

#[test]
fn requested_noexec_work_directory_is_reported() {
    for isolation in possible([NAMESPACE, USERNS_OF_ROOT]) {
        let world = World::outside_tmp();
        let work = world.path("work");
        let hint = format!(
            "Hint: package app: `{}` is on a file system that is mounted noexec, so the packaging script cannot run programs that \
             it builds there. Choose another directory: with --work-dir or",
            work.display()
        );
        compile_in(&world, "work", isolation, &["--work-dir".into(), work])
            .fails()
            .says(&warning(&world, "work", "--work-dir"))
            .says(&hint);
    }
}

#[test]
fn noexec_data_directory_is_avoided_in_namespaces() {
    for isolation in possible([NAMESPACE, USERNS_OF_ROOT]) {
        let world = World::outside_tmp();
        compile_in(&world, "vcap/data", isolation, &[])
            .succeeds()
            .does_not_say("Warning");
    }
}

#[test]
fn noexec_output_directory_is_avoided_as_work_directory() {
    if !can_mount() {
        return;
    }
    let world = World::outside_tmp();
    // In memory, so that it is not the first choice.
    let base = world.path("vcap").display().to_string();
    let out = world.path("out").display().to_string();
    std::fs::create_dir_all(world.path("vcap")).unwrap();
    std::fs::create_dir_all(world.path("out")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=64m,mode=755 tmpfs {base} && mount -t tmpfs -o noexec,size=64m,mode=755 tmpfs {out} && exec \"$@\""
    );
    let words = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    let agent = Agent::wrapped(&world.path("printed"), &words);
    let release = world.release("release.tgz", &ReleaseBuilder::of_script(RUNS_ITS_OWN));
    let ran = world
        .flags_with(agent.without_report(), "namespace")
        .args(&["--output-directory", &out])
        .arg(release)
        .run();
    ran.succeeds().does_not_say("Warning");
}

#[test]
fn noexec_data_directory_is_reported_if_scripts_use_it() {
    for isolation in possible([LANDLOCK, NONE]) {
        let world = World::outside_tmp();
        compile_in(&world, "vcap/data", isolation, &[])
            .fails()
            .says(&warning(&world, "vcap/data", "--base-directory"))
            .says("is on a file system that is mounted noexec, so the packaging script cannot run programs that it builds there");
    }
}
