//! The options of a call, from its flags.

use super::compile_flags::{Compile, Isolation, Jobs, Network, SecondRun};
use super::this_process::{SELF, who};
use crate::compile;
use crate::config::{Environment, Vcap};
use crate::offline::{self, Options};
use crate::process;
use crate::sandbox::{self, Entry};

/// The options of a call. `user_namespace` is the one that this process has entered.
pub(super) fn options(flags: Compile, environment: Environment, user_namespace: Entry) -> Options {
    let Compile {
        tarballs,
        results,
        compilation,
        isolation,
        limits,
        directories,
    } = flags;
    Options {
        inputs: tarballs,
        output_directory: results.output_directory,
        stemcell: compilation.stemcell,
        work_directory: directories.work_dir,
        logs_directory: directories.logs_dir,
        scratch: match directories.scratch_dir {
            Some(directory) => sandbox::Sharing::Kept(directory),
            None if directories.no_shared_scratch => sandbox::Sharing::Off,
            None => sandbox::Sharing::Run,
        },
        vcap: Vcap::new(&compilation.base_directory),
        isolation: match isolation.isolation {
            Isolation::Auto => offline::Isolation::Auto,
            Isolation::Namespace => offline::Isolation::Namespace,
            Isolation::Userns => offline::Isolation::Userns,
            Isolation::Landlock => offline::Isolation::Landlock,
            Isolation::None => offline::Isolation::None,
        },
        user_namespace,
        jobs: match compilation.jobs {
            Jobs::Auto => None,
            Jobs::Most(jobs) => Some(jobs),
        },
        memory_per_job: compilation.memory_per_job,
        make_jobserver: compilation.make_jobserver,
        readonly_dependencies: isolation.readonly_deps,
        protect_host: isolation.protect_host,
        network: isolation.network == Network::Host,
        nice: limits.nice,
        force: compilation.force,
        grace: limits.grace,
        limits: process::TimeLimits {
            total: limits.timeout,
            silence: limits.silence_timeout,
        },
        second_run: match isolation.second_run {
            SecondRun::Auto => compile::SecondRun::AUTO,
            SecondRun::Always => compile::SecondRun::Always,
            SecondRun::Never => compile::SecondRun::Never,
        },
        compression_level: results.compression_level,
        keep_going: compilation.keep_going,
        who: who(),
        environment,
        agent: SELF.into(),
    }
}
