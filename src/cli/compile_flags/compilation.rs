//! Flags of `compile`: what is compiled for which stemcell, and how much at a time.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use crate::cache;
use crate::cli::values::{self, Variable};
use crate::config::{Environment, Vcap};
use crate::diag::Chain;
use crate::release::Slug;

#[derive(Debug, Args)]
#[command(next_help_heading = "Compilation")]
pub(in crate::cli) struct CompilationFlags {
    /// Stemcell to compile for, such as `ubuntu-noble/1.406` [default: read from os-release and
    /// stemcell_version]
    #[arg(long, value_name = "OS/VERSION", value_parser = stemcell)]
    pub stemcell: Option<Slug>,

    /// Take a package from this compiled release, the result of an earlier run for the same stemcell, if
    /// its name, version and fingerprint are the same, and those of all its dependencies. Can be
    /// repeated
    #[arg(long, value_name = "COMPILED.tgz", conflicts_with = "shell")]
    pub reuse: Vec<PathBuf>,

    /// Maximum number of packages to compile concurrently. `auto` is the number of available CPUs, or
    /// fewer if the memory is not sufficient (cgroup limits are honored), or 1 with --isolation=none.
    /// With less than 256 MiB of available memory, no script starts while another one runs
    #[arg(long, value_name = "N", default_value = "auto", value_parser = jobs)]
    pub jobs: JobsFlag,

    /// Memory that `--jobs auto` expects each package to need; with `0`, only the CPUs count
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = values::size)]
    pub memory_per_job: u64,

    /// After a failure, continue with the packages that do not depend on the failed one. Releases
    /// whose packages are all compiled are written
    #[arg(long)]
    pub keep_going: bool,

    #[command(flatten)]
    pub script: ScriptFlags,
}

// Flags for the scripts of packages, also of a single one.
#[derive(Debug, Args)]
#[command(next_help_heading = "Compilation")]
pub(in crate::cli) struct ScriptFlags {
    /// Share one GNU make jobserver between all scripts, with a make job per available CPU. A plain
    /// `make` then runs in parallel, which some packages do not support; `make -jN` is not affected
    #[arg(long)]
    pub make_jobserver: bool,

    /// Add this variable to those that scripts inherit, or set it to a value. With a cache, scripts
    /// inherit only the variables that docs/cache.md lists; without one, all variables except the
    /// credentials of shared caches. Can be repeated
    #[arg(long, value_name = "VARIABLE[=VALUE]", value_parser = values::variable)]
    pub env: Vec<Variable>,

    /// Base directory to compile in; compiled packages work only on machines with the same base
    /// directory
    #[arg(long, value_name = "BASE", default_value = Vcap::BASE)]
    pub base_directory: PathBuf,

    /// Compile even if another program has installed packages in BASE: everything in BASE/packages,
    /// BASE/data/packages and BASE/data/compile is removed. With `namespace` and `userns`, this is not
    /// necessary
    #[arg(long)]
    pub force: bool,
}

impl ScriptFlags {
    /// The variables that scripts inherit.
    pub(in crate::cli) fn variables(
        &self,
        environment: &Environment,
        has_cache: bool,
    ) -> Environment {
        let inherited = match has_cache {
            true => cache::inherited(environment),
            false => cache::without_credentials(environment),
        };
        let added = self.env.iter().filter_map(|Variable { name, value }| {
            let value = value.clone();
            let value = value.or_else(|| environment.get(name).map(OsStr::to_owned))?;
            Some((name.as_str(), value))
        });
        // Of several values for one variable, the last one counts.
        added.fold(inherited, |environment, variable| {
            environment.with(&[variable])
        })
    }

    /// A variable that scripts are to inherit and that is not set.
    pub(in crate::cli) fn unset(&self, environment: &Environment) -> Option<&str> {
        let mut named = self.env.iter().filter(|it| it.value.is_none());
        let unset = named.find(|it| environment.get(&it.name).is_none())?;
        Some(&unset.name)
    }
}

pub(in crate::cli) fn stemcell(text: &str) -> Result<Slug, String> {
    Slug::parse(text).map_err(|error| Chain(&error).to_string())
}

/// `--jobs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum JobsFlag {
    Auto,
    Most(NonZeroUsize),
}

fn jobs(text: &str) -> Result<JobsFlag, String> {
    if text == "auto" {
        return Ok(JobsFlag::Auto);
    }
    let number = text.parse().map(JobsFlag::Most);
    number.map_err(|_| "expected a number of at least 1, or `auto`".to_owned())
}
