//! How requests reach the agent, and replies the Director.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use bosh_agent::tls::{self, Profile};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Replies that have come, for whoever waits for them.
type Waiting = Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Vec<u8>>>>>;

/// The way to one agent.
pub(crate) enum Bus {
    Nats(Nats),
    Https(Https),
}

/// The Director's connection. It has subscribed to its inbox once and for all.
pub(crate) struct Nats {
    client: Client,
    inbox: String,
    waiting: Waiting,
    strays: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Nats {
    /// On a connection with a Director's rights.
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

/// The HTTPS server that the agent is.
pub(crate) struct Https {
    client: reqwest::Client,
    url: String,
    user: String,
    password: String,
}

impl Https {
    /// `url` without userinfo, e.g. `https://127.0.0.1:6868`. The certificate's issuer is the only one trusted.
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

    /// Sends a body as it is. Status and body of the answer; nothing where there was no whole one.
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
    /// Where the reply to a request is to go. A Director makes the request's id anew each time.
    pub(crate) fn reply_to(&self, agent: &str, request: &str) -> String {
        match self {
            Self::Nats(nats) => format!("{}.{agent}.{request}", nats.inbox),
            Self::Https(_) => "director".to_owned(),
        }
    }

    /// Sends a request and waits until `read` takes one of the replies to it.
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
                // Late replies are nobody's.
                nats.waiting().remove(request);
                taken
            }
            Self::Https(https) => {
                let start = std::time::Instant::now();
                let answer = https.post(body, limit).await;
                if let Some((200, body)) = answer {
                    return read(&body);
                }
                // A refused connection is no reply either: the time runs on.
                let rest = limit.saturating_sub(start.elapsed());
                tokio::time::sleep(rest.min(Duration::from_millis(100))).await;
                None
            }
        }
    }

    /// Publishes bytes to an agent without waiting for anything.
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

    /// Replies that nobody waited for, with their subjects.
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
