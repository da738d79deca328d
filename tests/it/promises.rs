//! The protection by each isolation tier, as promised in the table of SECURITY.md. Every row is an attack that is tried in every tier; if a
//! cell is `no`, the attack succeeds.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use crate::support::{
    ATTACKS, Agent, LANDLOCK, NAMESPACE, NONE, Place, Play, ReleaseBuilder, Site, Tier,
    USERNS_OF_A_USER, USERNS_OF_ROOT, Who, World, attacks, extract, packages, require,
    require_landlock_scopes, require_root, require_tools, run_tool,
};
use bosh_agent::sandbox::Isolation;
use serde_json::{Value, json};

/// The row with an attack on a package that is compiled concurrently, in `hostile::concurrent`.
pub(crate) const CONCURRENT: &str = "touch-undeclared";

/// The row with an attack that needs a file system that can open files by inode, in `hostile::file_handles`.
pub(crate) const HANDLES: &str = "file-handles";

/// The row with an attack that runs in a mount namespace of its own, in `hostile::left_mounts`.
pub(crate) const MOUNTS: &str = "left-mounts";

/// The row with an attack that needs the privileges of root, in `hostile::terminals`.
pub(crate) const TERMINALS: &str = "terminals";

/// A column of the table in SECURITY.md: whether each row is protected. Without the rows that have tests of their own.
fn column(name: &str) -> BTreeMap<String, bool> {
    let mut rows = whole_column(name);
    for row in [CONCURRENT, HANDLES, MOUNTS, TERMINALS] {
        rows.remove(row).unwrap();
    }
    rows
}

pub(crate) fn whole_column(name: &str) -> BTreeMap<String, bool> {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SECURITY.md")).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let at = rows[0].iter().position(|cell| *cell == name);
    let at = at.unwrap_or_else(|| panic!("no column `{name}`: {:?}", rows[0]));
    rows[2..]
        .iter()
        .map(|row| {
            let key = row[0].split('`').nth(1).unwrap().to_owned();
            let is_protected = match row[at] {
                cell if cell.starts_with("yes") => true,
                cell if cell.starts_with("no") => false,
                other => panic!("{key}: `{other}` is neither yes nor no"),
            };
            (key, is_protected)
        })
        .collect()
}

/// Compares the attacks that succeeded with the table.
#[track_caller]
fn assert_as_promised(protected: &BTreeMap<String, bool>, succeeded: &BTreeMap<String, bool>) {
    let found: BTreeMap<String, bool> = succeeded
        .iter()
        .map(|(row, succeeded)| (row.clone(), !succeeded))
        .collect();
    let tells = |cells: &BTreeMap<String, bool>| -> Vec<String> {
        let cells = cells.iter();
        cells
            .map(|(row, yes)| format!("{row}: {}", if *yes { "yes" } else { "no" }))
            .collect()
    };
    assert_eq!(tells(&found), tells(protected), "found, and promised");
}

fn can_run(tier: Tier) -> bool {
    require_tools(&["ipcmk", "ipcrm", "perl", "mknod", "nsenter"])
        && (tier.name != "landlock" || require_landlock_scopes())
}

/// Compiles in a tier. The attacks may start with other commands.
fn attack(tier: Tier, flags: &[&str], before: &str) -> Option<BTreeMap<String, bool>> {
    attack_as(tier, |place| place.agent().args(flags), before)
}

fn attack_as(
    tier: Tier,
    agent: impl Fn(&Place) -> Agent,
    before: &str,
) -> Option<BTreeMap<String, bool>> {
    let place = can_run(tier).then(|| Place::new(tier)).flatten()?;
    let site = Site::new(&place.world, tier.who);
    let mut release = ReleaseBuilder::new("demo", "1.10");
    for (name, dependencies, script) in packages(&site, &format!("{before}{}", attacks())) {
        release = release.package(name, &dependencies, &script);
    }
    let tarball = place.release(&release);
    agent(&place)
        .arg(tarball)
        .run()
        .succeeds()
        .says(&format!("Isolation: {}", tier.name));
    Some(site.succeeded(|package, name| {
        let content = place.file(package, name);
        content.split_once(' ').unwrap().1.to_owned()
    }))
}

/// In a changed root, no process can create a user namespace.
fn without_user_namespaces(place: &Place, flags: &[&str]) -> Agent {
    let own = place.world.path("bosh-agent").display().to_string();
    let before = format!("shift; mount --rbind / /mnt && exec chroot /mnt {own} \"$@\"");
    let words = ["unshare", "--mount", "sh", "-c", &before, "sh"];
    let agent = Agent::wrapped(&place.world.path("printed"), &words);
    place.with_flags(agent).args(flags)
}

#[test]
fn mounts_can_be_undone_without_user_namespaces() {
    let agent = |place: &Place| without_user_namespaces(place, &[]);
    if let Some(succeeded) = attack_as(NAMESPACE, agent, "") {
        let mut promised = column("`namespace`");
        for row in ["agent-processes", "unmount"] {
            promised.insert(row.to_owned(), false);
        }
        assert_as_promised(&promised, &succeeded);
    }
}

#[test]
fn protected_host_needs_no_user_namespaces() {
    let agent = |place: &Place| without_user_namespaces(place, &["--protect-host"]);
    if let Some(succeeded) = attack_as(NAMESPACE, agent, "") {
        assert_as_promised(&column("`namespace --protect-host`"), &succeeded);
    }
}

#[test]
fn attacks_equal_the_rows_of_the_table() {
    let rows: Vec<String> = column("`none`").into_keys().collect();
    let mut attacks: Vec<&str> = ATTACKS.iter().map(|(row, _)| *row).collect();
    attacks.sort_unstable();
    assert_eq!(rows, attacks);
}

#[test]
fn namespaces_protect_as_promised() {
    if let Some(succeeded) = attack(NAMESPACE, &[], "") {
        assert_as_promised(&column("`namespace`"), &succeeded);
    }
}

#[test]
fn namespaces_with_a_protected_host_protect_as_promised() {
    if let Some(succeeded) = attack(NAMESPACE, &["--protect-host"], "") {
        assert_as_promised(&column("`namespace --protect-host`"), &succeeded);
    }
}

/// See the footnote about `--network=none`.
#[track_caller]
fn assert_network_none_protects(tier: Tier, name: &str) {
    let mut promised = column(name);
    for row in ["network", "abstract-sockets"] {
        promised.insert(row.to_owned(), true);
    }
    if let Some(succeeded) = attack(tier, &["--network=none"], "") {
        assert_as_promised(&promised, &succeeded);
    }
}

#[test]
fn network_none_in_namespaces_protects_as_promised() {
    assert_network_none_protects(NAMESPACE, "`namespace`");
}

#[test]
fn network_none_in_user_namespaces_protects_as_promised() {
    assert_network_none_protects(USERNS_OF_ROOT, "`userns`");
}

#[test]
fn user_namespaces_of_root_protect_as_promised() {
    if let Some(succeeded) = attack(USERNS_OF_ROOT, &[], "") {
        assert_as_promised(&column("`userns`"), &succeeded);
    }
}

#[test]
fn protected_host_in_user_namespaces_has_both_protections() {
    let mut promised = column("`userns`");
    for (row, is_protected) in column("`namespace --protect-host`") {
        *promised.get_mut(&row).unwrap() |= is_protected;
    }
    if let Some(succeeded) = attack(USERNS_OF_ROOT, &["--protect-host"], "") {
        assert_as_promised(&promised, &succeeded);
    }
}

#[test]
fn user_namespaces_of_a_user_protect_at_least_as_promised() {
    if let Some(mut succeeded) = attack(USERNS_OF_A_USER, &[], "") {
        assert!(!succeeded["kernel-settings"], "as the footnote says");
        let promised = column("`userns`");
        // A user may do less than root.
        for (row, succeeds) in &mut succeeded {
            *succeeds |= !promised[row];
        }
        assert_as_promised(&promised, &succeeded);
    }
}

/// As in a container, in which parts of /proc are covered.
fn with_masked_proc(place: &Place, before: &str, flags: &[&str]) -> Agent {
    let own = place.world.path("bosh-agent").display().to_string();
    let before = format!(
        "shift; mount -t tmpfs tmpfs /proc/scsi || mount -t tmpfs tmpfs /proc/fs; exec {before} {own} \"$@\""
    );
    let words = ["unshare", "--mount", "sh", "-c", &before, "sh"];
    let agent = Agent::wrapped(&place.world.path("printed"), &words);
    place.with_flags(agent).args(flags)
}

#[test]
fn processes_can_be_signaled_without_a_process_namespace() {
    let without_mounts = "setpriv --bounding-set -sys_admin --inh-caps -sys_admin";
    for (name, flags) in [
        ("`userns`", &[][..]),
        ("`namespace --protect-host`", &["--protect-host"]),
    ] {
        let agent = |place: &Place| with_masked_proc(place, without_mounts, flags);
        let Some(succeeded) = attack_as(USERNS_OF_ROOT, agent, "") else {
            return;
        };
        let mut promised = column("`userns`");
        for (row, is_protected) in column(name) {
            *promised.get_mut(&row).unwrap() |= is_protected;
        }
        promised.insert("signals".to_owned(), false);
        assert_as_promised(&promised, &succeeded);
    }
}

#[test]
fn root_enters_the_agents_mounts_without_a_process_namespace() {
    // In the first user namespace, root can mount /proc in spite of the mask.
    let as_root_of_another = "unshare --user --map-root-user --mount";
    for (flags, is_entered) in [(&[][..], true), (&["--protect-host"], false)] {
        let agent = |place: &Place| with_masked_proc(place, as_root_of_another, flags);
        let Some(succeeded) = attack_as(NAMESPACE, agent, "") else {
            return;
        };
        assert!(succeeded["signals"]);
        assert_eq!(succeeded["agent-processes"], is_entered, "{flags:?}");
    }
}

#[test]
fn root_can_write_to_a_disk_in_spite_of_a_protected_host() {
    let Some(place) = Place::new(NAMESPACE) else {
        return;
    };
    let disk = place.world.write("disk", vec![b'.'; 4096]);
    let attached = Command::new("losetup")
        .args(["--find", "--show"])
        .arg(&disk)
        .output();
    let device = attached.ok().filter(|attached| attached.status.success());
    if !require(device.is_some(), "a loop device") {
        return;
    }
    let device = String::from_utf8(device.unwrap().stdout).unwrap();
    let device = device.trim();
    let script = format!("set -e; echo changed | dd of={device} conv=notrunc,fsync");
    let release = place.release(&ReleaseBuilder::of_script(&script));
    let ran = place.agent().arg("--protect-host").arg(release).run();
    run_tool("losetup", &["--detach", device]);
    ran.succeeds();
    assert!(place.world.read("disk").starts_with("changed\n."));
}

#[test]
fn landlock_protects_as_promised() {
    if let Some(succeeded) = attack(LANDLOCK, &["--second-run", "never"], "") {
        assert_as_promised(&column("`landlock`"), &succeeded);
    }
}

/// The root of the tier `landlock`, on a kernel that says that its Landlock has this version.
fn older_landlock(place: &Place, version: u32) -> Agent {
    let source = "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <stdarg.h>\n#include <sys/syscall.h>\n\
                  long syscall(long number, ...) {\n  long a[6];\n  va_list given;\n  va_start(given, number);\n  \
                  for (int i = 0; i < 6; i++) a[i] = va_arg(given, long);\n  va_end(given);\n  \
                  if (number == SYS_landlock_create_ruleset && (unsigned) a[2] == 1) return VERSION;\n  \
                  long (*real)(long, ...) = (long (*)(long, ...)) dlsym(RTLD_NEXT, \"syscall\");\n  \
                  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);\n}\n";
    let source = place.world.write("older.c", source);
    let library = place.world.path("older.so");
    let version = format!("-DVERSION={version}");
    let words = ["-shared", "-fPIC", &version, "-o"].map(OsStr::new);
    let files = [library.as_os_str(), source.as_os_str(), "-ldl".as_ref()];
    run_tool("gcc", &words.into_iter().chain(files).collect::<Vec<_>>());
    // The processes that start scripts inherit no LD_PRELOAD.
    let etc = place.world.path("etc");
    run_tool("cp", &["-a".as_ref(), "/etc".as_ref(), etc.as_os_str()]);
    std::fs::write(etc.join("ld.so.preload"), library.as_os_str().as_bytes()).unwrap();
    let before = format!(
        "shift; mount --bind {} /etc && mount --rbind / /mnt && \
         exec chroot /mnt setpriv --bounding-set -sys_admin --inh-caps -sys_admin {} \"$@\"",
        etc.display(),
        place.world.path("bosh-agent").display()
    );
    let words = ["unshare", "--mount", "sh", "-c", &before, "sh"];
    place.with_flags(Agent::wrapped(&place.world.path("printed"), &words))
}

#[test]
fn older_landlock_protects_as_promised_without_scopes() {
    if !require_tools(&["gcc"]) {
        return;
    }
    for version in [2, 3, 5] {
        let agent = |place: &Place| {
            let agent = older_landlock(place, version);
            agent.args(&["--second-run", "never"])
        };
        let Some(succeeded) = attack_as(LANDLOCK, agent, "") else {
            return;
        };
        let mut promised = column("`landlock`");
        for row in ["signals", "abstract-sockets"] {
            promised.insert(row.to_owned(), false);
        }
        assert_as_promised(&promised, &succeeded);
    }
}

#[test]
fn second_run_protects_as_promised() {
    let fail_once = "if [ ! -e @host@/ran ]; then touch @host@/ran; exit 1; fi\n";
    if let Some(succeeded) = attack(LANDLOCK, &["--second-run", "always"], fail_once) {
        assert_as_promised(&column("second run of `landlock`"), &succeeded);
    }
}

#[test]
fn no_isolation_protects_as_promised() {
    if let Some(succeeded) = attack(NONE, &[], "") {
        assert_as_promised(&column("`none`"), &succeeded);
    }
}

/// Requests to a daemon compile the packages of the attacks.
async fn attack_in_daemon(isolation: Isolation, tier: Tier) -> Option<BTreeMap<String, bool>> {
    if !require_root() || !can_run(tier) {
        return None;
    }
    let site = |world: &World| Some(Site::new(world, Who::Root));
    let (play, site) = Play::isolated_after(isolation, site)?;
    // A daemon writes its settings when it starts.
    play.world.write("vcap/bosh/settings.json", "hunter2");
    let mut done: BTreeMap<&str, Value> = BTreeMap::new();
    for (name, needed, script) in packages(&site, &attacks()) {
        let dependencies: BTreeMap<&str, &Value> =
            needed.iter().map(|name| (*name, &done[name])).collect();
        let order = play.source(name, &script, json!(dependencies));
        let task = play.order(&order).await;
        let end = play.end(&task).await;
        let result = &end["value"]["result"];
        assert!(result["sha1"].is_string(), "{name}: {end}");
        let found = json!({
            "name": name, "version": "1.1", "blobstore_id": result["blobstore_id"], "sha1": result["sha1"],
        });
        done.insert(name, found);
    }
    Some(site.succeeded(|package, name| {
        let scratch = tempfile::tempdir().unwrap();
        let blob = done[package]["blobstore_id"].as_str().unwrap();
        extract(&play.world.path("store").join(blob), scratch.path());
        std::fs::read_to_string(scratch.path().join(name)).unwrap()
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_with_namespaces_protects_as_promised() {
    if let Some(succeeded) = attack_in_daemon(Isolation::Namespace, NAMESPACE).await {
        assert_as_promised(&column("`namespace`"), &succeeded);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_with_user_namespaces_protects_as_promised() {
    if let Some(succeeded) = attack_in_daemon(Isolation::Userns, USERNS_OF_ROOT).await {
        assert_as_promised(&column("`userns`"), &succeeded);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_with_landlock_protects_as_its_second_run() {
    if let Some(succeeded) = attack_in_daemon(Isolation::Landlock, LANDLOCK).await {
        assert_as_promised(&column("second run of `landlock`"), &succeeded);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_without_isolation_protects_as_promised() {
    if let Some(succeeded) = attack_in_daemon(Isolation::None, NONE).await {
        assert_as_promised(&column("`none`"), &succeeded);
    }
}
