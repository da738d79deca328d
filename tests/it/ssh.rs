//! Users of `bosh ssh` log in through a real SSH server, which sees the machine on which the agent has created them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::support::{Play, World, require_root, require_tools, run_tool};

const USER: &str = "bosh_0a1b2c";

/// Starts an SSH server on a machine with the files of accounts below ROOT, in namespaces of its own, and logs in.
const LOG_IN: &str = r#"set -eu
root=$1 homes=$2 user=$3 keys=$4
for file in passwd group shadow gshadow; do
  mount --bind "$root/etc/$file" "/etc/$file"
done
mkdir -p "$homes"
mount --bind "$root$homes" "$homes"
mount -t tmpfs none /run
mkdir /run/sshd
ip link set lo up
/usr/sbin/sshd -D -e -f /dev/null -o ListenAddress=127.0.0.1 -o Port=2222 -o HostKey="$root/etc/ssh/ssh_host_rsa_key" \
  -o AllowGroups=bosh_sshers -o UsePAM=no -o PidFile=none 2>"$keys/sshd.log" &
server=$!
until (exec 3<>/dev/tcp/127.0.0.1/2222) 2>/dev/null; do
  kill -0 $server
  sleep 0.05
done
ssh -F /dev/null -i "$keys/key" -p 2222 -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes \
  -o UserKnownHostsFile="$keys/known" "$user@127.0.0.1" 'id -un; id -Gn; pwd'
"#;

/// A machine that others can enter. Its SSH server needs an account of its own.
fn stemcell() -> World {
    let world = World::for_everybody().with_accounts();
    for (file, line) in [
        ("passwd", "sshd:x:22:65534::/run/sshd:/usr/sbin/nologin\n"),
        ("group", "nogroup:x:65534:\n"),
        ("shadow", "sshd:*:1::::::\n"),
        ("gshadow", "nogroup:*::\n"),
    ] {
        let file = format!("root/etc/{file}");
        let text = world.read(&file) + line;
        world.write(&file, text);
    }
    std::fs::remove_file(world.path("root/etc/ssh/ssh_host_rsa_key.pub")).unwrap();
    std::fs::create_dir(world.path("keys")).unwrap();
    world
}

fn make_key(file: &Path) -> String {
    let file = file.to_str().unwrap();
    run_tool(
        "ssh-keygen",
        &["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", file],
    );
    std::fs::read_to_string(format!("{file}.pub")).unwrap()
}

/// Logs in as the user. Returns the exit code, and what was printed.
fn log_in(world: &World, homes: &Path) -> (Option<i32>, String) {
    let ended = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
        .args(["bash", "-c", LOG_IN, "log-in"])
        .args([&world.path("root"), homes, Path::new(USER)])
        .arg(world.path("keys"))
        .output()
        .unwrap();
    let texts = [&ended.stdout, &ended.stderr].map(|it| String::from_utf8_lossy(it));
    let log = std::fs::read_to_string(world.path("keys/sshd.log")).unwrap_or_default();
    (
        ended.status.code(),
        format!("{}{}{log}", texts[0], texts[1]),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_of_bosh_ssh_logs_in_until_the_cleanup() {
    if !require_root() || !require_tools(&["sshd", "ssh", "ssh-keygen", "useradd", "unshare", "ip"])
    {
        return;
    }
    let world = stemcell();
    let host_key = make_key(&world.path("root/etc/ssh/ssh_host_rsa_key"));
    let key = make_key(&world.path("keys/key"));
    let homes: PathBuf = world.base().join("bosh_ssh");
    let play = Play::on_a_stemcell(world.clone());
    let setup = json!(["setup", { "user": USER, "public_key": key }]);
    let reply = play.ask("ssh", setup).await;
    assert_eq!(reply["value"]["status"], "success", "{reply}");
    assert_eq!(reply["value"]["host_public_key"], host_key);
    world.write("keys/known", format!("[127.0.0.1]:2222 {host_key}"));
    let (code, printed) = log_in(&world, &homes);
    assert_eq!(code, Some(0), "{printed}");
    let lines: Vec<&str> = printed.lines().take(3).collect();
    let home = homes.join(USER);
    let groups = format!("{USER} vcap bosh_sudoers bosh_sshers");
    assert_eq!(lines, [USER, &groups, home.to_str().unwrap()]);

    let cleanup = json!(["cleanup", { "user_regex": format!("^{USER}") }]);
    let reply = play.ask("ssh", cleanup).await;
    assert_eq!(reply["value"]["status"], "success", "{reply}");
    let (code, printed) = log_in(&world, &homes);
    assert_eq!(code, Some(255), "{printed}");
    assert!(printed.contains("Permission denied"), "{printed}");
    assert!(
        !world
            .path("root")
            .join(home.strip_prefix("/").unwrap())
            .exists()
    );
    assert!(play.stop().await);
}
