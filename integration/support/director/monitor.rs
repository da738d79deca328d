//! The health monitor, which receives messages of agents.

use std::sync::{Arc, Mutex, PoisonError};

use async_nats::Client;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::task::JoinHandle;

/// All messages for the health monitor: subject and payload.
type Heard = Arc<Mutex<Vec<(String, Value)>>>;

/// Receives heartbeats, alerts and shutdowns.
pub(crate) struct Monitor {
    heard: Heard,
    readers: Vec<JoinHandle<()>>,
}

impl Monitor {
    /// A monitor on a connection with the health monitor's permissions.
    #[expect(
        clippy::disallowed_methods,
        reason = "the rule is for the agent's own tasks"
    )]
    pub(crate) async fn new(client: &Client) -> Self {
        let heard = Heard::default();
        let mut readers = Vec::new();
        for kind in ["heartbeat", "alert", "shutdown"] {
            let subject = format!("hm.agent.{kind}.*");
            let mut messages = client.subscribe(subject).await.unwrap();
            let heard = Arc::clone(&heard);
            readers.push(tokio::spawn(async move {
                while let Some(message) = messages.next().await {
                    let content = serde_json::from_slice(&message.payload)
                        .unwrap_or_else(|error| panic!("{}: {error}", message.subject));
                    heard
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((message.subject.to_string(), content));
                }
            }));
        }
        client.flush().await.unwrap();
        Self { heard, readers }
    }

    /// The messages of one agent of one kind: `heartbeat`, `alert` or `shutdown`.
    pub(crate) fn heard(&self, kind: &str, agent: &str) -> Vec<Value> {
        let subject = format!("hm.agent.{kind}.{agent}");
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let of_agent = heard.iter().filter(|(on, _)| *on == subject);
        of_agent.map(|(_, content)| content.clone()).collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
    }
}
