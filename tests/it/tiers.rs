//! The same behavior in every isolation tier: each test runs in all tiers of this machine, as root and, where stated, as an ordinary user.

mod users;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::support::{
    Agent, LANDLOCK, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USER, USERNS_OF_A_USER,
    USERNS_OF_ROOT, Who, in_tiers, limit_of_open_files, mode_of, processes_below,
    require_landlock_scopes, run_tool, snapshot,
};
use nix::sys::signal::Signal;

in_tiers!(only_declared_packages_can_be_read: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(only_declared_packages_are_listed: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER NONE);
in_tiers!(write_into_a_dependency_is_private: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(files_can_be_moved_and_linked_into_the_install_target: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(owners_set_by_the_script_are_kept: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(processes_of_a_script_end_with_it: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(signals_reach_other_processes_only_without_isolation: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(abstract_sockets_of_others_are_closed_under_landlock: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(stop_leaves_no_files: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(next_run_removes_leftovers_of_a_killed_one: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(scripts_have_the_requested_niceness: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(network_none_leaves_only_the_loopback_device: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

in_tiers!(secrets_of_the_agent_cannot_be_read: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK);
in_tiers!(scripts_keep_the_limit_of_open_files: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(umask_of_zero_opens_nothing_to_others: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

/// A place in which Landlock, if it is the tier, supports scopes for signals and sockets.
fn place_with_scopes(tier: Tier) -> Option<Place> {
    (tier.name != "landlock" || require_landlock_scopes())
        .then(|| Place::new(tier))
        .flatten()
}

mod bodies {
    use super::*;

    pub(super) fn secrets_of_the_agent_cannot_be_read(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let bosh = place.world.base().join("bosh");
        let secrets = [
            "agent.json",
            "etc/blobstore-dav.json",
            "settings.json",
            "settings/settings.json",
            "tasks.json",
            "update_settings.json",
            "warden-cpi-agent-env.json",
        ];
        for (path, content) in secrets.map(|path| (path, "hunter2")).into_iter().chain([
            ("etc/stemcell_version", "1.406"),
            ("bin/tool", "echo works"),
        ]) {
            let path = bosh.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            // Readable for all users: only the sandbox hides them from the script.
            std::fs::write(&path, content).unwrap();
        }
        let bosh = bosh.display();
        let script = format!(
            "cd {bosh} || exit 1\n\
             for file in {}; do if [ -n \"$(cat $file)\" ]; then exit 2; fi; done\n\
             if grep -rs hunter2 .; then exit 3; fi\n\
             cat etc/stemcell_version > $BOSH_INSTALL_TARGET/version || exit 4\n\
             sh bin/tool > $BOSH_INSTALL_TARGET/printed || exit 5\n",
            secrets.join(" "),
        );
        let tarball = place.release(&ReleaseBuilder::of_script(&script));
        // A second run under Landlock has no restrictions.
        place
            .agent()
            .args(&["--second-run", "never"])
            .arg(tarball)
            .run()
            .succeeds()
            .says(&format!("Isolation: {}", tier.name));
        assert_eq!(place.file("app", "version"), "100644 1.406");
        assert_eq!(place.file("app", "printed"), "100644 works\n");
    }

    pub(super) fn scripts_keep_the_limit_of_open_files(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let program = "prlimit --nofile=500:2000";
        let script = "echo $(ulimit -Sn) $(ulimit -Hn) > $BOSH_INSTALL_TARGET/limits\n\
                      touch $FACTS/started; until [ -e $FACTS/go ]; do sleep 0.1; done";
        let running = place.start_of(place.agent_through(program), script);
        assert_eq!(limit_of_open_files(running.pid()), ["2000", "2000"]);
        std::fs::write(place.world.path("facts/go"), "").unwrap();
        running.end().succeeds();
        assert_eq!(place.file("app", "limits"), "100644 500 2000\n");
    }

    pub(super) fn umask_of_zero_opens_nothing_to_others(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let program = "sh -c 'umask 0; exec \"$@\"' sh";
        let works = place.world.path("work");
        std::fs::create_dir(&works).unwrap();
        std::fs::set_permissions(&works, std::fs::Permissions::from_mode(0o1777)).unwrap();
        let agent = place.agent_through(program).arg("--work-dir").arg(&works);
        let running = place.start_of(agent, "umask > $BOSH_INSTALL_TARGET/umask\ntouch $FACTS/started\nuntil [ -e $FACTS/go ]; do sleep 0.1; done");
        let work: Vec<_> = std::fs::read_dir(&works).unwrap().flatten().collect();
        assert!(!work.is_empty());
        for directory in &work {
            assert_eq!(mode_of(&directory.path()) & 0o077, 0, "{directory:?}");
        }
        std::fs::write(place.world.path("facts/go"), "").unwrap();
        running.end().succeeds();
        assert_eq!(place.file("app", "umask"), "100644 0022\n");
        let open = run_tool(
            "find",
            &[
                place.world.path("logs").as_os_str(),
                "-perm".as_ref(),
                "/022".as_ref(),
                "-not".as_ref(),
                "-type".as_ref(),
                "l".as_ref(),
            ],
        );
        assert_eq!(open, "");
    }

    pub(super) fn only_declared_packages_can_be_read(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let ran = place.run(&release_of(
            "if cat @packages@/other/file; then exit 1; fi; cp @packages@/lib/file $BOSH_INSTALL_TARGET/",
        ));
        ran.succeeds().says(&format!("Isolation: {}", tier.name));
        assert_eq!(place.file("app", "file"), "100644 lib\n");
    }

    pub(super) fn only_declared_packages_are_listed(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        place
            .run(&release_of(
                "ls @packages@ > $BOSH_INSTALL_TARGET/seen; ls @base@/data/packages >> $BOSH_INSTALL_TARGET/seen",
            ))
            .succeeds();
        assert_eq!(place.file("app", "seen"), "100644 app\nlib\napp\nlib\n");
    }

    pub(super) fn write_into_a_dependency_is_private(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let change = "set -e; echo changed > @packages@/lib/file; mkdir @packages@/lib/new; rm -r @packages@/lib/dir; \
                      mkdir @packages@/lib/dir; ls @packages@/lib/dir > $BOSH_INSTALL_TARGET/empty; \
                      cp @packages@/lib/file $BOSH_INSTALL_TARGET/";
        let look = "set -e; cp -R @packages@/lib/. $BOSH_INSTALL_TARGET/";
        let release = ReleaseBuilder::new("demo", "1.10")
            .package(
                "lib",
                &[],
                "cd $BOSH_INSTALL_TARGET; echo lib > file; mkdir dir; echo kept > dir/file",
            )
            .package("first", &["lib"], change)
            .package("second", &["first", "lib"], look);
        place.run(&release).succeeds();
        assert_eq!(place.file("first", "file"), "100644 changed\n");
        assert_eq!(place.file("first", "empty"), "100644 ");
        assert_eq!(place.file("second", "file"), "100644 lib\n");
        assert_eq!(place.file("second", "dir/file"), "100644 kept\n");
    }

    pub(super) fn files_can_be_moved_and_linked_into_the_install_target(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        place
            .run(&ReleaseBuilder::of_script(
                "set -e; mkdir a; echo a > a/file; ln a/file $BOSH_INSTALL_TARGET/linked; \
                 perl -e 'rename($ARGV[0], $ARGV[1]) or die $!' a $BOSH_INSTALL_TARGET/moved",
            ))
            .succeeds()
            .does_not_say("Warning");
        assert_eq!(place.file("app", "linked"), "100644 a\n");
        assert_eq!(place.file("app", "moved/file"), "100644 a\n");
    }

    pub(super) fn owners_set_by_the_script_are_kept(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        place
            .run(&ReleaseBuilder::of_script(
                "set -e; cd $BOSH_INSTALL_TARGET; echo > root; mkdir secret; echo > secret/user; \
                 chown 1234:5678 secret/user; chmod 4711 secret/user; chown 1234 secret; chmod 700 secret; id -u > id",
            ))
            .succeeds();
        assert_eq!(place.file("app", "id"), "100644 0\n");
        let entries = place.entries("app");
        let entry = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
        assert_eq!(entry("./").owner, "0/1000");
        assert_eq!(entry("./").names, "root/vcap");
        assert_eq!(entry("./root").names, "root/root");
        assert_eq!(entry("./secret/").owner, "1234/0");
        assert_eq!(entry("./secret/user").owner, "1234/5678");
        assert_eq!(entry("./secret/user").mode, "-rws--x--x");
    }

    pub(super) fn processes_of_a_script_end_with_it(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        place
            .run(&ReleaseBuilder::of_script(
                "for n in 1 2 3; do setsid bash -c \"trap '' TERM HUP; while :; do echo > $FACTS/alive-$n; sleep 0.01; done\" & done; \
                 while [ $(ls $FACTS | grep -c alive) -lt 3 ]; do sleep 0.01; done",
            ))
            .succeeds()
            .says("left ");
        assert_eq!(processes_below(&place.world.path("")), [""; 0]);
    }

    pub(super) fn signals_reach_other_processes_only_without_isolation(tier: Tier) {
        let Some(place) = place_with_scopes(tier) else {
            return;
        };
        let script = format!(
            "set -e; sleep 1000 & kill -TERM $!; kill -0 $$; cd $BOSH_INSTALL_TARGET; \
             if kill -0 {} 2>/dev/null; then echo reached > seen; else echo nothing > seen; fi",
            std::process::id()
        );
        let ran = place.run(&ReleaseBuilder::of_script(&script));
        ran.succeeds().does_not_say("Warning");
        let seen = match tier.name {
            "none" => "100644 reached\n",
            _ => "100644 nothing\n",
        };
        assert_eq!(place.file("app", "seen"), seen);
    }

    pub(super) fn abstract_sockets_of_others_are_closed_under_landlock(tier: Tier) {
        let Some(place) = place_with_scopes(tier) else {
            return;
        };
        let name = place.world.path("socket").display().to_string();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let connect = |name: &str| {
            format!(
                "perl -MSocket -e 'socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die; \
                 connect($s, sockaddr_un(\"\\0{name}\")) or exit 1'"
            )
        };
        let own = "perl -MSocket -e 'socket(my $l, PF_UNIX, SOCK_STREAM, 0) or die; my $a = sockaddr_un(\"\\0own $$\"); \
                   bind($l, $a) && listen($l, 1) or die; if (!fork) { socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die; \
                   connect($s, $a) or die; exit } wait; exit $? >> 8'";
        let script = format!(
            "set -e; {own}; cd $BOSH_INSTALL_TARGET; if {}; then echo reached > seen; else echo nothing > seen; fi",
            connect(&name)
        );
        let ran = place.run(&ReleaseBuilder::of_script(&script));
        ran.succeeds().does_not_say("Warning");
        let seen = match tier.name {
            "landlock" => "100644 nothing\n",
            _ => "100644 reached\n",
        };
        assert_eq!(place.file("app", "seen"), seen);
    }

    pub(super) fn stop_leaves_no_files(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let running = place.start("trap '' TERM; touch $FACTS/started; sleep 1000; sleep 1000");
        running.signal(Signal::SIGTERM);
        running.end().ends_with(143);
        assert_eq!(processes_below(&place.world.path("")), [""; 0]);
        let left: Vec<String> = snapshot(&place.world.path("")).into_keys().collect();
        assert!(!left.iter().any(|path| path.contains("data")), "{left:?}");
        assert!(
            !left.iter().any(|path| path.contains(".bosh-agent-")),
            "{left:?}"
        );
    }

    pub(super) fn next_run_removes_leftovers_of_a_killed_one(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        // An ordinary user could not remove files of another owner outside of its namespace.
        let running = place.start(
            "trap '' TERM; mkdir d; echo > d/file; chown -R 1234 d; chmod 700 d; touch $FACTS/started; sleep 1000; sleep 1000",
        );
        running.signal(Signal::SIGKILL);
        running.end();
        place.run(&ReleaseBuilder::demo()).succeeds();
        assert_eq!(processes_below(&place.world.path("")), [""; 0]);
        let left: Vec<String> = snapshot(&place.world.path("")).into_keys().collect();
        // Empty directories that the killed run created may stay.
        let ours = |path: &String| {
            [".bosh-agent-", "data/compile/", "data/packages/"]
                .iter()
                .any(|part| path.contains(part))
        };
        assert!(!left.iter().any(ours), "{left:?}");
    }

    pub(super) fn scripts_have_the_requested_niceness(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let tarball = place.release(&ReleaseBuilder::of_script(
            "nice > $BOSH_INSTALL_TARGET/nice",
        ));
        let own = nix_nice();
        place
            .agent()
            .args(&["--nice", "7"])
            .arg(tarball)
            .run()
            .succeeds();
        assert_eq!(place.file("app", "nice"), format!("100644 {}\n", own + 7));
    }

    pub(super) fn network_none_leaves_only_the_loopback_device(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let tarball = place.release(&ReleaseBuilder::of_script(
            "set -e; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | tr '\\n' ' ' > $BOSH_INSTALL_TARGET/interfaces; \
             perl -MIO::Socket -e '$s = IO::Socket::INET->new(Listen => 1, LocalAddr => \"127.0.0.1\") or die; \
               IO::Socket::INET->new(PeerAddr => \"127.0.0.1\", PeerPort => $s->sockport) or die'; \
             if perl -MIO::Socket -e 'IO::Socket::INET->new(Proto => \"udp\", PeerAddr => \"192.0.2.1:53\") or die'; then exit 1; fi",
        ));
        let ran = place.agent().arg("--network=none").arg(tarball).run();
        if tier.has_mounts() {
            ran.succeeds();
            let seen = place.file("app", "interfaces");
            assert!(
                seen.starts_with("100644 lo") || seen.contains(" lo "),
                "{seen}"
            );
            assert!(!seen.contains("eth") && !seen.contains("en"), "{seen}");
        } else {
            ran.blames_the_machine()
                .says("--network=none requires namespaces");
        }
    }
}

/// `lib` and `other`, with the dependents `app` (with this script) and `late`.
fn release_of(app: &str) -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
        .package("other", &[], "echo other > $BOSH_INSTALL_TARGET/file")
        .package("early", &["other"], "cat @packages@/other/file")
        .package("app", &["lib"], app)
        .package(
            "late",
            &["early", "other", "app"],
            "cat @packages@/other/file",
        )
}

fn nix_nice() -> i32 {
    run_tool("nice", &[] as &[&str]).trim().parse().unwrap()
}
