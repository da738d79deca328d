//! A copy of the environment variables, made once at the start.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::time::Duration;

/// A copy of the environment variables at the start of the process.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// Copies the environment of this process.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the environment"
    )]
    pub fn of_this_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// The value of a variable; `None` if it is not set.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_os_str())
    }

    /// A copy of the environment with additional or changed variables.
    #[must_use]
    pub fn with(&self, set: &[(&str, OsString)]) -> Self {
        let kept = self
            .0
            .iter()
            .filter(|(key, _)| set.iter().all(|(name, _)| key != name))
            .cloned();
        let set = set
            .iter()
            .map(|(name, value)| (OsString::from(name), value.clone()));
        Self(kept.chain(set).collect())
    }

    /// All variables with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

/// The limit for a file system over the directories of the machine to respond. Tests of a debug build can shorten it, in seconds, with
/// `BOSH_AGENT_TEST_MOUNT_LIMIT`.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
pub(crate) fn mount_limit() -> Duration {
    // A network file system may be slow while its server starts again.
    const LIMIT: Duration = Duration::from_secs(30);
    let of_test = || {
        std::env::var("BOSH_AGENT_TEST_MOUNT_LIMIT")
            .ok()?
            .parse()
            .ok()
    };
    match cfg!(debug_assertions) {
        true => of_test().map_or(LIMIT, Duration::from_secs),
        false => LIMIT,
    }
}

/// Prints only the names. A value may be a password, or the URL of a proxy with a password.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_variable_replaces_the_inherited_one() {
        let inherited: Environment = [("A", "1"), ("B", "2")]
            .map(|(name, value)| (name.into(), value.into()))
            .into_iter()
            .collect();
        let changed = inherited.with(&[("B", "3".into()), ("C", "4".into())]);
        assert_eq!(changed.get("A"), Some(OsStr::new("1")));
        assert_eq!(changed.get("B"), Some(OsStr::new("3")));
        assert_eq!(changed.get("C"), Some(OsStr::new("4")));
        assert_eq!(changed.iter().count(), 3);
    }

    #[test]
    fn values_are_not_printed() {
        let environment =
            Environment::default().with(&[("HTTP_PROXY", "http://me:hunter2@proxy".into())]);
        assert_eq!(format!("{environment:?}"), r#"{"HTTP_PROXY"}"#);
    }
}
