//! Directories in the environment, and resources that concurrent scripts share.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::support::{
    Agent, LANDLOCK, NAMESPACE, NONE, Place, Ran, ReleaseBuilder, Tier, USERNS_OF_A_USER,
    USERNS_OF_ROOT, in_tiers, run_tool,
};

in_tiers!(directories_named_by_variables_are_at_their_places: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(each_variable_can_name_a_directory_below_tmp: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(tools_in_path_and_files_below_tmp_can_be_used: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(links_below_tmp_have_their_targets_on_the_host: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(unnamed_files_below_tmp_stay_hidden: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(work_directory_in_a_named_directory_stays_hidden: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(shared_memory_is_private: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(conflict_with_another_script_is_explained: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER NONE);
in_tiers!(successful_second_run_after_a_conflict_mentions_jobs: LANDLOCK);
in_tiers!(failure_of_the_only_script_does_not_mention_jobs: NAMESPACE LANDLOCK NONE);

/// A directory below `parent` that all users may write to.
fn open_directory(parent: &str) -> tempfile::TempDir {
    let directory = tempfile::Builder::new()
        .prefix("bosh-agent-test-")
        .tempdir_in(parent)
        .unwrap();
    open(directory.path());
    directory
}

fn open(path: &Path) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
}

fn make(path: PathBuf) -> PathBuf {
    std::fs::create_dir(&path).unwrap();
    open(&path);
    path
}

fn with(agent: Agent, variables: &[(&str, &Path)]) -> Agent {
    variables.iter().fold(agent, |agent, (name, value)| {
        agent.env(name, value.to_str().unwrap())
    })
}

fn path_with(directory: &Path) -> PathBuf {
    let path = std::env::var("PATH").unwrap();
    PathBuf::from(format!("{}:{path}", directory.display()))
}

/// Binds a free TCP port, in Perl.
fn port() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    format!(
        "use IO::Socket::INET; \
         $s = IO::Socket::INET->new(Listen => 1, LocalAddr => q(127.0.0.1), LocalPort => {port}) or die qq($!\\n)"
    )
}

const ABSTRACT_SOCKET: &str = "use Socket; socket($s, PF_UNIX, SOCK_STREAM, 0) or die; \
                               bind($s, pack_sockaddr_un(qq(\\0$ENV{HOME}))) or die qq($!\\n)";

const FILE_IN_HOME: &str = "use Fcntl; sysopen($s, qq($ENV{HOME}/lock), O_CREAT|O_EXCL) or die qq($!\\n); END { unlink qq($ENV{HOME}/lock) if $s }";

/// Compiles two packages whose scripts use the same resource: the first keeps it until the second has failed to get it.
fn two_packages_with(tier: Tier, take: &str) -> Option<(Place, Ran)> {
    let place = Place::new(tier)?;
    let home = open_directory("/tmp");
    let first = format!(
        "perl -e '{take}; open(F, q(>), qq($ENV{{FACTS}}/taken)); close F; \
         until (-e qq($ENV{{FACTS}}/failed)) {{ select undef, undef, undef, 0.01 }}'"
    );
    let second = format!(
        "until [ -e $FACTS/taken ]; do sleep 0.01; done; \
         perl -e '{take}' || {{ echo > $FACTS/failed; exit 1; }}"
    );
    let release = place.release(
        &ReleaseBuilder::new("demo", "1.10")
            .package("first", &[], &first)
            .package("second", &[], &second),
    );
    let ran = place
        .agent()
        .args(&["--jobs", "2", "--grace", "1"])
        .env("HOME", home.path().to_str().unwrap())
        .arg(release)
        .run();
    Some((place, ran))
}

mod bodies {
    use super::*;

    pub(super) fn directories_named_by_variables_are_at_their_places(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let (tmp, var, shm) = (
            open_directory("/tmp"),
            open_directory("/var/tmp"),
            open_directory("/dev/shm"),
        );
        let home = make(tmp.path().join("home"));
        let cache = make(home.join("cache"));
        std::fs::write(cache.join("old"), "kept\n").unwrap();
        let release = place.release(&ReleaseBuilder::of_script(
            "set -e; cat $GOCACHE/old > $BOSH_INSTALL_TARGET/old; echo new > $GOCACHE/new; echo home > $HOME/file; \
             echo var > $CCACHE_DIR/file; echo shm > $SHARED/file; test -w /tmp; test -w /dev/shm",
        ));
        let agent = with(
            place.agent(),
            &[
                ("HOME", &home),
                ("GOCACHE", &cache),
                ("CCACHE_DIR", var.path()),
                ("SHARED", shm.path()),
            ],
        );
        agent.arg(release).run().succeeds().does_not_say("Warning");
        assert_eq!(place.file("app", "old"), "100644 kept\n");
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(cache.join("new")), "new\n");
        assert_eq!(read(home.join("file")), "home\n");
        assert_eq!(read(var.path().join("file")), "var\n");
        assert_eq!(read(shm.path().join("file")), "shm\n");
    }

    pub(super) fn each_variable_can_name_a_directory_below_tmp(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        for variable in ["TMPDIR", "GOCACHE", "CCACHE_DIR", "XDG_CACHE_HOME"] {
            let directory = open_directory("/tmp");
            std::fs::write(directory.path().join("old"), "kept\n").unwrap();
            let release = place.release(&ReleaseBuilder::of_script(&format!(
                "set -e; rm $(mktemp); ls ${variable} > $BOSH_INSTALL_TARGET/seen; echo new > ${variable}/new"
            )));
            with(place.agent(), &[(variable, directory.path())])
                .arg(release)
                .run()
                .succeeds()
                .does_not_say("Warning");
            // With Landlock, each script gets a TMPDIR of its own instead.
            let is_private = variable == "TMPDIR" && tier.name == "landlock";
            let (seen, left) = match is_private {
                true => ("", "old\n"),
                false => ("old\n", "new\nold\n"),
            };
            assert_eq!(place.file("app", "seen"), format!("100644 {seen}"));
            assert_eq!(run_tool("ls", &[directory.path()]), left, "{variable}");
        }
    }

    pub(super) fn tools_in_path_and_files_below_tmp_can_be_used(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let tmp = open_directory("/tmp");
        let bin = make(tmp.path().join("bin"));
        std::fs::write(bin.join("my-tool"), "#!/bin/sh\necho tool\n").unwrap();
        open(&bin.join("my-tool"));
        let bundle = tmp.path().join("ca.pem");
        std::fs::write(&bundle, "bundle\n").unwrap();
        let release = place.release(&ReleaseBuilder::of_script(
            "set -e; my-tool > $BOSH_INSTALL_TARGET/tool; cat $SSL_CERT_FILE > $BOSH_INSTALL_TARGET/cert",
        ));
        with(
            place.agent(),
            &[("PATH", &path_with(&bin)), ("SSL_CERT_FILE", &bundle)],
        )
        .arg(release)
        .run()
        .succeeds();
        assert_eq!(place.file("app", "tool"), "100644 tool\n");
        assert_eq!(place.file("app", "cert"), "100644 bundle\n");
    }

    pub(super) fn links_below_tmp_have_their_targets_on_the_host(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let tmp = open_directory("/tmp");
        let real = make(tmp.path().join("real"));
        symlink("real", tmp.path().join("link")).unwrap();
        let outside = place.world.path("facts");
        symlink(&outside, tmp.path().join("out")).unwrap();
        symlink(&real, outside.join("in")).unwrap();
        let release = place.release(&ReleaseBuilder::of_script(
            "set -e; echo a > $A/a; echo b > $B/b; echo c > $C/c",
        ));
        let agent = with(
            place.agent(),
            &[
                ("A", &tmp.path().join("link")),
                ("B", &tmp.path().join("out")),
                ("C", &outside.join("in")),
            ],
        );
        agent.arg(release).run().succeeds();
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(real.join("a")), "a\n");
        assert_eq!(read(outside.join("b")), "b\n");
        assert_eq!(read(real.join("c")), "c\n");
    }

    pub(super) fn unnamed_files_below_tmp_stay_hidden(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let (named, other) = (open_directory("/tmp"), open_directory("/tmp"));
        let release = place.release(&ReleaseBuilder::of_script(
            "set -e; ls -d $NAMED; test ! -e $FLAG_DIRECTORY; ls /tmp | wc -l > $BOSH_INSTALL_TARGET/count",
        ));
        let flag = other.path().to_str().unwrap().replace("/tmp/", "/tmp/./");
        // The directory of all temporary files, a flag and a list do not name one directory; the script gets the path from another
        // variable.
        let agent = with(
            place.agent(),
            &[("NAMED", named.path()), ("TMPDIR", Path::new("/tmp"))],
        );
        agent
            .env("CFLAGS", &format!("-I{flag}"))
            .env("FLAG_DIRECTORY", &format!(" {flag}"))
            .arg(release)
            .run()
            .succeeds();
        assert_eq!(place.file("app", "count"), "100644 1\n");
    }

    pub(super) fn work_directory_in_a_named_directory_stays_hidden(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let tmp = open_directory("/tmp");
        let release = place.release(
            &ReleaseBuilder::new("demo", "1.10")
                .package("other", &[], "echo secret > $BOSH_INSTALL_TARGET/secret")
                .package("lib", &["other"], "echo lib > $BOSH_INSTALL_TARGET/lib")
                .package(
                    "app",
                    &["lib"],
                    "set -e; cat @packages@/lib/lib > $HOME/seen; cp $HOME/seen $BOSH_INSTALL_TARGET/; \
                     ! find $HOME -name secret | grep .",
                ),
        );
        let work = make(tmp.path().join("work"));
        let agent = with(
            place.agent_as(tier.flag, &tmp.path().join("vcap")),
            &[("HOME", tmp.path()), ("WORK", &work)],
        );
        let agent = agent.arg("--work-dir").arg(&work);
        agent.arg(release).run().succeeds();
        assert_eq!(place.file("app", "seen"), "100644 lib\n");
        assert!(tmp.path().join("seen").exists());
        assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0);
    }

    pub(super) fn shared_memory_is_private(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let shm = open_directory("/dev/shm");
        let name = shm.path().file_name().unwrap().to_str().unwrap().to_owned();
        let script = "set -e; ls /dev/shm > $BOSH_INSTALL_TARGET/seen; echo x > /dev/shm/$NAME-x; \
                      stat -f -c %T /dev/shm > $BOSH_INSTALL_TARGET/kind";
        let release = place.release(&ReleaseBuilder::of_script(script));
        place
            .agent()
            .env("NAME", &name)
            .arg(release)
            .run()
            .succeeds();
        assert_eq!(place.file("app", "seen"), "100644 ");
        assert_eq!(place.file("app", "kind"), "100644 tmpfs\n");
        assert!(!Path::new(&format!("/dev/shm/{name}-x")).exists());
    }

    pub(super) fn conflict_with_another_script_is_explained(tier: Tier) {
        for (take, message) in [
            (port(), "Address already in use"),
            (ABSTRACT_SOCKET.to_owned(), "Address already in use"),
            (FILE_IN_HOME.to_owned(), "File exists"),
        ] {
            let Some((place, ran)) = two_packages_with(tier, &take) else {
                return;
            };
            ran.fails().says(&format!(
                "Hint: package second: `{message}`, while other packaging scripts ran, which share the network, abstract \
                 sockets and HOME. Try `--jobs 1`"
            ));
            drop(place);
        }
    }

    pub(super) fn successful_second_run_after_a_conflict_mentions_jobs(tier: Tier) {
        for take in [port(), ABSTRACT_SOCKET.to_owned(), FILE_IN_HOME.to_owned()] {
            let Some((place, ran)) = two_packages_with(tier, &take) else {
                return;
            };
            ran.succeeds()
                .says("Warning: second compiled only in its second run")
                .says(", while other packaging scripts ran, which share the network, abstract sockets and HOME. Try `--jobs 1`")
                .does_not_say("--isolation=namespace");
            drop(place);
        }
    }

    pub(super) fn failure_of_the_only_script_does_not_mention_jobs(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        place
            .run(&ReleaseBuilder::of_script(
                "echo 'Address already in use'; exit 3",
            ))
            .fails()
            .does_not_say("--jobs 1");
    }
}

#[test]
fn failure_during_other_scripts_mentions_jobs() {
    let Some(place) = Place::new(NAMESPACE) else {
        return;
    };
    let release = place.release(
        &ReleaseBuilder::new("demo", "1.10")
            .package("first", &[], "echo > $FACTS/started; sleep 100")
            .package(
                "second",
                &[],
                "until [ -e $FACTS/started ]; do sleep 0.01; done; exit 3",
            ),
    );
    place
        .agent()
        .args(&["--jobs", "2", "--grace", "1"])
        .arg(release)
        .run()
        .fails()
        .says(
            "Hint: package second: other packaging scripts ran at the same time. If it passes with `--jobs 1`, they conflict \
             with it",
        );
}
