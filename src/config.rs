//! Where things are: every path below the base directory, and the environment, read once.

mod environment;
mod vcap;

pub use environment::Environment;
pub use vcap::{PackagePaths, Vcap};
