//! Scripts that open files by inode (`open_by_handle_at`), whatever hides the paths of these files.

use std::path::Path;

use crate::promises::{HANDLES, whole_column};
use crate::support::{
    LANDLOCK, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USER, USERNS_OF_A_USER, USERNS_OF_ROOT,
    Who, require_tools, run_tool,
};

/// A file system in memory. It can open files by inode, and not every file system can.
struct InMemory<'a>(&'a Path);

impl<'a> InMemory<'a> {
    fn mount(at: &'a Path, who: Who) -> Self {
        std::fs::create_dir(at).unwrap();
        let user = if who == Who::User { USER } else { 0 };
        let options = format!("mode=755,uid={user},gid={user}");
        let words = ["-t", "tmpfs", "-o", &options, "none"].map(str::as_ref);
        let words = words.into_iter().chain([at.as_os_str()]);
        run_tool("mount", &words.collect::<Vec<_>>());
        Self(at)
    }
}

impl Drop for InMemory<'_> {
    fn drop(&mut self) {
        run_tool("umount", &["-l".as_ref(), self.0.as_os_str()]);
    }
}

/// The numbers of `name_to_handle_at` and `open_by_handle_at`.
const CALLS: &str = "my ($name, $open) = `uname -m` =~ /x86_64/ ? (303, 304) : (264, 265); ";

/// The handle of a directory, in hex.
fn handle_of(directory: &Path) -> String {
    let program = format!(
        "{CALLS} my $handle = pack('Ii', 128, 0) . (\"\\0\" x 128); my $mount = pack('i', 0); \
         syscall($name, -100, $ARGV[0], $handle, $mount, 0) == 0 or die $!; \
         print unpack('H*', substr($handle, 0, 8 + unpack('I', $handle)));"
    );
    let words = ["-e".as_ref(), program.as_ref(), directory.as_os_str()];
    run_tool("perl", &words)
}

/// Opens the directory through each mount of its file system, and searches it for the file of another package. Only ways down work: the
/// kernel refuses `..` outside of the mount, which `grep -r` uses.
const ATTACK: &str = "sub look { my $at = shift; opendir(my $list, $at) or return 0; for my $name (grep { !/^\\.\\.?$/ } readdir $list) { \
    my $path = qq{$at/$name}; next if -l $path; if (-d $path) { return 1 if look($path) } \
    elsif (-f $path && open(my $file, '<', $path)) { return 1 if grep { /^the text of other/ } <$file> } } return 0 } \
    my $handle = pack('H*', $ENV{HANDLE}); for my $mount ('/', $ENV{BOSH_INSTALL_TARGET}, $ENV{BOSH_COMPILE_TARGET}) { \
    sysopen(my $at, $mount, 0) or next; my $found = syscall($open, fileno($at), $handle, 0); next if $found < 0; \
    print 'succeeds' and exit if look(qq{/proc/self/fd/$found}); } print 'fails';";

/// Compiles in a tier, and checks whether a script has read an undeclared package as the column of SECURITY.md says.
fn assert_as_promised(tier: Tier, flags: &[&str], name: &str) {
    if !require_tools(&["perl", "mount"]) {
        return;
    }
    let Some(place) = Place::new(tier) else {
        return;
    };
    let memory = place.world.path("memory");
    let mounted = InMemory::mount(&memory, tier.who);
    let attack = format!("{CALLS}{ATTACK}").replace('\'', "'\\''");
    let attack = format!("perl -e '{attack}' > $BOSH_INSTALL_TARGET/end");
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "other",
            &[],
            "echo 'the text of other' > $BOSH_INSTALL_TARGET/file",
        )
        .package("early", &["other"], "true")
        .package("app", &["early"], &attack)
        .package("late", &["app", "other"], "true");
    let tarball = place.release(&release);
    let agent = place.agent_as(tier.flag, &memory.join("vcap"));
    let agent = agent.arg("--work-dir").arg(memory.join("work"));
    let agent = agent.env("HANDLE", &handle_of(&memory)).args(flags);
    agent
        .arg(tarball)
        .run()
        .succeeds()
        .says(&format!("Isolation: {}", tier.name));
    let end = place.file("app", "end");
    drop(mounted);
    let promised = if whole_column(name)[HANDLES] {
        "fails"
    } else {
        "succeeds"
    };
    assert_eq!(end, format!("100644 {promised}"));
}

#[test]
fn root_in_namespaces_can_open_files_by_inode() {
    assert_as_promised(NAMESPACE, &[], "`namespace`");
}

#[test]
fn protected_host_prevents_opening_files_by_inode() {
    assert_as_promised(NAMESPACE, &["--protect-host"], "`namespace --protect-host`");
}

#[test]
fn user_namespaces_prevent_opening_files_by_inode() {
    assert_as_promised(USERNS_OF_ROOT, &[], "`userns`");
    assert_as_promised(USERNS_OF_A_USER, &[], "`userns`");
}

#[test]
fn landlock_prevents_opening_files_by_inode() {
    assert_as_promised(LANDLOCK, &["--second-run", "never"], "`landlock`");
}

#[test]
fn unrestricted_scripts_can_open_files_by_inode() {
    assert_as_promised(NONE, &[], "`none`");
}
