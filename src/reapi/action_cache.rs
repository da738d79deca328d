//! The action cache of a server, which maps the digest of an action to the action's result.

use tonic::Code;

use super::digest::{Digest, SHA256};
use super::error::CallError;
use super::server::{Purpose, Server};
use bazel_remote_apis::build::bazel::remote::execution::v2 as api;

use api::action_cache_client::ActionCacheClient;

impl Server {
    /// Fetches the result of an action; `None` if there is none. Asks the server to include the
    /// command's standard output in the result.
    pub(crate) async fn action_result(
        &self,
        action: &Digest,
    ) -> Result<Option<api::ActionResult>, CallError> {
        let request = api::GetActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(action.message()),
            inline_stdout: true,
            digest_function: SHA256,
            ..Default::default()
        };
        let channel = self.channel(Purpose::Fetch).await?;
        let mut client = ActionCacheClient::with_origin(channel, self.origin.clone());
        match client.get_action_result(request).await {
            Ok(result) => Ok(Some(result.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(CallError::failed("GetActionResult", &status)),
        }
    }

    /// Stores the result of an action.
    pub(crate) async fn update_action_result(
        &self,
        action: &Digest,
        result: api::ActionResult,
    ) -> Result<(), CallError> {
        let request = api::UpdateActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(action.message()),
            action_result: Some(result),
            digest_function: SHA256,
            ..Default::default()
        };
        let channel = self.channel(Purpose::Store).await?;
        let mut client = ActionCacheClient::with_origin(channel, self.origin.clone());
        match client.update_action_result(request).await {
            Ok(_) => Ok(()),
            Err(status) => Err(CallError::failed("UpdateActionResult", &status)),
        }
    }
}
