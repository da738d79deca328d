//! `bosh-agent compile`: reads source releases, writes compiled releases.
//!
//! ```text
//! run               one run: opens the stemcell images (image), and for each of them calls run_once, which compiles once (call) or, to
//!  │                compare the results, twice (rebuild)
//!  ├─ given         expands patterns, explains paths that do not exist
//!  ├─ outputs       the output directories
//!  ├─ work_directory the work directory and the directory of logs
//!  ├─ inputs        reads and describes each tarball
//!  │   ├─ open      one pass over a tarball: parses the manifest, writes blobs to disk, hashes them
//!  │   ├─ lookalike recognizes files that are not releases
//!  │   ├─ clutter   recognizes files that operating systems leave in tarballs
//!  │   └─ jobs      the checks that a Director makes on job blobs
//!  ├─ select        what to do with each input: compile it, copy it, or nothing; the path of its result
//!  │   ├─ inspect   compares the manifest with the tarball: all problems, or a checked release
//!  │   └─ selection which jobs and packages of a release are compiled
//!  ├─ reuse         takes packages from results of earlier runs
//!  ├─ plan          what a compilation would do, for runs that compile nothing; peek reads a manifest for them
//!  ├─ dry_run       which packages would be compiled when (critical_path) and which are in the cache (cache_forecast), and their graph
//!  │                as a file (dot)
//!  ├─ setup         the compiler of this machine: isolation tier, caches, logs, jobserver. remote: the compiler on the machines of a server.
//!  │                machines: either of the two. server_cache: the action cache of a server; store_check checks whether this machine may
//!  │                store packages in it
//!  └─ releases      compiles all packages, assembles each release when its last package is done
//!      ├─ packages  the packages of all releases, with the paths of their logs
//!      ├─ identity  which source blobs have the same contents
//!      ├─ graph     the packages of all releases, each once
//!      ├─ ledger    which packages are compiled, which releases are complete
//!      ├─ failures  the failures; reads the logs of failed packages (error_line) and copies them (failed_logs)
//!      ├─ caching   finds packages in the cache and stores compiled ones (cached_packages); package_keys gives the keys, cache_lookup
//!      │            says why a package is missing, recompress changes the compression level of a found one, shared_caches fetches
//!      │            packages and uploads them; cache_directories checks that file systems respond
//!      ├─ scheduling, durations: the schedule, and how long packages took in earlier runs
//!      └─ assemble  writes the compiled release to a temporary file, verifies it, renames it
//! one_package       `compile-package`: one package without a release, a schedule or a cache
//! enter             a shell in the sandbox of a failed package that was kept
//! progress          lines and bars for the user, in the colors of paint
//! report            the text of a failure; script_report: its part about output; damage_hint: about damaged archives
//! call_record       collects the facts of a run for the report to other programs: call_report, written by report_file; package_events
//!                   collects those of one package
//! documents         SBOMs and provenance of the results; licenses finds the licenses for them
//! summary           the slowest packages, the critical path, the gain from concurrency
//! timings           the report as a page
//! failure_kind      the cause of a failure (script, input or machine), which determines the exit code
//! command           the command whose flags and results messages name
//! ```
//!
//! Releases and packages have one number each in a run: `ReleaseId` and `NodeId` (`ids`). No package is compiled before all
//! releases of the run are checked.

mod annotations;
mod assemble;
mod blob_difference;
mod cache_directories;
mod cache_forecast;
mod cache_lookup;
mod cached_packages;
mod caching;
mod call;
mod call_record;
mod call_report;
mod changed;
mod checked;
mod clutter;
mod command;
mod compiled_release;
mod critical_path;
mod damage_hint;
mod documents;
mod dot;
mod dry_run;
mod durations;
mod elsewhere;
mod enter;
mod error;
mod expected;
mod failed_logs;
mod failure;
mod failure_kind;
mod failures;
mod fetching;
mod given;
mod graph;
mod identity;
mod ids;
mod image;
mod image_hint;
mod inputs;
mod inspect;
mod isolation;
mod jobs;
mod known;
mod ledger;
mod licenses;
mod local_result;
mod logs;
mod lookalike;
mod machines;
mod merged_report;
mod messages;
mod on_server;
mod one_package;
mod open;
mod open_error;
mod options;
mod outputs;
mod package_events;
mod package_keys;
mod packages;
mod paint;
mod peek;
mod plan;
mod problem;
mod progress;
mod readers;
mod rebuild;
mod rebuild_differences;
mod recompress;
mod releases;
mod remote;
mod report;
mod report_file;
mod result_files;
mod reuse;
mod run;
mod run_once;
mod scheduling;
mod script_report;
mod script_warnings;
mod second_run;
mod select;
mod selection;
mod server_cache;
mod server_forecast;
mod setup;
mod shared_caches;
mod shell;
mod space;
mod stemcell;
mod storable;
mod store_check;
mod summary;
mod tarball;
mod this_machine;
mod timings;
mod verify;
mod wanted;
mod work_directory;
mod written_file;

#[cfg(test)]
mod texts;

pub use annotations::Annotations;
pub(crate) use checked::Listed;
pub(crate) use clutter::is_clutter;
pub use command::Command;
pub use enter::{KeptPackage, enter};
pub use error::{Incomplete, OfflineError, StemcellFailures};
pub use failure::{FailureCause, PackageFailure, UnfinishedRelease};
pub use failure_kind::FailureKind;
pub(crate) use failure_kind::is_wrong_path;
pub use given::is_tarball;
pub(crate) use inspect::{listed, missing_packages_of_jobs};
pub(crate) use jobs::Contents as JobContents;
pub(crate) use lookalike::Lookalike;
pub use messages::Messages;
pub use one_package::{PackageFiles, compile_package};
pub(crate) use open::{Holes, first_entry, open_file, path_of as path_of_entry, read_manifest};
pub(crate) use open_error::OpenError;
pub use options::{
    CacheOptions, DocumentOptions, DocumentPath, Options, Purpose, RemoteOptions, SbomFormat,
    SharedCaches, StemcellImage,
};
pub use paint::Paint;
pub(crate) use peek::manifest as manifest_of;
pub(crate) use problem::{ContentProblem, Problem};
pub use progress::Progress;
pub use report::report;
pub use report_file::ReportFile;
pub use run::{Outcome, run};
pub use selection::{Selection, UnknownName};
pub use store_check::StoreRefusal;
pub(crate) use tarball::{Role, path_of as path_of_role, shown};
