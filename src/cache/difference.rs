//! Explains why a cached package was not used: describes how the key parts of a cached package
//! differ from those of a package to compile. No I/O.

use std::collections::BTreeMap;
use std::fmt;

use super::key::{KeyParts, SCRIPT_USER};
use crate::diag::printable;

/// A part of the key in which a cached package differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Another version of bosh-agent, with another format of keys, stored the package.
    Format,
    /// The contents of the source differ.
    Source,
    /// The version differs, although the source is the same. The cached package had this version.
    Version(String),
    /// The cached package was compiled for this stemcell.
    Stemcell(String),
    /// The cached package was compiled on this architecture.
    Architecture(String),
    /// The cached package was compiled in this base directory.
    Base(String),
    /// This dependency differs.
    Dependency(String, Change),
    /// This file or compiler of the root file system differs.
    Root(String, Change),
    /// This option differs. The second field is the value for the cached package.
    Option(String, String),
    /// This variable differs.
    Variable(String, Change),
}

/// How a named part of the key differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The cached package had another value.
    Other,
    /// Only the cached package had the part.
    Gone,
    /// Only the package to compile has the part.
    New,
}

/// Compares the key parts of a cached package with those of a package to compile.
#[must_use]
pub fn differences(cached: &KeyParts, now: &KeyParts) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut note = |differs: bool, difference: Difference| {
        if differs {
            found.push(difference);
        }
    };
    note(cached.format != now.format, Difference::Format);
    note(cached.source != now.source, Difference::Source);
    // A changed source usually has a changed version, which is then not reported separately.
    note(
        cached.version != now.version && cached.source == now.source,
        Difference::Version(cached.version.clone()),
    );
    note(
        cached.stemcell != now.stemcell,
        Difference::Stemcell(cached.stemcell.clone()),
    );
    note(
        cached.architecture != now.architecture,
        Difference::Architecture(cached.architecture.clone()),
    );
    note(
        cached.base != now.base,
        Difference::Base(cached.base.clone()),
    );
    let named = |cached, now, make: fn(String, Change) -> Difference| {
        let changes = changes(cached, now).into_iter();
        changes.map(move |(name, change)| make(name, change))
    };
    // Do not compare options across format versions, which may have different options.
    let options = changes(&cached.options, &now.options).into_iter();
    let options = options.filter(|_| cached.format == now.format);
    let options = options.map(|(name, _)| {
        let value = cached.options.get(&name).cloned();
        Difference::Option(name, value.unwrap_or_else(|| "off".to_owned()))
    });
    found.extend(named(
        &cached.dependencies,
        &now.dependencies,
        Difference::Dependency,
    ));
    found.extend(named(&cached.root, &now.root, Difference::Root));
    found.extend(options);
    found.extend(named(
        &cached.variables,
        &now.variables,
        Difference::Variable,
    ));
    found
}

fn changes(
    cached: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
) -> Vec<(String, Change)> {
    let other = cached.iter().filter_map(|(name, value)| {
        let change = match now.get(name) {
            None => Change::Gone,
            Some(new) if new != value => Change::Other,
            Some(_) => return None,
        };
        Some((name.clone(), change))
    });
    let new = now.keys().filter(|name| !cached.contains_key(*name));
    other
        .chain(new.map(|name| (name.clone(), Change::New)))
        .collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format => f.write_str("by another version of bosh-agent"),
            Self::Source => f.write_str("from another source"),
            Self::Version(version) => write!(f, "as version {version}"),
            Self::Stemcell(stemcell) => write!(f, "for stemcell {stemcell}"),
            Self::Architecture(architecture) => write!(f, "on {architecture}"),
            Self::Base(base) => write!(f, "in {base}"),
            Self::Dependency(name, Change::Other) => write!(f, "against another {name}"),
            Self::Dependency(name, Change::Gone) => write!(f, "against {name} too"),
            Self::Dependency(name, Change::New) => write!(f, "without dependency {name}"),
            Self::Root(file, change) if file == DPKG => match change {
                Change::Other => f.write_str("with other Debian packages installed"),
                Change::Gone => f.write_str("with Debian packages installed"),
                Change::New => f.write_str("without Debian packages"),
            },
            Self::Root(name, Change::Other) => write!(f, "with another `{name}`"),
            Self::Root(name, Change::Gone) => write!(f, "with `{name}`, which is missing now"),
            Self::Root(name, Change::New) => write!(f, "without `{name}`"),
            Self::Option(name, user) if name == SCRIPT_USER => write!(f, "by {user}"),
            Self::Option(flag, value) => write!(f, "with {flag} {value}"),
            Self::Variable(name, Change::Other) => write!(f, "with another {name}"),
            Self::Variable(name, Change::Gone) => write!(f, "with {name}, which is not set now"),
            Self::Variable(name, Change::New) => write!(f, "without {name}"),
        }
    }
}

/// The list of installed Debian packages.
pub(super) const DPKG: &str = "/var/lib/dpkg/status";

/// The maximum number of differences in a message.
const NAMED: usize = 4;

/// The differences as the end of a sentence that starts with "was compiled". The names in them are
/// escaped, because another user may have written them.
#[must_use]
pub fn in_words(differences: &[Difference]) -> String {
    let named: Vec<String> = differences
        .iter()
        .take(NAMED)
        .map(|difference| printable(difference))
        .collect();
    let others = differences.len().saturating_sub(NAMED);
    match (named.split_last(), others) {
        (None, _) => "in the same way".to_owned(),
        (Some((only, [])), _) => only.clone(),
        (Some((last, rest)), 0) => format!("{} and {last}", rest.join(", ")),
        (Some(_), 1) => format!("{} and with one more difference", named.join(", ")),
        (Some(_), more) => format!("{} and with {more} more differences", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::tests::parts;
    use super::*;

    fn words(change: impl Fn(&mut KeyParts)) -> String {
        let (cached, mut now) = (parts(), parts());
        change(&mut now);
        assert_ne!(cached.key(), now.key(), "the key must change, too");
        in_words(&differences(&cached, &now))
    }

    #[test]
    fn each_part_has_its_words() {
        let set = |map: &mut BTreeMap<String, String>, name: &str, value: &str| {
            map.insert(name.to_owned(), value.to_owned());
        };
        assert_eq!(
            words(|it| it.format += 1),
            "by another version of bosh-agent"
        );
        assert_eq!(words(|it| it.source.push('x')), "from another source");
        assert_eq!(words(|it| it.version.push('x')), "as version 1");
        assert_eq!(
            words(|it| it.stemcell = "ubuntu-jammy/1".to_owned()),
            "for stemcell ubuntu-noble/1.1"
        );
        assert_eq!(words(|it| it.architecture.push('x')), "on x86_64");
        assert_eq!(words(|it| it.base.push('x')), "in /var/vcap");
        assert_eq!(
            words(|it| set(&mut it.dependencies, "lib", "x")),
            "against another lib"
        );
        assert_eq!(
            words(|it| set(&mut it.dependencies, "new", "x")),
            "without dependency new"
        );
        assert_eq!(
            words(|it| it.dependencies.retain(|name, _| name != "lib")),
            "against lib too"
        );
        assert_eq!(
            words(|it| set(&mut it.root, "gcc", "x")),
            "with another `gcc`"
        );
        assert_eq!(
            words(|it| set(&mut it.root, DPKG, "x")),
            "without Debian packages"
        );
        assert_eq!(
            words(|it| set(&mut it.options, "--network", "none")),
            "with --network host"
        );
        assert_eq!(
            words(|it| set(&mut it.options, SCRIPT_USER, "an ordinary user")),
            "by root"
        );
        assert_eq!(
            words(|it| {
                it.format += 1;
                set(&mut it.options, "--network", "none");
            }),
            "by another version of bosh-agent"
        );
        assert_eq!(
            words(|it| set(&mut it.variables, "CFLAGS", "x")),
            "without CFLAGS"
        );
        assert_eq!(
            words(|it| it.variables.clear()),
            "with PATH, which is not set now"
        );
        assert_eq!(
            words(|it| set(&mut it.variables, "PATH", "x")),
            "with another PATH"
        );
    }

    #[test]
    fn names_of_another_user_cannot_control_a_terminal() {
        let name = "A\u{1b}[2J".to_owned();
        let gone = [Difference::Variable(name, Change::Gone)];
        let text = in_words(&gone);
        assert_eq!(text, "with A\\u{1b}[2J, which is not set now");
    }

    #[test]
    fn several_differences_are_joined_and_counted() {
        let both = words(|it| {
            it.source.push('x');
            it.version.push('x');
            it.base.push('x');
        });
        assert_eq!(both, "from another source and in /var/vcap");
        let many = words(|it| {
            it.source.push('x');
            it.stemcell.push('x');
            it.root.clear();
            it.variables.clear();
            it.dependencies.clear();
        });
        assert_eq!(
            many,
            "from another source, for stemcell ubuntu-noble/1.1, against lib too, against zlib too and with 3 more differences"
        );
    }
}
