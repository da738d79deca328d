//! Sends requests to the agent and receives its replies.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use bosh_agent::tls::{self, Profile};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Received replies, for the tasks that wait for them.
type Waiting = Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Vec<u8>>>>>;

/// The connection to one agent.
pub(crate) enum Bus {
    Nats(Nats),
    Https(Https),
}

/// The Director's connection, subscribed to its inbox from the start.
pub(crate) struct Nats {
    client: Client,
    inbox: String,
    waiting: Waiting,
    strays: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Nats {
    /// A bus on a connection with a Director's permissions.
    #[expect(
        clippy::disallowed_methods,
        reason = "the rule is for the agent's own tasks"
    )]
    pub(crate) async fn new(client: Client) -> Self {
        let inbox = format!("director.{}", uuid::Uuid::new_v4());
        let mut replies = client.subscribe(format!("{inbox}.>")).await.unwrap();
        client.flush().await.unwrap();
        let waiting = Waiting::default();
        let strays = Arc::new(Mutex::new(Vec::new()));
        let (handed, unexpected) = (Arc::clone(&waiting), Arc::clone(&strays));
        let reader = tokio::spawn(async move {
            while let Some(message) = replies.next().await {
                let request = message.subject.rsplit('.').next().unwrap_or_default();
                let waiting = handed.lock().unwrap_or_else(PoisonError::into_inner);
                match waiting.get(request) {
                    Some(receiver) => {
                        let _ = receiver.send(message.payload.to_vec());
                    }
                    None => unexpected
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(format!(
                            "{}: {}",
                            message.subject,
                            String::from_utf8_lossy(&message.payload)
                        )),
                }
            }
        });
        Self {
            client,
            inbox,
            waiting,
            strays,
            reader,
        }
    }

    fn waiting(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<String, mpsc::UnboundedSender<Vec<u8>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The agent's HTTPS server.
pub(crate) struct Https {
    client: reqwest::Client,
    url: String,
    user: String,
    password: String,
}

impl Https {
    /// `url` without userinfo, e.g. `https://127.0.0.1:6868`. Trusts only the issuer of the certificate.
    pub(crate) fn new(url: &str, user: &str, password: &str, ca: &str) -> Self {
        let config = tls::client(Some(ca), Profile::External).unwrap();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .no_proxy()
            .build()
            .unwrap();
        Self {
            client,
            url: url.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    /// Sends a body unchanged. Returns status and body of the response; `None` if it is incomplete.
    pub(crate) async fn post(&self, body: Vec<u8>, limit: Duration) -> Option<(u16, Vec<u8>)> {
        let request = self
            .client
            .post(format!("{}/agent", self.url))
            .basic_auth(&self.user, Some(&self.password))
            .timeout(limit)
            .body(body);
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.bytes().await.ok()?.to_vec()))
    }
}

impl Bus {
    /// The reply subject of a request. A Director creates a new id for each request.
    pub(crate) fn reply_to(&self, agent: &str, request: &str) -> String {
        match self {
            Self::Nats(nats) => format!("{}.{agent}.{request}", nats.inbox),
            Self::Https(_) => "director".to_owned(),
        }
    }

    /// Sends a request and waits until `read` accepts one of its replies.
    pub(crate) async fn ask<T>(
        &self,
        agent: &str,
        request: &str,
        body: Vec<u8>,
        limit: Duration,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Option<T> {
        match self {
            Self::Nats(nats) => {
                let (sender, mut replies) = mpsc::unbounded_channel();
                nats.waiting().insert(request.to_owned(), sender);
                let asked = async {
                    nats.client
                        .publish(format!("agent.{agent}"), body.into())
                        .await
                        .ok()?;
                    loop {
                        if let Some(taken) = read(&replies.recv().await?) {
                            return Some(taken);
                        }
                    }
                };
                let taken = tokio::time::timeout(limit, asked).await.ok().flatten();
                // No task waits for late replies.
                nats.waiting().remove(request);
                taken
            }
            Self::Https(https) => {
                let start = std::time::Instant::now();
                let answer = https.post(body, limit).await;
                if let Some((200, body)) = answer {
                    return read(&body);
                }
                // A refused connection counts as no reply; the time limit still applies.
                let rest = limit.saturating_sub(start.elapsed());
                tokio::time::sleep(rest.min(Duration::from_millis(100))).await;
                None
            }
        }
    }

    /// Publishes bytes to an agent without waiting.
    pub(crate) async fn publish(&self, agent: &str, body: Vec<u8>) {
        match self {
            Self::Nats(nats) => {
                let subject = format!("agent.{agent}");
                nats.client.publish(subject, body.into()).await.unwrap();
            }
            Self::Https(https) => {
                https.post(body, Duration::from_secs(45)).await;
            }
        }
    }

    /// Replies for which no task waited, with their subjects.
    pub(crate) fn strays(&self) -> Vec<String> {
        match self {
            Self::Nats(nats) => nats
                .strays
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            Self::Https(_) => Vec::new(),
        }
    }
}
