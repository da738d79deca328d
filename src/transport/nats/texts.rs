//! Prepares texts of servers for the log.

use crate::config::Secret;
use crate::diag::printable_up_to;

/// The maximum length of a server's text in the log, in characters.
const LONGEST: usize = 500;

/// Prepares texts of servers for the log: without the credentials that the client sends to every
/// server, and not long.
#[derive(Debug, Clone, Default)]
pub(super) struct ServerTexts {
    credentials: Vec<Secret>,
}

impl ServerTexts {
    /// `credentials` are the client's passwords and tokens.
    pub(super) fn new(credentials: impl IntoIterator<Item = Secret>) -> Self {
        let credentials = credentials.into_iter();
        Self {
            credentials: credentials.filter(|secret| !secret.is_empty()).collect(),
        }
    }

    pub(super) fn shown(&self, text: &str) -> String {
        let credentials = self.credentials.iter();
        let text = credentials.fold(text.to_owned(), |text, secret| {
            text.replace(secret.expose(), "[redacted]")
        });
        printable_up_to(LONGEST, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_server_has_no_credentials_and_is_short() {
        let texts = ServerTexts::new([Secret::new("hunter2"), Secret::default()]);
        let text = format!("'pass':'hunter2'\r\n{}", "x".repeat(1 << 20));
        let shown = texts.shown(&text);
        assert!(shown.starts_with("'pass':'[redacted]'\\r\\nxx"), "{shown}");
        assert!(shown.len() < 600);
    }
}
