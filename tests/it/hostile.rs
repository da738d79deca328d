//! Hostile scripts: their effects on a run, on a daemon and on what follows.

mod concurrent;
mod daemon;
mod deep_trees;
mod delete_host;
mod few_resources;
mod file_handles;
mod kills;
mod left_mounts;
mod message_queues;
mod odd_files;
mod screen;
mod signals;
mod silent_mounts;
mod terminals;
mod unkillable;
