//! Chooses the directories in `BASE/data` that a package can use in addition to its compile and install directories:
//!
//! - shared scratch directories, which the package uses together with other packages
//! - directories whose paths the source mentions, which the package uses alone

use std::collections::BTreeSet;
use std::path::Path;

use super::installed::Installed;
use super::job::Job;
use super::small_files;
use crate::config::Vcap;
use crate::release::Name;

/// The names in `BASE/data` of directories that belong to the agent. They are never scratch directories.
const RESERVED: [&str; 3] = ["packages", "compile", "bosh-agent-logs"];

/// The names of the scratch directories that a package shares with other packages: its own name, the names of its direct dependencies, and
/// the names in the environment files of these dependencies (`bosh/*.env`).
pub(super) fn shared(job: &Job, vcap: &Vcap) -> Vec<Name> {
    let mut names = BTreeSet::from([job.name.clone()]);
    for dependency in &job.dependencies {
        names.insert(dependency.name.clone());
        names.extend(named_for_dependents(&dependency.installed, vcap));
    }
    names.retain(|name| vcap.scratch(name).is_some());
    names.into_iter().collect()
}

/// The directories in `BASE/data` that the environment files of an installed package mention. The package's dependents share these
/// directories.
pub(super) fn named_for_dependents(installed: &Installed, vcap: &Vcap) -> BTreeSet<Name> {
    let data = vcap.data();
    let files = installed.environment_files().iter();
    files.flat_map(|text| in_text(text, &data)).collect()
}

/// The directories in `BASE/data` that the files at the top of a package's source mention, except `shared` scratch directories. Blocks.
pub(super) fn named_in_source(shared: &[Name], source: &Path, vcap: &Vcap) -> BTreeSet<Name> {
    let data = vcap.data();
    let files = small_files::read(source, |_| true);
    let mut names: BTreeSet<Name> = files.iter().flat_map(|text| in_text(text, &data)).collect();
    for shared in shared {
        names.remove(shared);
    }
    names
}

/// Whether a line reports that a command could not create or remove the scratch directory itself.
pub(super) fn blocks_a_command(directory: &Path, lines: &[String]) -> bool {
    let directory = directory.display().to_string();
    let errors = ["File exists", "Device or resource busy"];
    lines.iter().any(|line| {
        errors.iter().any(|error| line.ends_with(error))
            // Leave out longer paths, such as those of entries of the directory.
            && line.split(&directory).skip(1).any(|after| {
                !after.starts_with(|character| character == '/' || is_in_names(character))
            })
    })
}

/// The names of the entries of `directory` in a script's text. Finds `DIRECTORY/NAME`, and `$VARIABLE/NAME` if the script sets the variable
/// to the directory. Ignores quotes, and expands lists in braces (`DIRECTORY/{NAME,NAME}`).
fn in_text(text: &str, directory: &Path) -> BTreeSet<Name> {
    let directory = directory.display().to_string();
    if !text.contains(&directory) {
        return BTreeSet::new();
    }
    let text = text.replace(['"', '\''], "");
    let mut prefixes = vec![format!("{directory}/")];
    for (at, _) in text.match_indices(&format!("={directory}")) {
        let after = text[at + 1 + directory.len()..].trim_start_matches('/');
        let variable = text[..at]
            .rsplit(|character: char| !(character.is_ascii_alphanumeric() || character == '_'))
            .next()
            .unwrap_or_default();
        if !variable.is_empty() && !after.starts_with(is_in_names) {
            prefixes.push(format!("${variable}/"));
            prefixes.push(format!("${{{variable}}}/"));
        }
    }
    let mut names = BTreeSet::new();
    for after in prefixes
        .iter()
        .flat_map(|prefix| text.split(prefix).skip(1))
    {
        let alternatives = after
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        match alternatives {
            Some((alternatives, _)) => {
                names.extend(alternatives.split(',').filter_map(leading_name));
            }
            None => names.extend(leading_name(after)),
        }
    }
    names
}

/// The name at the beginning of a text. `None` if the name belongs to the agent, or if a variable or a pattern follows, because the complete
/// name is then unknown before the script runs.
fn leading_name(text: &str) -> Option<Name> {
    let end = text
        .find(|character: char| !is_in_names(character))
        .unwrap_or(text.len());
    if text[end..].starts_with(['$', '*', '?', '[', '{', '`']) {
        return None;
    }
    let name = Name::parse(text[..end].trim_end_matches('.')).ok()?;
    let is_internal = name.as_str().starts_with(".bosh-agent");
    (!is_internal && !RESERVED.contains(&name.as_str())).then_some(name)
}

fn is_in_names(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-_.+".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let names = in_text(text, Path::new("/var/vcap/data"));
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn literal_paths_are_found() {
        let text = "mkdir -p /var/vcap/data/a/b \"/var/vcap/data/c\" '/var/vcap/data'/d\n\
                    export GOCACHE=/var/vcap/data/go-1.22/cache # see /var/vcap/data/e.\n\
                    mkdir /var/vcap/data/{f,g-1}/x; ls /var/vcap/data /other/var/vcap/data2/no";
        assert_eq!(found(text), ["a", "c", "d", "e", "f", "g-1", "go-1.22"]);
    }

    #[test]
    fn variables_that_hold_the_directory_are_followed() {
        let text = "DATA_DIR=\"/var/vcap/data\"\nOTHER=/var/vcap/data/; SUB=/var/vcap/data/sub\n\
                    mkdir -p $DATA_DIR/a \"${OTHER}/b\" $SUB/no $DATA_DIRS/no $UNKNOWN/no";
        assert_eq!(found(text), ["a", "b", "sub"]);
    }

    #[test]
    fn commands_that_fail_on_the_directory_itself_are_recognized() {
        let blocks_a_command =
            |line: &str| blocks_a_command(Path::new("/var/vcap/data/go"), &[line.to_owned()]);
        for line in [
            "mkdir: cannot create directory '/var/vcap/data/go': File exists",
            "mkdir: cannot create directory \u{2018}/var/vcap/data/go\u{2019}: File exists",
            "rm: cannot remove '/var/vcap/data/go': Device or resource busy",
        ] {
            assert!(blocks_a_command(line), "{line}");
        }
        for line in [
            "mkdir: cannot create directory '/var/vcap/data/go/a': File exists",
            "mkdir: cannot create directory '/var/vcap/data/go-1': File exists",
            "ls: cannot access '/var/vcap/data/go': No such file or directory",
        ] {
            assert!(!blocks_a_command(line), "{line}");
        }
    }

    #[test]
    fn unknown_and_reserved_names_are_left_out() {
        let text = "rm -rf /var/vcap/data/x$NAME /var/vcap/data/$NAME /var/vcap/data/* /var/vcap/data/y*\n\
             ls /var/vcap/data/packages/a /var/vcap/data/compile /var/vcap/data/.bosh-agent-tmp /var/vcap/data/..";
        assert_eq!(found(text), [""; 0]);
    }
}
