//! Attacks of a malicious script, one for each row of the table in SECURITY.md, and the host that they target.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Command;

use super::tiers::{USER, Who};
use super::tools::run_tool;
use super::world::World;

/// A row of the table, and commands that succeed without protection. For commands that change or delete something, [`Site::succeeded`]
/// checks the result.
///
/// `@host@` is a directory of the host to which the user may write, `@base@` the base directory, `@out@` the output directory, `@tmp@` a
/// directory in /tmp, `@key@` a key of System V IPC that nothing uses. Outside the sandbox are a process `@pid@` in the control groups `@cgroup@`, its shared memory `@shm@`, and its port
/// `@port@`.
pub(crate) const ATTACKS: [(&str, &str); 21] = [
    ("read-undeclared", FIND),
    (
        "change-undeclared",
        "for file in $(grep -rls 'the text of[ ]other' @base@ @out@); do echo changed >> $file; done",
    ),
    (
        "change-dependency",
        "echo changed > @base@/packages/lib/file",
    ),
    (
        "touch-dependency",
        "chmod 666 @base@/packages/lib/tool; touch -d 2001-01-01 @base@/packages/lib/tool",
    ),
    (
        "agent-processes",
        "other=$(mktemp -d); mount -t proc proc $other; found=1; \
         for process in /proc/[0-9]* $other/[0-9]*; do \
           if grep -rqs 'the text of[ ]other' $process/root@base@ $process/root@out@ || \
             nsenter --mount=$process/ns/mnt grep -rqs 'the text of[ ]other' @base@ @out@; then found=0; break; fi; done; \
         umount $other; rmdir $other; exit $found",
    ),
    ("read-secrets", "grep -qs hunter2 @base@/bosh/settings.json"),
    ("read-host", "grep -q 'of the host' @host@/file"),
    (
        "write-host",
        "echo changed > @host@/new || { mount -o remount,bind,rw / && echo changed > @host@/new; } || \
         { for root in /proc/[0-9]*/root; do if echo changed > $root@host@/new; then exit 0; fi; done; false; }",
    ),
    (
        "delete-host",
        "mkdir m; mount --bind @host@/dir m; ln -s @host@/dir link; ln -s @host@/dir $BOSH_INSTALL_TARGET/link",
    ),
    ("temporary-files", "grep -qs 'of another' @tmp@/file"),
    ("signals", "kill -0 @pid@"),
    ("abstract-sockets", "connect \"\\0@host@/abstract\""),
    ("path-sockets", "connect \"@host@/socket\""),
    ("network", "exec 3<>/dev/tcp/127.0.0.1/@port@"),
    ("devices", "mknod null c 1 3 && echo > null"),
    (
        "kernel-settings",
        "setting=/proc/sys/vm/overcommit_ratio; value=$(cat $setting) && echo $value > $setting",
    ),
    (
        "system-v-ipc",
        "perl -e 'shmread(@shm@, my $text, 0, 4) or exit 1'",
    ),
    (
        "left-ipc",
        "perl -e 'my $open = `uname -m` =~ /x86_64/ ? 240 : 180; my $name = qq{bosh-agent-@key@}; \
           shmget(@key@, 16, 01600); msgget(@key@, 01600); semget(@key@, 1, 01600); syscall($open, $name, 0102, 0600, 0)'",
    ),
    (
        "descriptors",
        "for file in /proc/self/fd/*; do if [ -f $file ] && grep -qs 'open in the[ ]agent of @host@' $file; then exit 0; fi; done; false",
    ),
    (
        "exhaustion",
        "[ $(ulimit -v) = unlimited ] && [ $(ulimit -f) = unlimited ] && [ \"$(cat /proc/self/cgroup)\" = '@cgroup@' ]",
    ),
    // The last attack, as it removes everything.
    (
        "unmount",
        "tac /proc/self/mountinfo | cut -d ' ' -f 5 | grep -e '^@base@' -e '^@out@' | while read -r at; do umount -l $at; done; \
         grep -rqs 'the text of[ ]other' @base@ @out@",
    ),
];

/// Searches the agent's directories for another package's file.
const FIND: &str = "grep -rqs 'the text of[ ]other' @base@ @out@";

/// Records what the packages before and after the attacks can see of other packages.
const LOOK: &str = "{ cksum < @base@/packages/lib/file; cksum < @base@/packages/other/file; stat -c '%a %Y' @base@/packages/lib/tool; } \
                    > $BOSH_INSTALL_TARGET/seen";

/// The packages: name, direct dependencies, script.
pub(crate) fn packages(
    site: &Site,
    attacks: &str,
) -> Vec<(&'static str, Vec<&'static str>, String)> {
    let script = |script: &str| site.filled(script);
    vec![
        (
            "lib",
            vec![],
            script("cd $BOSH_INSTALL_TARGET; echo the text of lib > file; echo > tool"),
        ),
        (
            "other",
            vec![],
            script("echo 'the text of other' > $BOSH_INSTALL_TARGET/file"),
        ),
        ("early", vec!["lib", "other"], script(LOOK)),
        ("app", vec!["lib", "early"], script(attacks)),
        ("late", vec!["lib", "other", "app"], script(LOOK)),
    ]
}

/// Tries every attack and records which succeeded.
pub(crate) fn attacks() -> String {
    let mut script = String::from(
        "set +x; connect() { perl -MSocket -e 'socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die; connect($s, sockaddr_un(eval \"qq{$ARGV[0]}\")) or exit 1' \"$1\"; }\n\
         try() { if ( eval \"$2\" ); then echo $1 succeeds; else echo $1 fails; fi >> $BOSH_INSTALL_TARGET/facts; }\n",
    );
    for (row, commands) in ATTACKS {
        let quoted = commands.replace('\'', "'\\''");
        writeln!(script, "try {row} '{quoted}'").unwrap();
    }
    script
}

/// The host of a compile, with the targets of the attacks.
pub(crate) struct Site {
    world: World,
    _abstract: UnixListener,
    _path: UnixListener,
    network: TcpListener,
    temporary: tempfile::TempDir,
    /// Inherited by all child processes of this process.
    _descriptor: OwnedFd,
    shared_memory: String,
    /// Of System V IPC.
    key: u32,
}

impl Site {
    pub(crate) fn new(world: &World, who: Who) -> Self {
        let host = world.path("host");
        std::fs::create_dir_all(host.join("dir")).unwrap();
        for (path, text) in [
            ("host/file", "of the host".to_owned()),
            ("host/dir/file", "kept".to_owned()),
            (
                "descriptor",
                format!("open in the agent of {}", host.display()),
            ),
            ("vcap/bosh/settings.json", "hunter2".to_owned()),
        ] {
            world.write(path, text);
        }
        if who == Who::User {
            let owner = format!("{USER}:{USER}");
            let paths = [host.clone(), world.base()];
            let arguments: Vec<&std::ffi::OsStr> = ["-R".as_ref(), owner.as_ref()]
                .into_iter()
                .chain(paths.iter().map(|path| path.as_os_str()))
                .collect();
            run_tool("chown", &arguments);
        }
        let path = host.join("socket");
        let path_socket = UnixListener::bind(&path).unwrap();
        run_tool("chmod", &["666".as_ref(), path.as_os_str()]);
        let name = host.join("abstract").display().to_string();
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let file = std::fs::File::open(world.path("descriptor")).unwrap();
        let temporary = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::write(temporary.path().join("file"), "of another").unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(temporary.path(), mode).unwrap();
        let made = run_tool("ipcmk", &["-M", "16", "-p", "0666"]);
        Self {
            world: world.clone(),
            _abstract: UnixListener::bind_addr(&address).unwrap(),
            _path: path_socket,
            network: TcpListener::bind(("127.0.0.1", 0)).unwrap(),
            temporary,
            _descriptor: nix::unistd::dup(&file).unwrap(),
            shared_memory: made.split_whitespace().last().unwrap().to_owned(),
            key: 0x0b00_0000 + std::process::id(),
        }
    }

    /// Whether objects of all kinds of IPC with the key are on the machine. Removes them. Panics if there are only some of them.
    fn has_left_ipc(&self) -> bool {
        let key = self.key.to_string();
        let is_listed = |kind: &&str| {
            let listed = std::fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap();
            let mut keys = listed.lines().map(|line| line.split_whitespace().next());
            keys.any(|found| found == Some(key.as_str()))
        };
        let left = ["shm", "sem", "msg"].into_iter().filter(is_listed).count();
        for kind in ["-M", "-S", "-Q"] {
            let _ = Command::new("ipcrm").args([kind, &key]).output();
        }
        let unlink = format!(
            "my $unlink = `uname -m` =~ /x86_64/ ? 241 : 181; my $name = qq{{bosh-agent-{key}}}; print syscall($unlink, $name)"
        );
        let is_queue_left = run_tool("perl", &["-e", &unlink]) == "0";
        match (left, is_queue_left) {
            (3, true) => true,
            (0, false) => false,
            _ => panic!("{left} of 3 System V objects are left, POSIX queue: {is_queue_left}"),
        }
    }

    fn filled(&self, script: &str) -> String {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let port = self.network.local_addr().unwrap().port();
        let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        script
            .replace("@host@", &path(&self.world.path("host")))
            .replace("@base@", &path(&self.world.base()))
            .replace("@out@", &path(&self.world.out()))
            .replace("@tmp@", &path(self.temporary.path()))
            .replace("@pid@", &std::process::id().to_string())
            .replace("@port@", &port.to_string())
            .replace("@shm@", &self.shared_memory)
            .replace("@key@", &self.key.to_string())
            .replace("@cgroup@", cgroup.trim_end())
    }

    /// The attacks that succeeded, from the installed files of the packages.
    pub(crate) fn succeeded(&self, file: impl Fn(&str, &str) -> String) -> BTreeMap<String, bool> {
        let facts = file("app", "facts");
        let mut found: BTreeMap<String, bool> = facts
            .lines()
            .map(|line| {
                let (row, end) = line.split_once(' ').unwrap();
                (row.to_owned(), end == "succeeds")
            })
            .collect();
        let [before, after] = ["early", "late"].map(|package| {
            let seen = file(package, "seen");
            let lines = seen.lines().map(str::to_owned);
            <[String; 3]>::try_from(lines.collect::<Vec<_>>()).unwrap()
        });
        let changed = ["change-dependency", "change-undeclared", "touch-dependency"];
        for (row, (before, after)) in changed.iter().zip(before.iter().zip(&after)) {
            found.insert((*row).to_owned(), before != after);
        }
        let kept = self.world.path("host/dir/file").exists();
        found.insert("delete-host".to_owned(), !kept);
        found.insert("left-ipc".to_owned(), self.has_left_ipc());
        found
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        run_tool("ipcrm", &["-m", &self.shared_memory]);
    }
}
