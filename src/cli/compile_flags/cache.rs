//! Flags of `compile`: the cache of compiled packages.

use std::path::PathBuf;

use clap::Args;

use crate::cli::values;
use crate::config::Environment;
use crate::offline::CacheOptions;

/// The variable that names the directory of the cache.
const CACHE_DIRECTORY: &str = "BOSH_AGENT_CACHE_DIR";

#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
pub(in crate::cli) struct CacheFlags {
    /// Take packages that an earlier run compiled in the same way from this directory, and store
    /// the others there. Scripts then inherit only the variables that docs/cache.md lists, and those
    /// of --env [default: the variable BOSH_AGENT_CACHE_DIR; without it, no cache]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// At the end, remove the least recently used packages until the cache has at most this size
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub cache_max_size: Option<u64>,

    /// Also store and use packages that were compiled in a second run without restrictions, in which
    /// undeclared dependencies go undetected
    #[arg(long)]
    pub cache_unrestricted: bool,
}

impl CacheFlags {
    /// The cache that the flags and the environment ask for.
    pub(in crate::cli) fn options(self, environment: &Environment) -> Option<CacheOptions> {
        Some(CacheOptions {
            directory: directory(self.cache_dir, environment)?,
            max_size: self.cache_max_size,
            unrestricted: self.cache_unrestricted,
        })
    }
}

/// The directory of the cache: that of the flag or of the environment.
pub(in crate::cli) fn directory(
    flag: Option<PathBuf>,
    environment: &Environment,
) -> Option<PathBuf> {
    let variable = environment.get(CACHE_DIRECTORY);
    flag.or_else(|| variable.map(PathBuf::from))
        .filter(|directory| !directory.as_os_str().is_empty())
}
