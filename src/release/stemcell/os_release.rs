//! Parses `/etc/os-release`, which describes the operating system: `os-release(5)`.

use std::collections::HashMap;

use super::StemcellError;
use crate::release::name::Name;

/// The assignments of an `os-release` file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OsRelease {
    values: HashMap<String, String>,
}

impl OsRelease {
    /// Parses `KEY=value` lines. If a key occurs twice, the last one wins.
    ///
    /// Values are shell words: bare, in single quotes, or in double quotes with `\` before `"`, `$`, `` ` `` and `\`. Invalid lines are
    /// skipped, as by other readers, so that they cannot make a compilation fail.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Self {
        let values = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), unquote(value)))
            .collect();
        Self { values }
    }

    /// The value of a key; `None` if it is missing or empty.
    #[must_use]
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let value = self.values.get(key)?;
        (!value.is_empty()).then_some(value)
    }

    /// The Director's name of this operating system: `ubuntu-jammy`, or `centos-7` if there is no codename.
    ///
    /// # Errors
    /// The ID or the version is missing, an Ubuntu has no codename, or the result is not a valid [`Name`].
    pub(crate) fn operating_system(&self) -> Result<String, StemcellError> {
        let id = self.get("ID").ok_or(StemcellError::NoId)?;
        let version = if let Some(codename) = self.get("VERSION_CODENAME") {
            codename
        } else if id == "ubuntu" {
            return Err(StemcellError::NoCodename);
        } else {
            // The names of other systems have only the major version: `centos-7`, even if `VERSION_ID` is 7.9.
            self.get("VERSION_ID")
                .and_then(|version| version.split('.').next())
                .filter(|major| !major.is_empty())
                .ok_or(StemcellError::NoVersion)?
        };
        let os = format!("{id}-{version}");
        Name::parse(&os).map_err(|source| StemcellError::OperatingSystem { source })?;
        Ok(os)
    }
}

/// The word that a shell would assign. An unclosed quote ends with the line.
fn unquote(value: &str) -> String {
    let mut word = String::new();
    let mut quote = None;
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            (None, '\\') => word.extend(rest.next()),
            (Some('"'), '\\') => match rest.next() {
                Some(escaped @ ('"' | '$' | '`' | '\\')) => word.push(escaped),
                other => word.extend(Some('\\').into_iter().chain(other)),
            },
            (None, c) if c.is_whitespace() => {
                // Skip a comment after the word. Any other text is a mistake, and stays visible in the value.
                let tail = rest.as_str().trim_start();
                if !tail.starts_with('#') {
                    word.push(c);
                    word.push_str(tail);
                }
                break;
            }
            (_, c) => word.push(c),
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const JAMMY: &str = r#"PRETTY_NAME="Ubuntu 22.04.4 LTS"
NAME="Ubuntu"
VERSION_ID="22.04"
VERSION="22.04.4 LTS (Jammy Jellyfish)"
VERSION_CODENAME=jammy
ID=ubuntu
ID_LIKE=debian
HOME_URL="https://www.ubuntu.com/"
UBUNTU_CODENAME=jammy
"#;

    fn os(text: &str) -> Result<String, StemcellError> {
        OsRelease::parse(text).operating_system()
    }

    #[test]
    fn stemcell_image_is_ubuntu_jammy() {
        assert_eq!(os(JAMMY).unwrap(), "ubuntu-jammy");
        let release = OsRelease::parse(JAMMY);
        assert_eq!(
            release.get("VERSION"),
            Some("22.04.4 LTS (Jammy Jellyfish)")
        );
        assert_eq!(release.get("LOGO"), None);
    }

    #[test]
    fn all_notations_give_the_same_operating_system() {
        for text in [
            "ID=ubuntu\nVERSION_CODENAME=jammy\n",
            "ID=ubuntu\nVERSION_CODENAME=jammy",
            "ID=\"ubuntu\"\nVERSION_CODENAME='jammy'",
            "ID=ubuntu\r\nVERSION_CODENAME=\"jammy\"\r\n",
            "# ID=debian\n\n  ID=ubuntu  \n\tVERSION_CODENAME=jammy # a comment\n",
            "ID=debian\nVERSION_CODENAME=jammy\nID=ubuntu",
            "ID=ub\\untu\nVERSION_CODENAME=\"jam\"'my'",
            "ID=ubuntu\nVERSION_CODENAME=\"jammy\" # a comment",
            "nonsense\n=x\nexport ID=debian\nID=ubuntu\nVERSION_CODENAME=jammy",
        ] {
            assert_eq!(os(text).as_deref(), Ok("ubuntu-jammy"), "{text}");
        }
    }

    #[test]
    fn major_version_is_used_without_a_codename() {
        for (text, expected) in [
            ("ID=\"centos\"\nVERSION_ID=\"7\"", "centos-7"),
            ("ID=rhel\nVERSION_ID=8.10\nVERSION_CODENAME=\"\"", "rhel-8"),
            ("ID=opensuse-leap\nVERSION_ID=\"15.6\"", "opensuse-leap-15"),
        ] {
            assert_eq!(os(text).unwrap(), expected);
        }
    }

    #[test]
    fn ubuntu_without_a_codename_is_an_error() {
        let error = os("ID=ubuntu\nVERSION_ID=\"14.04\"").unwrap_err();
        assert_eq!(error, StemcellError::NoCodename);
        assert!(error.hint().unwrap().contains("--stemcell"));
    }

    #[test]
    fn missing_keys_are_named() {
        for (text, expected) in [
            ("", StemcellError::NoId),
            ("ID=\nVERSION_CODENAME=jammy", StemcellError::NoId),
            ("export ID=ubuntu", StemcellError::NoId),
            ("ID=arch", StemcellError::NoVersion),
            ("ID=arch\nVERSION_ID=.1", StemcellError::NoVersion),
        ] {
            assert_eq!(os(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn values_that_are_invalid_in_file_names_are_rejected() {
        for text in [
            "ID=../x\nVERSION_CODENAME=y",
            "ID=ubuntu jammy\nVERSION_CODENAME=jammy",
            "ID='a b'\nVERSION_CODENAME=jammy",
        ] {
            let error = os(text).unwrap_err();
            assert!(
                matches!(error, StemcellError::OperatingSystem { .. }),
                "{text}"
            );
        }
    }

    #[test]
    fn quotes_and_escapes_follow_the_shell() {
        for (value, expected) in [
            (r#""a \"b\" \$c \`d\` \\e \f""#, r#"a "b" $c `d` \e \f"#),
            (r"'a \b $c'", r"a \b $c"),
            (r"a\ b", "a b"),
            ("\"open", "open"),
            ("", ""),
            ("\\", ""),
            ("\"\\", "\\"),
        ] {
            assert_eq!(unquote(value), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_a_name_or_an_error(text in r#"((ID|VERSION_ID|VERSION_CODENAME)=[a-z"'\\ #.]{0,6}\n){0,4}|\PC*"#) {
            if let Ok(os) = os(&text) {
                prop_assert!(Name::parse(&os).is_ok());
            }
        }

        #[test]
        fn quoted_value_survives_a_round_trip(value in r"[^\n\r']*") {
            prop_assert_eq!(unquote(&format!("'{value}'")), value);
        }
    }
}
