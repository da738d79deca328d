//! Finds a package in the cache. If it is missing, explains why.

use std::cmp::Reverse;

use crate::cache::{Damage, Entry, KeyParts, LocalCache, differences, in_words};
use crate::diag::Chain;

/// The reason for a miss if an entry or one of its files is damaged.
pub(super) const DAMAGED: &str = "its entry is damaged";

/// The result of a search.
#[derive(Debug)]
pub(super) enum Found {
    /// The package was compiled before in the same way.
    Hit(Box<Entry>),
    /// The cache has no entry of the package, or none that may be used.
    Miss {
        /// Why the package was not found, as the end of a sentence.
        reason: String,
        /// The damaged file, if that is the reason.
        damage: Option<Damage>,
    },
}

/// Searches the cache for a package. Reads only entries, not the files that they name.
pub(super) fn find(cache: &LocalCache, parts: &KeyParts, accepts_unrestricted: bool) -> Found {
    match cache.find(&parts.name, &parts.key()) {
        Ok(Some(entry)) if accepts_unrestricted || !entry.unrestricted => Found::Hit(Box::new(entry)),
        Ok(Some(_)) => Found::Miss {
            reason: "it was compiled without restrictions or in spite of a denied access, which needs --cache-unrestricted"
                .to_owned(),
            damage: None,
        },
        Ok(None) => Found::Miss {
            reason: explain(cache, parts),
            damage: None,
        },
        Err(damage) => Found::Miss {
            reason: DAMAGED.to_owned(),
            damage: Some(damage),
        },
    }
}

/// The reason for a miss if the cache has no entry of a package's name, or none can be compared.
pub(super) fn no_entry(name: &str) -> String {
    format!("no entry of {name}")
}

/// Why a package is not in the cache: how it differs from the most similar entry of its name, the newest one if there are several.
fn explain(cache: &LocalCache, parts: &KeyParts) -> String {
    let name = &parts.name;
    // A damaged entry of another package is reported when it is used.
    let listed = match cache.list_package(name) {
        Ok((listed, _)) => listed,
        Err(error) => return format!("its entries cannot be read: {}", Chain(&error)),
    };
    let compared = listed.into_iter().map(|listed| {
        let differences = differences(&listed.entry.parts, parts);
        (differences, listed.entry.stored)
    });
    let nearest =
        compared.min_by_key(|(differences, stored)| (differences.len(), Reverse(*stored)));
    match nearest {
        None => no_entry(name),
        Some((differences, _)) => format!(
            "the most similar entry of {name} was compiled {}",
            in_words(&differences)
        ),
    }
}
