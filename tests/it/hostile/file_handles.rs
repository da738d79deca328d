//! Scripts that open files by inode (`open_by_handle_at`), whatever hides the paths of these files.

use std::path::{Path, PathBuf};

use bosh_agent::sandbox::Isolation;
use serde_json::{Value, json};

use crate::promises::{HANDLES, whole_column};
use crate::support::{
    LANDLOCK, LANDLOCK_OF_A_USER, NAMESPACE, NONE, NONE_OF_A_USER, Place, Play, ReleaseBuilder,
    Tier, USER, USERNS_OF_A_USER, USERNS_OF_ROOT, Who, World, require_tools, run_tool,
};

/// A file system in memory. It can open files by inode, and not every file system can.
pub(super) struct InMemory(PathBuf);

impl InMemory {
    pub(super) fn mount(at: &Path, who: Who) -> Self {
        std::fs::create_dir(at).unwrap();
        let user = if who == Who::User { USER } else { 0 };
        let options = format!("mode=755,uid={user},gid={user}");
        let words = ["-t", "tmpfs", "-o", &options, "none"].map(str::as_ref);
        let words = words.into_iter().chain([at.as_os_str()]);
        run_tool("mount", &words.collect::<Vec<_>>());
        Self(at.to_owned())
    }
}

impl Drop for InMemory {
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
    my $handle = pack('H*', '@handle@'); for my $mount ('/', $ENV{BOSH_INSTALL_TARGET}, $ENV{BOSH_COMPILE_TARGET}) { \
    sysopen(my $at, $mount, 0) or next; my $found = syscall($open, fileno($at), $handle, 0); next if $found < 0; \
    print 'succeeds' and exit if look(qq{/proc/self/fd/$found}); } print 'fails';";

/// Commands that fail once, and then find the file that they have created: under Landlock, only the second run is unrestricted.
fn fail_once(fact: &Path) -> String {
    let fact = fact.display();
    format!("[ -e {fact} ] || {{ touch {fact}; exit 1; }}; ")
}

/// The script that attacks, with the handle of the directory that has everything.
fn attack(directory: &Path) -> String {
    let attack = format!("{CALLS}{ATTACK}").replace("@handle@", &handle_of(directory));
    let attack = attack.replace('\'', "'\\''");
    format!("perl -e '{attack}' > $BOSH_INSTALL_TARGET/end")
}

/// What the attack prints, according to a column of SECURITY.md.
fn promised(column: &str) -> &'static str {
    match whole_column(column)[HANDLES] {
        true => "fails",
        false => "succeeds",
    }
}

const OTHER: &str = "echo 'the text of other' > $BOSH_INSTALL_TARGET/file";

/// Compiles in a tier, and checks whether a script has read an undeclared package as the column of SECURITY.md says.
#[track_caller]
fn assert_as_promised(tier: Tier, flags: &[&str], column: &str) {
    assert_succeeds_or_fails(tier, flags, promised(column));
}

#[track_caller]
fn assert_succeeds_or_fails(tier: Tier, flags: &[&str], expected: &str) {
    if !require_tools(&["perl", "mount"]) {
        return;
    }
    let Some(place) = Place::new(tier) else {
        return;
    };
    let memory = place.world.path("memory");
    let mounted = InMemory::mount(&memory, tier.who);
    let before = match flags {
        ["--second-run", "always"] => fail_once(&place.world.path("facts/first")),
        _ => String::new(),
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("other", &[], OTHER)
        .package("early", &["other"], "true")
        .package("app", &["early"], &(before + &attack(&memory)))
        .package("late", &["app", "other"], "true");
    let tarball = place.release(&release);
    let agent = place.agent_as(tier.flag, &memory.join("vcap"));
    let agent = agent.arg("--work-dir").arg(memory.join("work"));
    agent
        .args(flags)
        .arg(tarball)
        .run()
        .succeeds()
        .says(&format!("Isolation: {}", tier.name));
    let end = place.file("app", "end");
    drop(mounted);
    assert_eq!(end, format!("100644 {expected}"));
}

#[test]
fn root_in_namespaces_can_open_files_by_inode() {
    assert_as_promised(NAMESPACE, &[], "`namespace`");
}

#[test]
fn protected_host_prevents_opening_files_by_inode() {
    let flags = ["--protect-host"];
    assert_as_promised(NAMESPACE, &flags, "`namespace --protect-host`");
    for tier in [USERNS_OF_ROOT, USERNS_OF_A_USER] {
        assert_as_promised(tier, &flags, "`userns`");
    }
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
    let flags = ["--second-run", "always"];
    assert_as_promised(LANDLOCK, &flags, "second run of `landlock`");
}

#[test]
fn ordinary_users_cannot_open_files_by_inode() {
    // Without isolation, they find them by path.
    assert_succeeds_or_fails(LANDLOCK_OF_A_USER, &["--second-run", "always"], "fails");
    assert_succeeds_or_fails(NONE_OF_A_USER, &[], "fails");
}

/// Requests to a daemon compile a package, and then one with the attack.
async fn assert_daemon(isolation: Isolation, column: &str) {
    if !require_tools(&["perl", "mount"]) {
        return;
    }
    let mount = |world: &World| Some(InMemory::mount(&world.base(), Who::Root));
    let Some((play, mounted)) = Play::isolated_after(isolation, mount) else {
        return;
    };
    let before = match isolation {
        Isolation::Landlock => fail_once(&play.world.path("facts/first")),
        _ => String::new(),
    };
    let base = play.world.base();
    let mut result = Value::Null;
    for (name, script) in [
        ("other", OTHER.to_owned()),
        ("app", before + &attack(&base)),
    ] {
        let task = play.order(&play.source(name, &script, json!({}))).await;
        result = play.end(&task).await["value"]["result"].clone();
        assert!(result["sha1"].is_string(), "{name}: {result}");
    }
    let blob = result["blobstore_id"].as_str().unwrap();
    let blob = play.world.path("store").join(blob);
    let words = ["-xOf".as_ref(), blob.as_os_str(), "./end".as_ref()];
    assert_eq!(run_tool("tar", &words), promised(column));
    assert!(play.stop().await);
    drop(mounted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_with_namespaces_lets_root_open_files_by_inode() {
    assert_daemon(Isolation::Namespace, "`namespace`").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_with_user_namespaces_prevents_opening_files_by_inode() {
    assert_daemon(Isolation::Userns, "`userns`").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_with_landlock_lets_a_second_run_open_files_by_inode() {
    assert_daemon(Isolation::Landlock, "second run of `landlock`").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_without_isolation_lets_root_open_files_by_inode() {
    assert_daemon(Isolation::None, "`none`").await;
}
