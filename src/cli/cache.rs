//! `bosh-agent cache`: lists, verifies and prunes the cache of compiled packages.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{FromArgMatches, Parser, Subcommand};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::compile_flags::cache_directory;
use super::{DONE, MACHINE, USAGE, print, print_error, values};
use crate::cache::{Damage, Entry, Listed, LocalCache};
use crate::config::Environment;
use crate::diag::{self, Bytes, Chain, Elapsed, printable, printable_json};
use crate::fs;
use crate::offline::FailureKind;

/// The maximum number of characters of a version or key in the table.
const SHORT: usize = 12;

/// How long `prune` keeps files that no package uses: another process may be about to store their package.
const GRACE: Duration = Duration::from_secs(600);

/// Lists, verifies and prunes the cache of compiled packages.
#[derive(Debug, Parser)]
#[command(
    name = "bosh-agent cache",
    args_override_self = true,
    max_term_width = 110,
    disable_version_flag = true,
    disable_help_subcommand = true
)]
pub(super) struct CacheCommand {
    #[command(subcommand)]
    action: CacheAction,

    /// Directory of the cache [default: the variable BOSH_AGENT_CACHE_DIR]
    #[arg(long, value_name = "DIR", global = true)]
    cache_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Subcommand)]
enum CacheAction {
    /// List the packages in the cache
    Ls {
        /// Print JSON, with everything that affects each package
        #[arg(long)]
        json: bool,
    },
    /// Verify all files, and move damaged ones to the directory `v1/damaged` of the cache
    Verify,
    /// Remove unused files; with --max-size, also the least recently used packages
    ///
    /// A run first stores the files of a package, and then the entry that names them. So a file without an entry is
    /// removed only if no run has used it for ten minutes. Damaged files are kept for 30 days or, with --max-size, for ten minutes. The
    /// cache also records the digests of source archives. These records are kept for 30 days after their last use.
    Prune {
        /// Maximum size of the cache; `0` removes all packages
        #[arg(long, value_name = "SIZE", value_parser = values::size)]
        max_size: Option<u64>,
    },
    /// Print the directory of the cache
    Path,
}

/// The result of a command: what it prints to stdout, and its exit code.
type Printed = (String, u8);

/// Parses the arguments after `cache`. The error is a text for the user. Its second part is true if the text is the help.
pub(super) fn parse(arguments: &[OsString]) -> Result<CacheCommand, (String, bool)> {
    let command = <CacheCommand as clap::CommandFactory>::command();
    let with_name = std::iter::once(OsString::from("bosh-agent cache")).chain(arguments.to_vec());
    let matches = command.try_get_matches_from(with_name);
    matches
        .and_then(|matches| CacheCommand::from_arg_matches(&matches))
        .map_err(|error| (error.to_string(), !error.use_stderr()))
}

pub(super) fn main(command: CacheCommand, environment: &Environment) -> u8 {
    let Some(directory) = cache_directory(command.cache_dir, environment) else {
        print_error(
            "Error: no cache is given\nHint: pass --cache-dir DIR, or set BOSH_AGENT_CACHE_DIR",
        );
        return USAGE;
    };
    let cache = LocalCache::new(&directory);
    let done = match command.action {
        CacheAction::Path => Ok((directory.display().to_string(), DONE)),
        CacheAction::Ls { json } => list(&cache, json),
        CacheAction::Verify => verify(&cache),
        CacheAction::Prune { max_size } => prune(&cache, max_size),
    };
    match done {
        Ok((text, code)) => match print(&text) {
            DONE => code,
            failed => failed,
        },
        Err(error) => {
            let hint = error.hint().map(|hint| format!("\nHint: {hint}"));
            let hint = hint.unwrap_or_default();
            print_error(&format!("Error: {}{hint}", printable(&Chain(&error))));
            MACHINE
        }
    }
}

fn list(cache: &LocalCache, as_json: bool) -> fs::Result<Printed> {
    let (listed, damaged) = cache.list()?;
    warn(&damaged, |_| {
        Some("Run `bosh-agent cache verify` to set it aside")
    });
    let code = code_of(&damaged);
    match as_json {
        true => {
            let text = serde_json::to_string_pretty(&json(cache, &listed));
            Ok((printable_json(&text.unwrap_or_default()), code))
        }
        false => Ok((table(cache.root(), &listed), code)),
    }
}

fn verify(cache: &LocalCache) -> fs::Result<Printed> {
    let verified = cache.verify(&CancellationToken::new())?;
    warn(&verified.damaged, |damage| {
        damage.is_set_aside().then_some("It was set aside")
    });
    let text = format!(
        "{} good: {}",
        packages(verified.intact),
        Bytes(verified.bytes)
    );
    Ok((text, code_of(&verified.damaged)))
}

fn prune(cache: &LocalCache, max_size: Option<u64>) -> fs::Result<Printed> {
    let pruned = cache.prune(max_size, GRACE, &CancellationToken::new())?;
    let text = format!(
        "Removed {} and {}; {} left: {}",
        packages(pruned.packages),
        Bytes(pruned.bytes),
        packages(pruned.left),
        Bytes(pruned.left_bytes)
    );
    Ok((text, DONE))
}

/// Warns about damaged files. `more` returns a second sentence for the message.
fn warn(damaged: &[Damage], more: impl Fn(&Damage) -> Option<&'static str>) {
    for damage in damaged {
        let what = printable(&Chain(damage));
        let more = more(damage).map(|more| format!(". {more}"));
        print_error(&format!(
            "Warning: the file of the cache {what}{}",
            more.unwrap_or_default()
        ));
    }
}

/// The exit code. A damaged cache has the same code as a damaged release.
fn code_of(damaged: &[Damage]) -> u8 {
    match damaged {
        [] => DONE,
        [..] => FailureKind::Input.exit_code(),
    }
}

fn packages(count: usize) -> String {
    match count {
        1 => "1 package".to_owned(),
        count => format!("{count} packages"),
    }
}

/// A table of packages, and a line with their number and total size.
fn table(directory: &Path, listed: &[Listed]) -> String {
    let head = [
        "package",
        "version",
        "stemcell",
        "size",
        "compiled in",
        "last used (UTC)",
        "key",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(listed.iter().map(|it| {
        let parts = &it.entry.parts;
        [
            printable(&parts.name),
            short(&printable(&parts.version)),
            printable(&parts.stemcell),
            Bytes(it.entry.size()).to_string(),
            Elapsed(it.entry.elapsed()).to_string(),
            date(it.used, "%Y-%m-%d %H:%M"),
            short(it.entry.key().as_str()),
        ]
    }));
    let size: u64 = listed.iter().map(|it| it.entry.size()).sum();
    let sum = format!(
        "{} in {}: {}",
        packages(listed.len()),
        directory.display(),
        Bytes(size)
    );
    match listed {
        [] => sum,
        // Right-align the columns of sizes and times.
        [..] => diag::table(&rows, &[3, 4]) + &sum,
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SHORT) {
        Some((end, _)) if text.len() > end + 1 => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}

fn date(time: SystemTime, format: &str) -> String {
    let time = chrono::DateTime::<chrono::Utc>::from(time);
    time.format(format).to_string()
}

/// The list of packages as JSON, for other programs.
#[derive(Serialize)]
struct Json<'a> {
    directory: String,
    packages: Vec<JsonPackage<'a>>,
}

#[derive(Serialize)]
struct JsonPackage<'a> {
    key: String,
    /// RFC 3339, in UTC.
    last_used: String,
    size: u64,
    #[serde(flatten)]
    entry: &'a Entry,
}

fn json<'a>(cache: &LocalCache, listed: &'a [Listed]) -> Json<'a> {
    let packages = listed.iter().map(|it| JsonPackage {
        key: it.entry.key().to_string(),
        last_used: date(it.used, "%Y-%m-%dT%H:%M:%SZ"),
        size: it.entry.size(),
        entry: &it.entry,
    });
    Json {
        directory: cache.root().display().to_string(),
        packages: packages.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<CacheCommand, (String, bool)> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        parse(&arguments)
    }

    #[test]
    fn directory_is_a_flag_before_or_after_the_command() {
        for given in [
            &["--cache-dir", "d", "verify"][..],
            &["verify", "--cache-dir", "d"],
            &["verify", "--cache-dir=d"],
        ] {
            let command = parsed(given).unwrap();
            assert_eq!(command.cache_dir, Some(PathBuf::from("d")));
            assert!(matches!(command.action, CacheAction::Verify));
        }
        assert!(parsed(&["--help"]).unwrap_err().1);
        assert!(!parsed(&["prune", "--max-size=1"]).unwrap_err().1);
        assert!(!parsed(&["clear"]).unwrap_err().1);
    }

    #[test]
    fn empty_cache_has_no_table() {
        assert_eq!(table(Path::new("/c"), &[]), "0 packages in /c: 0 B");
    }
}
