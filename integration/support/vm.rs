//! Compilation VMs: the agent as a process of this machine with its own base directory, or in a container of a stemcell image, started as
//! by a container CPI.

mod container;
mod tests;

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use container::{BOOT_WITH_RUNIT, ContainerVm};

use crate::common::{directory_outside_tmp, mount_at_var_vcap, processes_below, wait_for};

/// Enough for any step on a slow and busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The name that container CPIs give to the file with a VM's settings.
const SETTINGS: &str = "bosh/warden-cpi-agent-env.json";

/// The CPI's parameters of a VM.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) agent: String,
    /// The message bus, `nats://…` or `https://user:password@…`.
    pub(crate) mbus: String,
    /// `{"ca", "certificate", "private_key"}`
    pub(crate) certificate: Value,
    /// `{"provider", "options"}`
    pub(crate) blobstore: Value,
    /// Secrets beyond those of the settings, which must not appear in any log.
    pub(crate) secrets: Vec<String>,
}

impl Machine {
    /// The settings in the Docker CPI's format, with the `env` from the Director.
    pub(crate) fn settings(&self) -> Value {
        json!({
            "agent_id": self.agent,
            "vm": { "name": "c-1", "id": "c-1" },
            "mbus": self.mbus,
            "ntp": [],
            "networks": { "default": {
                "type": "manual", "ip": "127.0.0.1", "netmask": "255.255.255.255", "gateway": "127.0.0.1",
                "dns": ["127.0.0.53"], "default": ["dns", "gateway"], "preconfigured": true,
                "cloud_properties": { "name": "random" },
            }},
            "disks": { "system": "", "ephemeral": null, "persistent": null },
            "env": { "bosh": {
                "mbus": { "cert": self.certificate },
                "blobstores": [self.blobstore],
                "password": "*",
                "tags": { "director": "bosh" },
                "group": "bosh-compiling-compilation-4b7a5d0e-9c1f-4e58-8a36-2f60d1c7b9e4",
                "groups": ["bosh", "compiling", "compilation-4b7a5d0e-9c1f-4e58-8a36-2f60d1c7b9e4"],
            }},
        })
    }

    /// All texts that must not appear in a log.
    fn secrets(&self) -> Vec<String> {
        let mut secrets = self.secrets.clone();
        collect_secrets(&self.settings(), &mut secrets);
        if let Some((_, rest)) = self.mbus.split_once("://")
            && let Some((userinfo, _)) = rest.split_once('@')
            && let Some((_, password)) = userinfo.split_once(':')
        {
            secrets.push(password.to_owned());
        }
        secrets
    }
}

/// The passwords and the lines of keys in settings.
pub(crate) fn collect_secrets(value: &Value, secrets: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "private_key" => {
                        let lines = text.lines().filter(|line| !line.starts_with('-'));
                        secrets.extend(lines.filter(|line| line.len() > 30).map(str::to_owned));
                    }
                    Value::String(text) if key == "password" || key == "secret" => {
                        secrets.extend((text.len() > 3).then(|| text.clone()));
                    }
                    _ => collect_secrets(value, secrets),
                }
            }
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| collect_secrets(value, secrets)),
        _ => {}
    }
}

/// Panics if a text contains a secret. The message shows its position but not the secret.
#[track_caller]
pub(crate) fn assert_no_secret(text: &str, secrets: &[String]) {
    for (number, line) in text.lines().enumerate() {
        for secret in secrets {
            assert!(
                !line.contains(secret.as_str()),
                "line {} of the log has a secret: {}",
                number + 1,
                line.replace(secret.as_str(), "<the secret>")
            );
        }
    }
}

/// The program: that of this build, or another one.
fn binary() -> PathBuf {
    let other = std::env::var_os("BOSH_AGENT_BINARY");
    other.map_or_else(|| env!("CARGO_BIN_EXE_bosh-agent").into(), PathBuf::from)
}

/// `agent.json`, with settings that come in a file.
fn agent_config(settings: &str) -> Value {
    json!({
        "Platform": { "Linux": { "UseDefaultTmpDir": true, "SkipDiskSetup": true } },
        "Infrastructure": { "Settings": { "Sources": [{ "Type": "File", "SettingsPath": settings }] } },
    })
}

/// A VM on this machine. Dropping it kills the agent and searches its log for secrets.
pub(crate) struct HostVm {
    root: TempDir,
    machine: Machine,
    /// All secrets that the agent received.
    secrets: Vec<String>,
    agent: Option<Child>,
    /// Whether the agent finds the base directory at /var/vcap.
    is_at_var_vcap: bool,
    /// A thread of the agent on which the agent survives panics of libraries.
    panicking: Option<&'static str>,
    /// More of the agent's environment.
    variables: Vec<(&'static str, &'static str)>,
}

impl HostVm {
    /// Starts the agent, without settings.
    pub(crate) fn boot(machine: Machine) -> Self {
        Self::boot_at(machine, false, &[])
    }

    fn boot_at(
        machine: Machine,
        is_at_var_vcap: bool,
        variables: &[(&'static str, &'static str)],
    ) -> Self {
        let root = tempfile::Builder::new()
            .prefix("bosh-agent-test-")
            .tempdir_in(directory_outside_tmp())
            .unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut vm = Self {
            secrets: machine.secrets(),
            root,
            machine,
            agent: None,
            is_at_var_vcap,
            panicking: None,
            variables: variables.to_vec(),
        };
        fs::create_dir_all(vm.base().join("bosh/log")).unwrap();
        let settings = vm.base().join(SETTINGS);
        let config = agent_config(settings.to_str().unwrap());
        fs::write(vm.base().join("bosh/agent.json"), config.to_string()).unwrap();
        vm.start();
        vm
    }

    /// A VM with settings from the start.
    pub(crate) fn create(machine: Machine) -> Self {
        let vm = Self::boot(machine);
        vm.deliver_settings();
        vm
    }

    /// The same with variables in the agent's environment.
    pub(crate) fn create_with(
        machine: Machine,
        variables: &[(&'static str, &'static str)],
    ) -> Self {
        let vm = Self::boot_at(machine, false, variables);
        vm.deliver_settings();
        vm
    }

    /// The same for releases whose scripts use /var/vcap: the agent finds the base directory there.
    pub(crate) fn create_at_var_vcap(machine: Machine) -> Self {
        let vm = Self::boot_at(machine, true, &[]);
        vm.deliver_settings();
        vm
    }

    /// The CPI's last step.
    pub(crate) fn deliver_settings(&self) {
        let path = self.base().join(SETTINGS);
        let part = path.with_extension("part");
        fs::write(&part, self.machine.settings().to_string()).unwrap();
        fs::rename(part, path).unwrap();
    }

    /// Starts the agent, also again after it has ended, like a supervisor.
    pub(crate) fn start(&mut self) {
        assert!(self.agent.is_none(), "it runs");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut agent = Command::new(binary());
        let mut base = self.base();
        if self.is_at_var_vcap {
            let scratch = self.path("var");
            fs::create_dir_all(&scratch).unwrap();
            let script = mount_at_var_vcap(&scratch, &base) + "exec \"$@\"";
            agent = Command::new("unshare");
            agent
                .args(["--mount", "sh", "-c", &script, "sh"])
                .arg(binary());
            base = "/var/vcap".into();
        }
        let agent = agent
            .args(["-P", "dummy", "-M", "dummy", "-C"])
            .arg(base.join("bosh/agent.json"))
            .arg("-b")
            .arg(base)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .envs(self.variables.iter().copied())
            .current_dir(self.base().join("bosh"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
    }

    /// A directory next to the base directory, which scripts also see.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The base directory.
    pub(crate) fn base(&self) -> PathBuf {
        self.path("vcap")
    }

    fn log_path(&self) -> PathBuf {
        self.path("log")
    }

    /// The log of this VM's agents.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The agent's process.
    #[track_caller]
    pub(crate) fn pid(&self) -> i32 {
        self.agent.as_ref().expect("it runs").id().cast_signed()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits until the agent has ended. Returns its exit code, or 128 plus the signal's number.
    #[track_caller]
    pub(crate) fn ended(&mut self, limit: Duration) -> i32 {
        let mut agent = self.agent.take().expect("it runs");
        let log = self.log_path();
        let status = wait_for("the agent's end", limit, || {
            agent.try_wait().unwrap().ok_or_else(|| {
                let log = fs::read_to_string(&log).unwrap_or_default();
                format!("it runs on: {}", last_lines(&log))
            })
        });
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap())
    }

    /// Checks repeatedly, for this time, that the agent runs.
    #[track_caller]
    pub(crate) fn stays_up_for(&mut self, time: Duration) {
        let start = Instant::now();
        let agent = self.agent.as_mut().expect("it runs");
        while start.elapsed() < time {
            let ended = agent.try_wait().unwrap();
            assert!(ended.is_none(), "the agent has ended with {ended:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Allows panics of libraries on this thread in the log.
    pub(crate) fn survives_panics_of(&mut self, thread: &'static str) {
        self.panicking = Some(thread);
    }

    /// Adds secrets that the agent received after its start.
    pub(crate) fn confide(&mut self, value: &Value) {
        collect_secrets(value, &mut self.secrets);
    }

    /// Processes of this VM other than the agent.
    pub(crate) fn other_processes(&self) -> Vec<String> {
        let agent = self.agent.as_ref().map(|agent| format!("{}: ", agent.id()));
        let mut processes = processes_below(&self.base());
        processes.retain(|process| {
            agent
                .as_ref()
                .is_none_or(|agent| !process.starts_with(agent))
        });
        processes
    }

    /// The resources that the agent uses.
    pub(crate) fn usage(&self) -> Usage {
        let pid = self.pid();
        Usage {
            resident: memory(pid, "VmRSS:").unwrap(),
            anonymous: memory(pid, "RssAnon:").unwrap(),
            peak: memory(pid, "VmHWM:").unwrap(),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            threads: fs::read_dir(format!("/proc/{pid}/task")).unwrap().count(),
            files: files_below(&self.base()).len(),
            disk: files_below(&self.base()).iter().map(|(_, size)| size).sum(),
        }
    }

    /// The peak memory of each process that the agent has started and that still runs, in bytes.
    pub(crate) fn helpers(&self) -> Vec<u64> {
        let helpers = descendants(self.pid()).into_iter();
        helpers.filter_map(|pid| memory(pid, "VmHWM:")).collect()
    }

    /// The names of the files below a directory of the base directory.
    pub(crate) fn files(&self, directory: &str) -> Vec<PathBuf> {
        let files = files_below(&self.base().join(directory));
        files.into_iter().map(|(path, _)| path).collect()
    }
}

impl Drop for HostVm {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let log = self.log();
        let is_unexpected = |line: &&str| {
            let thread = self.panicking.map(|it| format!("thread '{it}' "));
            // Panics of libraries only: the paths of the agent's own files are relative.
            !thread.is_some_and(|it| line.contains(&it) && !line.contains("panicked at src/"))
        };
        let is_panic = |line: &&str| line.contains("panicked at") && is_unexpected(line);
        match log.lines().find(is_panic) {
            None => finish(
                &log.replace("panicked at", "panicked, as expected, at"),
                &self.secrets,
            ),
            Some(_) => finish(&log, &self.secrets),
        }
    }
}

/// Resources of an agent: bytes of memory now, of these without the pages of files (`anonymous`), bytes of memory at most, open files, threads,
/// files and bytes on disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) resident: u64,
    pub(crate) anonymous: u64,
    pub(crate) peak: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) files: usize,
    pub(crate) disk: u64,
}

impl fmt::Display for Usage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            formatter,
            "{:.1} MiB resident, {:.1} of them anonymous, {:.1} at most, {} descriptors, {} threads, {} files with {:.1} MiB",
            mib(self.resident),
            mib(self.anonymous),
            mib(self.peak),
            self.descriptors,
            self.threads,
            self.files,
            mib(self.disk)
        )
    }
}

/// A size in the status of a process, in bytes. `None` if the process has ended.
fn memory(pid: i32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let size = status.lines().find_map(|line| line.strip_prefix(name))?;
    let size = size.trim().trim_end_matches(" kB");
    Some(size.parse::<u64>().ok()? * 1024)
}

/// The processes that a process has started, directly or through others.
fn descendants(pid: i32) -> Vec<i32> {
    let parent = |entry: fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        Some((pid, parent.trim().parse::<i32>().ok()?))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let parents: Vec<(i32, i32)> = processes.filter_map(parent).collect();
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let of = found[at];
        let children = parents.iter().filter(|(_, parent)| *parent == of);
        found.extend(children.map(|(child, _)| *child));
        at += 1;
    }
    found.remove(0);
    found
}

/// All files below a directory that are not directories, with their size on disk in bytes.
fn files_below(directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut next = vec![directory.to_owned()];
    while let Some(directory) = next.pop() {
        // Files may be removed meanwhile.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                next.push(entry.path());
            } else {
                found.push((entry.path(), metadata.blocks() * 512));
            }
        }
    }
    found
}

/// The end of every VM: prints its log if the test has failed; otherwise the log must contain no secret and no panic.
fn finish(log: &str, secrets: &[String]) {
    if std::thread::panicking() {
        eprintln!("--- the agent's log\n{}", last_lines(log));
        return;
    }
    assert_no_secret(log, secrets);
    assert!(
        !log.contains("panicked at"),
        "the agent has panicked: {log}"
    );
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(80)..].join("\n")
}
