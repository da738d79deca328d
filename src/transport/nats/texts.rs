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
        let mut credentials: Vec<Secret> = credentials
            .filter(|secret| !secret.is_empty())
            .flat_map(|secret| [in_json(&secret), secret])
            .collect();
        // The longest first, because one credential may be a part of another.
        credentials.sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        Self { credentials }
    }

    pub(super) fn shown(&self, text: &str) -> String {
        let credentials = self.credentials.iter();
        let text = credentials.fold(text.to_owned(), |text, secret| {
            text.replace(secret.expose(), "[redacted]")
        });
        printable_up_to(LONGEST, &text)
    }
}

/// A credential as the client sends it: in JSON, which escapes some characters.
fn in_json(secret: &Secret) -> Secret {
    let quoted = serde_json::Value::from(secret.expose()).to_string();
    Secret::new(&quoted[1..quoted.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_server_has_no_credentials_and_is_short() {
        let secrets = ["hunter", "hunter2", "a\"b\\", ""].map(Secret::new);
        let texts = ServerTexts::new(secrets);
        let connect = serde_json::json!({ "pass": "hunter2", "token": "a\"b\\" });
        let text = format!("{connect} a\"b\\\r\n{}", "x".repeat(1 << 20));
        let shown = texts.shown(&text);
        let expected = r#"{"pass":"[redacted]","token":"[redacted]"} [redacted]\r\nxx"#;
        assert!(shown.starts_with(expected), "{shown}");
        assert!(shown.len() < 600);
    }
}
