//! A Director's calls to a compilation VM, like `agent_client.rb`, `vm_creator.rb` and `package_compile_stage.rb` of BOSH: the same
//! requests, time limits and rules for replies.

pub(crate) mod bus;
pub(crate) mod compile_stage;
pub(crate) mod monitor;
pub(crate) mod reply;
pub(crate) mod several_vms;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use bus::Bus;
use reply::{Reply, Status};

/// How long a Director waits for a reply, except to pings.
pub(crate) const RPC_LIMIT: Duration = Duration::from_secs(45);
/// How often a Director repeats a `get_task` without a reply.
pub(crate) const TASK_RETRIES: usize = 4;
/// A slower reply means that the agent waited for something, even on a busy machine.
pub(crate) const PROMPT: Duration = Duration::from_secs(20);
/// How long a Director waits for the reply to one ping of a new VM.
pub(crate) const PING_LIMIT: Duration = Duration::from_secs(1);
/// How long a Director pings a new VM.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(600);
/// The pause between two polls of a task.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No reply in time.
    Timeout(String),
    /// The agent's exception, as in the task's output.
    Exception(String),
    /// A reply that a Director rejects.
    Refused(String),
}

impl Failure {
    /// The text of an exception. Other failures fail the test.
    #[track_caller]
    pub(crate) fn exception(&self) -> &str {
        match self {
            Self::Exception(text) => text,
            other => panic!("no exception: {other:?}"),
        }
    }
}

/// A request with its result.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) method: String,
    pub(crate) reply: Option<Reply>,
    pub(crate) elapsed: Duration,
}

impl fmt::Display for Exchange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} -> {:?} ({:.1?})",
            self.method, self.reply, self.elapsed
        )
    }
}

/// A Director with one agent.
pub(crate) struct Director {
    bus: Arc<Bus>,
    agent: String,
    poll: Duration,
    patience: Duration,
    task_limit: Duration,
    exchanges: Mutex<Vec<Exchange>>,
}

impl Director {
    /// A Director with the usual poll interval.
    pub(crate) fn new(bus: Bus, agent: &str) -> Self {
        Self {
            bus: Arc::new(bus),
            agent: agent.to_owned(),
            poll: POLL_INTERVAL,
            patience: READY_LIMIT,
            task_limit: RPC_LIMIT,
            exchanges: Mutex::default(),
        }
    }

    /// The same Director with another agent: the same connection, inbox and time limits.
    pub(crate) fn with_agent(&self, agent: &str) -> Self {
        Self {
            bus: Arc::clone(&self.bus),
            agent: agent.to_owned(),
            exchanges: Mutex::default(),
            ..*self
        }
    }

    /// Sets how long to wait for the reply to one `get_task`.
    pub(crate) fn with_task_limit(mut self, limit: Duration) -> Self {
        self.task_limit = limit;
        self
    }

    /// A Director with a shorter poll interval and a shorter limit for new VMs, for fast tests.
    pub(crate) fn hurried(mut self) -> Self {
        self.poll = Duration::from_millis(50);
        self.patience = Duration::from_secs(60);
        self
    }

    pub(crate) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// All requests so far.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The number of requests of a method so far.
    pub(crate) fn count(&self, method: &str) -> usize {
        let exchanges = self.exchanges();
        exchanges.iter().filter(|it| it.method == method).count()
    }

    /// Sends one request with a time limit.
    pub(crate) async fn request(
        &self,
        method: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, Failure> {
        let id = uuid::Uuid::new_v4().to_string();
        let mut envelope = json!({
            "protocol": 3,
            "method": method,
            "arguments": arguments,
            "reply_to": self.bus.reply_to(&self.agent, &id),
        });
        if matches!(*self.bus, Bus::Https(_)) {
            // `bosh create-env` does not send any.
            envelope.as_object_mut().unwrap().remove("protocol");
        }
        let body = envelope.to_string().into_bytes();
        let start = Instant::now();
        let reply = self
            .bus
            .ask(&self.agent, &id, body, limit, reply::read)
            .await;
        let exchange = Exchange {
            method: method.to_owned(),
            reply: reply.clone(),
            elapsed: start.elapsed(),
        };
        self.exchanges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(exchange);
        match reply {
            None => Err(Failure::Timeout(method.to_owned())),
            Some(Reply::Exception(text)) => Err(Failure::Exception(text)),
            Some(Reply::Value(value)) => Ok(value),
        }
    }

    /// Sends a request, and repeats it without a reply as often as a Director.
    pub(crate) async fn call(&self, method: &str, arguments: Value) -> Result<Value, Failure> {
        let (retries, limit) = match method {
            "get_task" => (TASK_RETRIES, self.task_limit),
            "get_state" => (2, RPC_LIMIT),
            "upload_blob" => (3, RPC_LIMIT),
            _ => (0, RPC_LIMIT),
        };
        for _ in 0..retries {
            match self.request(method, arguments.clone(), limit).await {
                Err(Failure::Timeout(_)) => {}
                other => return other,
            }
        }
        self.request(method, arguments, limit).await
    }

    /// Calls a method that may start a task.
    pub(crate) async fn start(&self, method: &str, arguments: Value) -> Result<Status, Failure> {
        self.call(method, arguments).await.map(Status::of)
    }

    /// Calls a method that must start a task, and returns the task's id.
    pub(crate) async fn start_task(&self, method: &str, arguments: Value) -> String {
        let status = self.start(method, arguments).await.unwrap();
        status
            .task_id()
            .unwrap_or_else(|| panic!("{method} is no task: {status:?}"))
    }

    /// The reply to `get_task`.
    pub(crate) async fn status(&self, task: &str) -> Result<Status, Failure> {
        self.call("get_task", json!([task])).await.map(Status::of)
    }

    /// Polls a task until it has ended.
    pub(crate) async fn wait_for_task(&self, task: &str) -> Result<Value, Failure> {
        self.follow_task(task, |_| ()).await
    }

    /// The same. Passes each value of `get_task` to `see`.
    pub(crate) async fn follow_task(
        &self,
        task: &str,
        see: impl Fn(&Value),
    ) -> Result<Value, Failure> {
        loop {
            let value = self.call("get_task", json!([task])).await?;
            see(&value);
            let status = Status::of(value);
            if !status.is_running() {
                return Ok(status.value);
            }
            tokio::time::sleep(self.poll).await;
        }
    }

    /// Calls a method, and waits for its task if it starts one.
    pub(crate) async fn send(&self, method: &str, arguments: Value) -> Result<Value, Failure> {
        let status = self.start(method, arguments).await?;
        match status.task_id() {
            Some(task) => self.wait_for_task(&task).await,
            None => Ok(status.value),
        }
    }

    /// Pings a new VM until it answers.
    pub(crate) async fn wait_until_ready(&self, limit: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            match self.request("ping", json!([]), PING_LIMIT).await {
                Ok(_) => return Ok(()),
                Err(Failure::Timeout(_)) if start.elapsed() < limit => {}
                Err(Failure::Exception(text))
                    if text.starts_with("restarting agent") && start.elapsed() < limit => {}
                Err(other) => return Err(other),
            }
        }
    }

    /// `update_settings`, which old agents do not have.
    pub(crate) async fn update_settings(&self, settings: Value) -> Result<Value, Failure> {
        match self.send("update_settings", json!([settings])).await {
            Err(Failure::Exception(text)) if text.contains("unknown message") => Ok(Value::Null),
            other => other,
        }
    }

    /// All requests between the creation of a compilation VM and its first package.
    pub(crate) async fn prepare(&self, spec: &Value) -> Result<(), Failure> {
        self.wait_until_ready(self.patience).await?;
        self.update_settings(json!({ "trusted_certs": "", "disk_associations": [] }))
            .await?;
        self.send("apply", json!([spec])).await?;
        let state = self.call("get_state", json!([])).await?;
        match &state["networks"] {
            Value::Null | Value::Object(_) => Ok(()),
            other => Err(Failure::Refused(format!("networks are {other}"))),
        }
    }

    /// Sends a request without waiting for the reply, as a Director shuts down a VM that it abandons.
    pub(crate) async fn fire_and_forget(&self, method: &str, arguments: Value) {
        let id = uuid::Uuid::new_v4().to_string();
        let envelope = json!({
            "protocol": 3,
            "method": method,
            "arguments": arguments,
            "reply_to": self.bus.reply_to(&self.agent, &id),
        });
        self.bus
            .publish(&self.agent, envelope.to_string().into_bytes())
            .await;
    }
}

/// The spec of a compilation VM with these networks.
pub(crate) fn compilation_spec(networks: &Value) -> Value {
    let id = uuid::Uuid::new_v4();
    json!({
        "deployment": "compiling",
        "job": { "name": format!("compilation-{id}") },
        "index": 0,
        "id": uuid::Uuid::new_v4().to_string(),
        "networks": networks,
    })
}

/// The network of a compilation VM in a Director's spec, with a key that no agent knows.
pub(crate) fn manual_network() -> Value {
    json!({
        "default": {
            "type": "manual",
            "ip": "127.0.0.1",
            "prefix": "32",
            "netmask": "255.255.255.255",
            "cloud_properties": { "name": "random", "number": 12_345_678_901_234_567_u64 },
            "default": ["dns", "gateway"],
            "dns": ["127.0.0.53"],
            "gateway": "127.0.0.1",
            "only_in_newer_directors": { "Kept": [1, 2, null] },
        }
    })
}
