//! The built program, a module for each subject.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests start programs and handle files by the plain means, and fail where these fail"
)]

#[path = "../support/mod.rs"]
mod support;

mod cache;
mod call_report;
mod changed_trees;
mod checks;
mod compile_package;
mod compiled_inputs;
mod daemon_logs;
mod daemon_orders;
mod daemon_process;
mod daemon_start;
mod documents;
mod environment;
mod error_lines;
mod faults;
mod fork_server;
mod frozen;
mod generated;
mod go_release;
mod hostile;
mod inspect;
mod keep_going;
mod kept;
mod late_output;
mod layouts;
mod left_trees;
mod linked_targets;
mod locked_mounts;
mod mounted_dependencies;
mod namespace;
mod no_proc;
mod odd_releases;
mod odd_sources;
mod on_a_terminal;
mod output;
mod parallel;
mod plan;
mod promises;
mod protect_host;
mod protected_trees;
mod protocol;
mod readers;
mod rebuild;
mod remote;
mod reproducible;
mod reuse;
mod scale;
mod scratch;
mod scripts;
mod second_run;
mod selection;
mod shell;
mod ssh;
mod stemcell_image;
mod stoppable;
mod stops;
mod supply_chain;
mod texts;
mod tidy;
mod tiers;
mod time_limits;
mod timings;
mod unkillable;
mod verbose;
