//! Packages that a script speaks of. Pure.

use std::collections::BTreeSet;
use std::path::Path;

use crate::release::Name;

/// The names of packages that stand below the directory of packages in a text, each once.
pub(super) fn mentioned(text: &str, packages: &Path) -> BTreeSet<Name> {
    let directory = format!("{}/", packages.display());
    text.split(&directory)
        .skip(1)
        .filter_map(|after| {
            let end = after
                .find(|character: char| !is_in_names(character))
                .unwrap_or(after.len());
            // A sentence may end behind it.
            Name::parse(after[..end].trim_end_matches('.')).ok()
        })
        // What begins with a dot is there for ourselves.
        .filter(|name| !name.as_str().starts_with('.'))
        .collect()
}

fn is_in_names(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-_.+".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_found_wherever_they_stand() {
        let text = "+ /var/vcap/packages/go-1.2/bin/go build\n\
                    cat: /var/vcap/packages/zlib: Permission denied\n\
                    CFLAGS=-I/var/vcap/packages/lib_a/include -L'/var/vcap/packages/zlib'\n\
                    rm: /var/vcap/packages/.hidden: it is not in /var/vcap/packages/end. Nor in /var/vcap/packages/\n\
                    /var/vcap/packages/*/bin /var/vcap/packagesX/no /other/packages/no";
        let found = mentioned(text, Path::new("/var/vcap/packages"));
        let found: Vec<&str> = found.iter().map(Name::as_str).collect();
        assert_eq!(found, ["end", "go-1.2", "lib_a", "zlib"]);
    }
}
