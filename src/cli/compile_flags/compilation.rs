//! Flags of `compile`: what is compiled for which stemcell, and how much at a time.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use crate::cache;
use crate::cli::values::{self, Variable};
use crate::config::{Environment, Vcap};
use crate::diag::Chain;
use crate::offline::{CacheOptions, StemcellImage};
use crate::release::Slug;

#[derive(Debug, Args)]
#[command(next_help_heading = "Compilation")]
pub(in crate::cli) struct CompilationFlags {
    /// Stemcell to compile for, such as `ubuntu-noble/1.406` [default: the stemcell of this machine,
    /// from its files os-release and stemcell_version]
    #[arg(long, value_name = "OS/VERSION", value_parser = stemcell)]
    pub stemcell: Option<Slug>,

    /// Compile in this stemcell image, with its compilers and libraries instead of those of this machine.
    /// IMAGE is a stemcell (.tgz), an archive of a root file system (tar), a file that `docker save`
    /// wrote, an OCI layout, or a directory with a root file system. Needs the isolation tier `namespace`
    /// or `userns`, and excludes --keep-failed. With several images, the releases are compiled in each of them
    /// (can be repeated)
    #[arg(long, value_name = "IMAGE", conflicts_with = "keep_failed")]
    pub stemcell_image: Vec<PathBuf>,

    /// Directory for unpacked stemcell images. Each image is unpacked only once [default: `images` in the
    /// directory of --cache-dir or, without a cache, `bosh-agent/images` in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "DIR", requires = "stemcell_image")]
    pub image_dir: Option<PathBuf>,

    /// Take packages from this earlier result (can be repeated). A package is taken if the result is for
    /// the same stemcell, and if the names, versions and fingerprints of the package and of all its
    /// dependencies are unchanged
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

impl CompilationFlags {
    /// The stemcell images. `environment` is that of this process.
    pub(in crate::cli) fn images(
        &self,
        cache: Option<&CacheOptions>,
        environment: &Environment,
    ) -> Vec<StemcellImage> {
        let of_image = self
            .script
            .variables(&in_image(environment), cache.is_some());
        // A variable that `--env` names without a value gets its value from this process.
        let named = self.script.named(environment);
        let of_image = named.fold(of_image, |all, variable| all.with(&[variable]));
        let cache = cache.and_then(|it| it.directory.as_deref());
        let directory = self.image_dir.clone();
        let directory = directory.or_else(|| Some(cache?.join("images")));
        let directory = directory.unwrap_or_else(|| usual_directory(environment));
        let image = |path: &PathBuf| StemcellImage {
            path: path.clone(),
            directory: directory.clone(),
            environment: of_image.clone(),
            unpacked: None,
        };
        self.stemcell_image.iter().map(image).collect()
    }
}

/// The variables that scripts in an image inherit: other values of `PATH` and `HOME`, and no variables for temporary directories, because the
/// directories of this machine are not in the image.
fn in_image(environment: &Environment) -> Environment {
    let inherited = environment.iter();
    let inherited: Environment = inherited
        .filter(|(name, _)| !TEMPORARY.iter().any(|known| *name == *known))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    inherited.with(&[("PATH", PATH.into()), ("HOME", "/root".into())])
}

/// Variables that name a directory for temporary files.
const TEMPORARY: [&str; 3] = ["TMPDIR", "TMP", "TEMP"];

/// The value of `PATH` in an image, and elsewhere if `PATH` is not set: the usual one for root in a container.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Adds `PATH` to the variables if it is missing. Without `PATH`, bash uses a path of its own that it does not export: make and cc then find no
/// programs.
pub(in crate::cli) fn with_path(environment: Environment) -> Environment {
    match environment.get("PATH") {
        Some(_) => environment,
        None => environment.with(&[("PATH", PATH.into())]),
    }
}

/// The directory for unpacked images if there is neither `--image-dir` nor a cache.
fn usual_directory(environment: &Environment) -> PathBuf {
    let given = |name| {
        let value = environment.get(name).filter(|it| !it.is_empty());
        value.map(PathBuf::from)
    };
    let parent = given("XDG_CACHE_HOME").or_else(|| Some(given("HOME")?.join(".cache")));
    let parent = parent.unwrap_or_else(|| PathBuf::from("/var/cache"));
    parent.join("bosh-agent/images")
}

// Flags for packaging scripts. `compile-package` has them, too.
#[derive(Debug, Args)]
#[command(next_help_heading = "Compilation")]
pub(in crate::cli) struct ScriptFlags {
    /// Let all scripts share one pool of GNU make jobs. A `make` without `-j` then builds in parallel,
    /// which some packages do not support
    #[arg(long)]
    pub make_jobserver: bool,

    /// Pass a variable to scripts. Without VALUE, the value is taken from the environment of
    /// bosh-agent (can be repeated). With a cache or --remote, scripts inherit only a few other variables
    /// (docs/cache.md). Otherwise, they inherit all variables except the credentials of caches
    #[arg(long, value_name = "VARIABLE[=VALUE]", value_parser = values::variable)]
    pub env: Vec<Variable>,

    /// Base directory, where packages are compiled and installed. Compiled packages work only on
    /// machines with the same base directory
    #[arg(long, value_name = "BASE", default_value = Vcap::BASE)]
    pub base_directory: PathBuf,

    /// Remove what other programs have installed in BASE/packages, BASE/data/packages and
    /// BASE/data/compile, instead of refusing to start. Not necessary with the isolation tiers `namespace`
    /// and `userns`
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
        self.completed(inherited, environment)
    }

    /// The variables of scripts whose packages are stored as results for other machines. Of the user's environment, only `SOURCE_DATE_EPOCH`
    /// and the variables of `--env` may affect such packages: servers usually start actions with an empty environment.
    pub(in crate::cli) fn variables_for_others(&self, environment: &Environment) -> Environment {
        let date = "SOURCE_DATE_EPOCH";
        let kept = environment.get(date).map(|value| (date, value.to_owned()));
        let kept: Vec<(&str, OsString)> = kept.into_iter().collect();
        self.completed(Environment::default().with(&kept), environment)
    }

    /// The inherited variables with those of `--env`, and with `PATH`.
    fn completed(&self, inherited: Environment, environment: &Environment) -> Environment {
        // If a variable is given several times, the last value replaces the others.
        self.named(environment)
            .fold(with_path(inherited), |environment, variable| {
                environment.with(&[variable])
            })
    }

    /// The variables of `--env` that are set, and their values.
    pub(in crate::cli) fn named<'a>(
        &'a self,
        environment: &'a Environment,
    ) -> impl Iterator<Item = (&'a str, OsString)> {
        self.env.iter().filter_map(|Variable { name, value }| {
            let value = value.clone();
            let value = value.or_else(|| environment.get(name).map(OsStr::to_owned))?;
            Some((name.as_str(), value))
        })
    }

    /// The first variable of `--env` that has neither a value in the flag nor one in `environment`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_for_others_do_not_depend_on_the_environment() {
        let flags = ScriptFlags {
            make_jobserver: false,
            env: ["GIVEN", "TZ=UTC"]
                .map(|it| values::variable(it).unwrap())
                .into(),
            base_directory: Vcap::BASE.into(),
            force: false,
        };
        let own = ["PATH", "HOME", "TZ", "SOURCE_DATE_EPOCH", "GIVEN"];
        let own = Environment::default().with(&own.map(|name| (name, "own".into())));
        let found = flags.variables_for_others(&own);
        let expected = [
            ("SOURCE_DATE_EPOCH", "own".into()),
            ("PATH", PATH.into()),
            ("GIVEN", "own".into()),
            ("TZ", "UTC".into()),
        ];
        assert_eq!(found, Environment::default().with(&expected));
        // Without `PATH` in the environment, scripts have the usual one.
        let found = flags.variables(&Environment::default(), false);
        assert_eq!(found.get("PATH"), Some(PATH.as_ref()));
    }
}
