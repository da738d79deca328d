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
    /// Stemcell to compile for, such as `ubuntu-noble/1.406` [default: that of this machine, from
    /// os-release and stemcell_version]
    #[arg(long, value_name = "OS/VERSION", value_parser = stemcell)]
    pub stemcell: Option<Slug>,

    /// Take packages from this earlier result (can be repeated). A package is taken if its name,
    /// version and fingerprint are the same, and those of all its dependencies
    #[arg(long, value_name = "COMPILED.tgz", conflicts_with = "shell")]
    pub reuse: Vec<PathBuf>,

    /// Maximum number of packages to compile concurrently. `auto` depends on the available CPUs and
    /// memory; with --isolation=none, it is 1
    #[arg(long, value_name = "N", default_value = "auto", value_parser = jobs)]
    pub jobs: JobsFlag,

    /// Memory that `--jobs auto` expects each package to need. With `0`, only the CPUs count
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = values::size)]
    pub memory_per_job: u64,

    /// After a failure, continue with the packages that do not depend on the failed one. Results that
    /// are complete are written
    #[arg(long)]
    pub keep_going: bool,

    #[command(flatten)]
    pub script: ScriptFlags,
}

// Flags for the scripts of packages, also of a single one.
#[derive(Debug, Args)]
#[command(next_help_heading = "Compilation")]
pub(in crate::cli) struct ScriptFlags {
    /// Let all scripts share one pool of GNU make jobs. A `make` without `-j` then runs in parallel,
    /// which some packages do not support
    #[arg(long)]
    pub make_jobserver: bool,

    /// Set this variable for scripts or, with a cache, let them inherit it (can be repeated). Without a
    /// cache, scripts inherit all variables
    #[arg(long, value_name = "VARIABLE[=VALUE]", value_parser = values::variable)]
    pub env: Vec<Variable>,

    /// Base directory, where packages are compiled and installed. Compiled packages work only on
    /// machines with the same base directory
    #[arg(long, value_name = "BASE", default_value = Vcap::BASE)]
    pub base_directory: PathBuf,

    /// Remove what other programs have installed in BASE/packages, BASE/data/packages and
    /// BASE/data/compile, instead of refusing to start. Not necessary with `namespace` and `userns`
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
