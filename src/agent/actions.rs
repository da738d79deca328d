//! What a Director can ask for, one file for each kind of request.

mod apply;
mod compile_package;
mod fetch_logs;
mod get_state;
mod shutdown;
mod update_settings;

pub(super) use apply::apply;
pub(super) use compile_package::{compile_package, compile_package_with_signed_url};
pub(super) use fetch_logs::{fetch_logs, fetch_logs_with_signed_url};
pub(super) use get_state::get_state;
pub(super) use shutdown::shutdown;
pub(super) use update_settings::update_settings;
