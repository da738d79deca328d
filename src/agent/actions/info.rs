//! `info`: reports the version of the agent's API.

use futures_util::FutureExt as _;
use serde_json::json;

use super::Action;

pub(in crate::agent) const ACTION: Action =
    Action::Immediate(|_, _| std::future::ready(Ok(json!({ "api_version": 1 }))).boxed());
