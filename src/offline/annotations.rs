//! Formats output for CI systems, which execute commands such as `::error::` in the output of a run. Protects the output of scripts from
//! being executed as commands.

use std::borrow::Cow;

/// Which CI system reads the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Annotations {
    /// No CI system, or one without commands.
    #[default]
    None,
    /// GitHub Actions: `::group::`, `::error::`.
    GitHub,
}

impl Annotations {
    /// The text with all commands made ineffective. GitHub's runner looks for `::` at the start of a line, after optional spaces, and for
    /// `##[` anywhere in a line.
    #[must_use]
    pub fn plain(self, text: &str) -> Cow<'_, str> {
        if self == Self::None || !(text.contains("::") || text.contains("##[")) {
            return Cow::Borrowed(text);
        }
        let mut plain = String::with_capacity(text.len());
        // The runner also treats a carriage return as a line end.
        for line in text.split_inclusive(['\n', '\r']) {
            let start = line.trim_start();
            if let Some(command) = start.strip_prefix("::") {
                plain.push_str(&line[..line.len() - start.len()]);
                plain.push_str(": :");
                plain.push_str(&command.replace("##[", "## ["));
            } else {
                plain.push_str(&line.replace("##[", "## ["));
            }
        }
        Cow::Owned(plain)
    }

    /// Lines that the CI system shows as a group. `text` ends with a line end.
    #[must_use]
    pub fn group(self, title: &str, text: &str) -> String {
        match self {
            Self::None => text.to_owned(),
            Self::GitHub => format!(
                "::group::{}\n{}::endgroup::\n",
                data(title),
                self.plain(text)
            ),
        }
    }

    /// The command that reports an error, with a line end. Empty if the CI system has no such command.
    #[must_use]
    pub fn error(self, title: &str, message: &str) -> String {
        match self {
            Self::None => String::new(),
            Self::GitHub => format!(
                "::error title={}::{}\n",
                data(title).replace(':', "%3A").replace(',', "%2C"),
                data(message)
            ),
        }
    }
}

/// Escapes a message or a title of a command.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_output_are_made_ineffective() {
        let github = Annotations::GitHub;
        for (text, expected) in [
            ("::stop-commands::x\n", ": :stop-commands::x\n"),
            ("a\n  ::error::x", "a\n  : :error::x"),
            ("a\r::error::x", "a\r: :error::x"),
            ("  | ##[error]x ##[group]", "  | ## [error]x ## [group]"),
            ("::add-mask::##[x", ": :add-mask::## [x"),
            ("std::string ::x", "std::string ::x"),
        ] {
            assert_eq!(github.plain(text), expected);
            assert_eq!(Annotations::None.plain(text), text);
        }
    }

    #[test]
    fn messages_and_titles_are_escaped() {
        let github = Annotations::GitHub;
        assert_eq!(
            github.error("a: 1,2 100%", "one: 50%\r\n::two, 3"),
            "::error title=a%3A 1%2C2 100%25::one: 50%25%0D%0A::two, 3\n"
        );
        assert_eq!(
            github.group("a\n::x", "::y\n"),
            "::group::a%0A::x\n: :y\n::endgroup::\n"
        );
        assert_eq!(Annotations::None.group("a", "b\n"), "b\n");
        assert_eq!(Annotations::None.error("a", "b"), "");
    }
}
