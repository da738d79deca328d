//! Logs the events of the connection.

use std::sync::Arc;

use async_nats::{Event, ServerError};
use tokio::sync::watch;

use super::pool::Pool;
use super::texts::ServerTexts;
use crate::transport::throttle::Throttle;

/// Logs the events of the connection.
#[derive(Debug)]
pub(super) struct EventLog {
    pub(super) pool: Arc<Pool>,
    pub(super) connected: watch::Sender<bool>,
    pub(super) logged: Throttle,
    /// For messages whose number is not up to the server.
    pub(super) logged_states: Throttle,
    pub(super) texts: ServerTexts,
    /// The subject of the agent's subscription.
    pub(super) subject: String,
    /// The number of the last connection on which a server has denied the subscription.
    pub(super) denied: watch::Sender<u64>,
}

impl EventLog {
    pub(super) fn log(&self, event: &Event) {
        let text = self.texts.shown(&event.to_string());
        match event {
            Event::Connected => {
                self.connected.send_replace(true);
                tracing::info!(server = self.pool.current(), "connected to the message bus");
            }
            Event::Disconnected => {
                self.connected.send_replace(false);
                let server = self.pool.current();
                if self.pool.is_retired() {
                    tracing::debug!(server, "closed a connection to the message bus");
                } else if self.logged_states.should_log(&format!("lost {server}")) {
                    tracing::warn!(
                        server,
                        "lost the connection to the message bus; reconnecting"
                    );
                }
            }
            // The pool logs why attempts failed.
            Event::ClientError(_) => tracing::debug!(event = %text, "message bus"),
            // After this event, the connection is lost, and the next attempt has the same reason.
            Event::ServerError(ServerError::AuthorizationViolation) => {
                tracing::debug!(event = %text, "message bus");
            }
            Event::ServerError(error) if self.is_denial(error) && !self.pool.is_retired() => {
                if self.logged_states.should_log("denied") {
                    tracing::warn!(
                        server = self.pool.current(),
                        event = %text,
                        "the message bus denies the agent's subscription: compare `agent_id` in the settings with the name in the agent's \
                         certificate and with the server's permissions; reconnecting"
                    );
                }
                self.denied.send_replace(self.pool.connects());
            }
            // These errors are normal while a connection is being established or replaced.
            Event::ServerError(_) if !*self.connected.borrow() || self.pool.is_retired() => {
                tracing::debug!(event = %text, "message bus");
            }
            Event::ServerError(_) | Event::SlowConsumer(_) => {
                if self.logged.should_log(&text) {
                    tracing::warn!(server = self.pool.current(), event = %text, "the message bus reported a problem");
                }
            }
            _ => tracing::debug!(event = %text, "message bus"),
        }
    }

    /// Whether the agent may not receive its requests. The server keeps the connection open.
    fn is_denial(&self, error: &ServerError) -> bool {
        let ServerError::Other(text) = error else {
            return false;
        };
        text.to_lowercase()
            .starts_with("permissions violation for subscription")
            && text.contains(&self.subject)
    }
}
