//! Where things are and what was set: every path below the base directory, the environment, read once, and secrets.

mod environment;
mod secret;
mod vcap;

pub use environment::Environment;
pub use secret::Secret;
pub use vcap::{PackagePaths, Vcap};
