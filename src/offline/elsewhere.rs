//! The state of a run's packages on a server of the Remote Execution API.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::ids::NodeId;
use super::on_server::OnServer;
use crate::cluster::{Built, RemoteFailure, Storing};
use crate::compile::Id;
use crate::release::Digests;

/// The packages that a server has.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// The server that compiles packages, for messages.
    pub server: String,
    /// Why the server was given up.
    pub given_up: Option<RemoteFailure>,
    /// The packages that the server has compiled and that have not been downloaded.
    pub built: HashMap<NodeId, Box<Built>>,
    /// The blobs of the packages that were downloaded from the server.
    pub downloaded: HashMap<NodeId, (PathBuf, Digests)>,
    /// The packages that the local schedule may download.
    pub on_server: HashMap<NodeId, Arc<OnServer>>,
    /// The ids of all packages on the server.
    pub ids: Vec<Id>,
    /// Stores the packages that this machine compiles.
    pub storing: Option<Storing>,
}
