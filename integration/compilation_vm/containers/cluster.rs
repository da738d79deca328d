//! A small cluster: a NATS server, a blobstore and three agents, each in a container on private networks. One agent loses its networks for
//! some time, and another one is killed, while both compile.

use std::time::Instant;

use serde_json::json;

use super::*;
use crate::common::is_soak;
use crate::support::certificates::{agent_with_id, pairs};
use crate::support::director::bus::{Bus, Nats};
use crate::support::director::monitor::Monitor;
use crate::support::director::several_vms::{Stage, State, View};
use crate::support::director::{Failure, PING_LIMIT, RPC_LIMIT, TASK_RETRIES};
use crate::support::docker::docker;
use crate::support::nats::connect;
use crate::support::network::Network;
use crate::support::release;
use crate::support::vm::{LIMIT, Machine};

/// How long an agent is without its networks.
const PARTITION: Duration = Duration::from_secs(40);

/// How long the Director of the short test waits for a reply to `get_task`: five of them take longer than the agent needs to notice a lost
/// connection, which is up to 90 s, if TCP does not repeat its packets earlier.
const TASK_LIMIT: Duration = Duration::from_secs(25);

/// The numbers of the containers in the networks.
const SERVER: u8 = 2;
const AGENTS: [u8; 3] = [11, 12, 13];

/// The release to compile, and what happens meanwhile.
struct Plan {
    inputs: Inputs,
    /// The packages that are compiled first, one on each VM. The VM of the first one loses its networks, that of the second one is killed.
    first: [&'static str; 3],
    /// Whether the compile of the first package ends while the VM has no network.
    ends_in_the_partition: bool,
    /// How long the Director waits for a reply to `get_task`.
    task_limit: Duration,
}

impl Plan {
    /// A release of small programs; with `BOSH_AGENT_SOAK`, the example release with the patience of a real Director. `None` if the
    /// requirements are missing.
    fn new() -> Option<Self> {
        let inputs = inputs::require().filter(|_| is_possible())?;
        if is_soak() {
            return Some(Self {
                inputs: Inputs::new(inputs.dist.clone(), inputs.release.clone()),
                first: ["sqlite", "zstd", "zlib"],
                ends_in_the_partition: false,
                task_limit: RPC_LIMIT,
            });
        }
        let directory = once("cluster-release", |directory| {
            small_programs(directory);
        });
        Some(Self {
            inputs: Inputs::new(inputs.dist.clone(), directory.join("programs.tgz")),
            first: ["numbers", "table", "tool"],
            ends_in_the_partition: true,
            task_limit: TASK_LIMIT,
        })
    }

    fn partitioned(&self) -> &'static str {
        self.first[0]
    }

    fn killed(&self) -> &'static str {
        self.first[1]
    }
}

/// A release with the shape of the example release: independent packages, a chain and a diamond. If there is a directory `/gates`, the first
/// packages wait for a file in it.
fn small_programs(directory: &Path) {
    let gated = |name: &str, script: &str| {
        format!(
            "set -eu\nwhile [ -d /gates ] && [ ! -e /gates/{name} ]; do sleep 0.05; done\n{script}"
        )
    };
    let numbers = gated(
        "numbers",
        "echo 'int number(void) { return 7; }' >number.c\ncc -c number.c\n\
         mkdir $BOSH_INSTALL_TARGET/lib\nar rcD $BOSH_INSTALL_TARGET/lib/libnumbers.a number.o\n",
    );
    let table = gated("table", "seq 100000 >$BOSH_INSTALL_TARGET/table\n");
    let tool = gated(
        "tool",
        "printf '#!/bin/sh\\nsort -n \"$@\"\\n' >$BOSH_INSTALL_TARGET/tool\nchmod 0755 $BOSH_INSTALL_TARGET/tool\n",
    );
    let packages: [release::Package; 7] = [
        ("numbers", &[], &numbers),
        ("table", &[], &table),
        ("tool", &[], &tool),
        (
            "notes",
            &["tool"],
            "set -eu\nprintf '3\\n1\\n' >raw\n/var/vcap/packages/tool/tool raw >$BOSH_INSTALL_TARGET/notes\n",
        ),
        (
            "program",
            &["numbers"],
            "set -eu\necho 'int number(void); int main(void) { return number(); }' >program.c\n\
             cc -o $BOSH_INSTALL_TARGET/program program.c -L/var/vcap/packages/numbers/lib -lnumbers\n",
        ),
        (
            "chart",
            &["program", "table"],
            "set -eu\nlines=0\n/var/vcap/packages/program/program || lines=$?\n\
             head -n $lines /var/vcap/packages/table/table >$BOSH_INSTALL_TARGET/chart\n",
        ),
        (
            "report",
            &["chart", "notes"],
            "set -eu\ncat /var/vcap/packages/chart/chart /var/vcap/packages/notes/notes >$BOSH_INSTALL_TARGET/report\n",
        ),
    ];
    release::write_all(directory, "programs", &packages);
}

/// The containers, and the Director. Fields are dropped in this order.
struct Cluster {
    directors: Vec<Director>,
    monitor: Monitor,
    vms: Vec<ContainerVm>,
    blobs: Blobstore,
    _server: NatsServer,
    agents: Vec<String>,
    gates: TempDir,
    networks: [Network; 2],
}

impl Cluster {
    /// `None` if nginx is missing.
    async fn start(plan: &Plan) -> Option<Self> {
        let networks = ["bus", "blobs"].map(Network::create);
        let agents = AGENTS.map(|_| uuid::Uuid::new_v4().to_string());
        let ids = agents.each_ref().map(String::as_str);
        let server = NatsServer::start_in(&networks[0], SERVER, &ids);
        let blobs = Blobstore::dav_in(&networks[1], SERVER)?;
        let gates = TempDir::new().unwrap();
        let gate = volume(gates.path(), "/gates:ro");
        let vms = AGENTS.iter().zip(&agents).map(|(number, agent)| {
            let network = networks[0].options(*number);
            let mut options: Vec<&str> = network.iter().map(String::as_str).collect();
            options.extend(["-v", &gate]);
            let image = (STEMCELL_IMAGE, plan.inputs.dist.as_path());
            let machine = machine(agent, &server, &blobs);
            let vm = ContainerVm::create("agent", image, &options, machine);
            networks[1].connect(vm.container(), *number);
            vm
        });
        let vms = vms.collect();
        let bus = Bus::Nats(Nats::new(connect(&server, "director").await).await);
        let director = Director::new(bus, ids[0])
            .hurried()
            .with_task_limit(plan.task_limit);
        let monitor = Monitor::new(&connect(&server, "monitor").await).await;
        let directors: Vec<_> = ids.map(|id| director.with_agent(id)).into();
        for director in &directors {
            director.prepare(&spec()).await.unwrap();
        }
        Some(Self {
            directors,
            monitor,
            vms,
            blobs,
            _server: server,
            agents: agents.into(),
            gates,
            networks,
        })
    }

    /// Lets the script of a package continue.
    fn open_gate(&self, package: &str) {
        fs::write(self.gates.path().join(package), "").unwrap();
    }

    async fn assert_silent(&self, vm: usize) {
        let answer = self.directors[vm].request("ping", json!([]), PING_LIMIT);
        let silence = Failure::Timeout("ping".to_owned());
        assert_eq!(answer.await, Err(silence), "VM {vm}");
    }

    /// Waits until the agent's log has a line with all of these texts.
    async fn wait_for_log(&self, vm: usize, texts: &[&str]) {
        let has_all = |line: &str| texts.iter().all(|text| line.contains(text));
        self.eventually(&format!("{texts:?} in the log of VM {vm}"), || {
            self.vms[vm].log().lines().any(has_all)
        })
        .await;
    }

    async fn eventually(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
            // The compiles continue meanwhile.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Kills a VM and disconnects another one, when the first packages are being compiled. Connects it again after some time.
    async fn disturb(&self, plan: &Plan, stage: &Stage<'_>) {
        let three_scripts = |view: &View| plan.first.iter().all(|name| view.runs_script(name));
        stage
            .wait_for("three scripts at the same time", LIMIT, three_scripts)
            .await;
        let view = stage.view();
        let vm_of = |package| view.running(package).unwrap().vm;
        let (partitioned, killed) = (vm_of(plan.partitioned()), vm_of(plan.killed()));

        docker(&["kill", self.vms[killed].container()], LIMIT).expect_code(0, "docker kill");
        for network in &self.networks {
            network.disconnect(self.vms[partitioned].container());
        }
        let start = tokio::time::Instant::now();
        for package in plan.first {
            self.open_gate(package);
        }
        self.assert_silent(killed).await;
        self.assert_silent(partitioned).await;
        if plan.ends_in_the_partition {
            let package = format!("package={}", plan.partitioned());
            let retried = ["retrying a blob transfer after a pause", &package];
            self.wait_for_log(partitioned, &retried).await;
        }
        stage
            .wait_for("a package of the third VM", LIMIT, |view| {
                !view.compiled.is_empty()
            })
            .await;
        assert!(
            start.elapsed() < PARTITION,
            "this machine is too slow: {:?}",
            start.elapsed()
        );
        tokio::time::sleep_until(start + PARTITION).await;
        let agent = &self.agents[partitioned];
        let heartbeats = self.monitor.heard("heartbeat", agent).len();
        for network in &self.networks {
            network.connect(self.vms[partitioned].container(), AGENTS[partitioned]);
        }
        let reconnected = Instant::now();
        stage
            .wait_for("the result after the partition", LONG, |view| {
                view.compiled.contains_key(plan.partitioned())
            })
            .await;
        eprintln!(
            "{} arrived {:.1?} after the partition",
            plan.partitioned(),
            reconnected.elapsed()
        );
        self.eventually("a heartbeat after the partition", || {
            self.monitor.heard("heartbeat", agent).len() > heartbeats
        })
        .await;
    }

    /// Checks what the Director knows at the end.
    #[track_caller]
    fn check(&self, plan: &Plan, view: &View) {
        for package in view.compiled.keys() {
            let attempts = view.attempts_of(package);
            let states: Vec<State> = attempts.iter().map(|it| it.state).collect();
            if package == plan.killed() {
                assert_eq!(states, [State::Lost, State::Compiled], "{view:#?}");
                assert_ne!(attempts[0].vm, attempts[1].vm);
            } else {
                assert_eq!(states, [State::Compiled], "{package}: {view:#?}");
            }
        }
        let vm_of = |package| view.attempts_of(package)[0].vm;
        let (partitioned, killed) = (vm_of(plan.partitioned()), vm_of(plan.killed()));
        assert_ne!(partitioned, killed);
        for (vm, director) in self.directors.iter().enumerate() {
            // No request to compile was repeated.
            let count = view.attempts.iter().filter(|it| it.vm == vm).count();
            assert_eq!(director.count("compile_package"), count, "{view:#?}");
            let exchanges = director.exchanges();
            let polls = exchanges.iter().filter(|it| it.method == "get_task");
            let silent = polls.filter(|it| it.reply.is_none()).count();
            let expected = if vm == killed {
                TASK_RETRIES + 1..=TASK_RETRIES + 1
            } else if vm == partitioned {
                usize::from(plan.task_limit < PARTITION)..=TASK_RETRIES
            } else {
                0..=0
            };
            assert!(
                expected.contains(&silent),
                "VM {vm}: {silent} times no reply"
            );
            if vm != killed {
                assert_clean(&self.vms[vm]);
            }
        }
        // The script that ran during the partition was not run again.
        let package = format!("package={}", plan.partitioned());
        let log = self.vms[partitioned].log();
        let scripts = log
            .lines()
            .filter(|line| line.contains("phase=\"packaging\"") && line.contains(&package));
        assert_eq!(scripts.count(), 1, "{log}");
    }
}

/// The CPI's parameters of a VM.
fn machine(agent: &str, server: &NatsServer, blobs: &Blobstore) -> Machine {
    let pair = agent_with_id(agent);
    Machine {
        agent: agent.to_owned(),
        mbus: server.url(),
        certificate: json!({
            "ca": pairs()["ca"].certificate, "certificate": pair.certificate, "private_key": pair.key,
        }),
        blobstore: blobs.settings(),
        secrets: blobs.secrets(),
    }
}

/// No container and no network of this process is left.
#[track_caller]
fn assert_nothing_is_left() {
    let filter = format!("name=bosh-agent-test-{}-", std::process::id());
    let containers = docker(&["ps", "--all", "--quiet", "--filter", &filter], LIMIT);
    let networks = docker(&["network", "ls", "--quiet", "--filter", &filter], LIMIT);
    for left in [containers, networks] {
        left.expect_code(0, "docker");
        assert_eq!(left.stdout, "", "something is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn release_is_compiled_despite_a_partition_and_a_dead_vm() {
    let Some(plan) = Plan::new() else {
        return;
    };
    let Some(cluster) = Cluster::start(&plan).await else {
        return;
    };
    let release = SourceRelease::read(&plan.inputs.release);
    let stage = Stage::new(&release, &plan.first, &cluster.blobs);
    let start = Instant::now();
    let compiling = async {
        tokio::join!(
            stage.run(&cluster.directors),
            cluster.disturb(&plan, &stage)
        )
    };
    let ended = tokio::time::timeout(LONG, compiling).await;
    assert!(ended.is_ok(), "after {LONG:?}: {:#?}", stage.view());
    eprintln!("compiled in {:.1?}", start.elapsed());
    let view = stage.view();
    equal_offline(&view.compiled, &cluster.blobs, &plan.inputs);
    cluster.check(&plan, &view);
    drop(cluster);
    assert_nothing_is_left();
}
