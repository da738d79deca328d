//! Flags of `compile`: the cache of compiled packages.

use std::path::PathBuf;

use clap::Args;

use crate::cache::{Credentials, InvalidLocation, Location};
use crate::cli::values;
use crate::config::Environment;
use crate::offline::{CacheOptions, SharedCaches};

/// The variable that names the directory of the cache.
const CACHE_DIRECTORY: &str = "BOSH_AGENT_CACHE_DIR";

#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
pub(in crate::cli) struct CacheFlags {
    /// Take packages from this cache if an earlier run compiled them in the same way, and store the
    /// others in it. Scripts then inherit only the variables of --env and a few others (docs/cache.md)
    /// [default: the variable BOSH_AGENT_CACHE_DIR; without it, no cache]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// Take packages also from this shared cache: a directory, or a URL with http, https, grpc or grpcs
    /// (can be repeated). Credentials come from variables or a netrc file (docs/cache.md)
    #[arg(long, value_name = "URL")]
    pub cache_from: Vec<String>,

    /// Store packages also in this shared cache: a directory, or a URL as for --cache-from
    #[arg(long, value_name = "URL")]
    pub cache_to: Option<String>,

    /// At the end of the run, remove the least recently used packages of --cache-dir until it has at
    /// most this size
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub cache_max_size: Option<u64>,

    /// Cache all packages that are compiled with `landlock`. By default, a package is not cached if its script
    /// ran a second time (see --second-run), or succeeded although access to a file was denied. The same
    /// applies to all packages that depend on it. This flag also permits a cache directory that scripts
    /// can change, such as one in /tmp. Pass this flag only if you trust the scripts: in a second run, a script
    /// has no restrictions and can change the files of other packages
    #[arg(long)]
    pub cache_unrestricted: bool,
}

impl CacheFlags {
    /// The shared caches that the flags ask for.
    ///
    /// # Errors
    /// If a location cannot be used. The error includes the flag.
    pub(in crate::cli) fn shared(
        &self,
        environment: &Environment,
    ) -> Result<SharedCaches, (&'static str, InvalidLocation)> {
        let parse = |text: &String, flag| Location::parse(text).map_err(|error| (flag, error));
        let from = self.cache_from.iter().map(|it| parse(it, "--cache-from"));
        let to = self.cache_to.as_ref().map(|it| parse(it, "--cache-to"));
        Ok(SharedCaches {
            from: from.collect::<Result<_, _>>()?,
            to: to.transpose()?,
            credentials: Credentials::for_caches(environment),
        })
    }

    /// The caches that the flags and the environment ask for.
    pub(in crate::cli) fn options(
        self,
        shared: SharedCaches,
        environment: &Environment,
    ) -> Option<CacheOptions> {
        let directory = directory(self.cache_dir, environment);
        let is_used = directory.is_some() || shared.is_used();
        is_used.then_some(CacheOptions {
            directory,
            max_size: self.cache_max_size,
            unrestricted: self.cache_unrestricted,
            shared,
        })
    }
}

/// The directory of the cache, from the flag or from the environment.
pub(in crate::cli) fn directory(
    flag: Option<PathBuf>,
    environment: &Environment,
) -> Option<PathBuf> {
    let variable = environment.get(CACHE_DIRECTORY);
    flag.or_else(|| variable.map(PathBuf::from))
        .filter(|directory| !directory.as_os_str().is_empty())
}
