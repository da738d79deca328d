//! Hostile scripts: their effects on a run, on a daemon and on what follows.

mod daemon;
mod deep_trees;
mod few_resources;
mod file_handles;
mod kills;
mod signals;
mod silent_mounts;
mod unkillable;
