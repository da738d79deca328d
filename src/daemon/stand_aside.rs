//! Decides whether this agent serves a VM, or leaves it to the Go agent. A Director makes the VMs of a deployment and its compilation VMs
//! from one stemcell, which contains both agents.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::{DaemonError, check_directories, read_config};
use crate::config::{Environment, Vcap};
use crate::fs;
use crate::machine::settings::{LoadError, SettingsStore};
use crate::machine::sources::NoSource;
use crate::process::ForkServer;
use crate::sandbox::Isolation;

/// The file name of the Go agent's program in a stemcell with this agent.
pub(crate) const GO_AGENT: &str = "bosh-agent-go";

/// Which agent serves the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServingAgent {
    /// This one.
    ThisAgent,
    /// The Go agent, for this reason.
    GoAgent {
        /// Why, for the log.
        reason: String,
    },
    /// None: the daemon was stopped.
    Stopped,
}

/// The facts on which the decision depends.
#[derive(Debug)]
pub struct StartContext<'a> {
    /// The path of `agent.json`.
    pub config: &'a Path,
    /// The base directory.
    pub vcap: &'a Vcap,
    /// The daemon's environment.
    pub environment: &'a Environment,
    /// The fork server, a helper process that examines mounted file systems.
    pub fork_server: &'a ForkServer,
    /// How packages would be isolated.
    pub isolation: Isolation,
}

/// Finds the Go agent's program: an executable file next to this program, or in `BASE/bosh/bin`. Skips `BASE/bosh/bin` if
/// `BASE`, `BASE/bosh` or `BASE/bosh/bin` is a mount point, because the mounted file system may not respond.
#[must_use]
pub fn find_go_agent(this_program: &Path, vcap: &Vcap) -> Option<PathBuf> {
    let own = fs::metadata(this_program).ok();
    let in_base = vcap.bosh().join("bin");
    let above = [vcap.base().to_owned(), vcap.bosh(), in_base.clone()];
    // Outermost first: examining a path below a file system that does not respond would block.
    let is_mounted = above
        .iter()
        .any(|it| fs::is_mount_point(it).unwrap_or(true));
    let directories = [
        this_program.parent().map(Path::to_owned),
        (!is_mounted).then_some(in_base),
    ];
    let programs = directories
        .into_iter()
        .flatten()
        .map(|it| it.join(GO_AGENT));
    programs.into_iter().find(|program| {
        fs::metadata(program).is_ok_and(|found| {
            // Skip this program itself, which would execute itself forever.
            let is_own = own
                .as_ref()
                .is_some_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()));
            found.is_file() && found.permissions().mode() & 0o111 != 0 && !is_own
        })
    })
}

/// Decides which agent serves the VM. If `agent.json` does not determine this, reads the settings, and waits for them if necessary. Saves
/// nothing.
///
/// # Errors
/// The directories cannot be used. The configuration or the settings cannot be read, or are invalid. The configuration names no source of
/// settings.
pub async fn choose_agent(
    context: &StartContext<'_>,
    stop: &CancellationToken,
) -> Result<ServingAgent, DaemonError> {
    let (vcap, fork_server) = (context.vcap, context.fork_server);
    let checked = check_directories(vcap, fork_server, context.isolation, stop).await;
    if stop.is_cancelled() {
        return Ok(ServingAgent::Stopped);
    }
    checked?;
    let config = read_config(context.config)?;
    if !config.compilation.stand_aside {
        return Ok(ServingAgent::ThisAgent);
    }
    let store = match SettingsStore::new(vcap, &config, context.environment) {
        Err(error @ NoSource::Unsupported { .. }) => {
            let reason = error.to_string();
            return Ok(ServingAgent::GoAgent { reason });
        }
        store => store?,
    };
    match store.find(stop).await {
        Err(LoadError::Stopped) => Ok(ServingAgent::Stopped),
        Err(error @ LoadError::Unsupported(_)) => Ok(ServingAgent::GoAgent {
            reason: error.to_string(),
        }),
        Err(error) => Err(error.into()),
        Ok((settings, _)) if settings.is_for_compilation() => Ok(ServingAgent::ThisAgent),
        Ok(_) => Ok(ServingAgent::GoAgent {
            reason: "the settings are not those of a compilation VM: no group in `env.bosh.groups` is `compilation-` followed by a UUID"
                .to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Machine {
        scratch: tempfile::TempDir,
        vcap: Vcap,
    }

    fn machine() -> Machine {
        let scratch = tempfile::tempdir().unwrap();
        Machine {
            vcap: Vcap::new(&scratch.path().join("vcap")),
            scratch,
        }
    }

    fn program(path: &Path, mode: u32) {
        fs::create_dir_all(fs::parent(path)).unwrap();
        fs::write(path, b"").unwrap();
        fs::set_mode(path, mode).unwrap();
    }

    #[test]
    fn go_agent_is_next_to_this_program_or_in_the_base_directory() {
        let machine = machine();
        let own = machine.scratch.path().join("bin/bosh-agent");
        program(&own, 0o755);
        let find = || find_go_agent(&own, &machine.vcap);
        assert_eq!(find(), None);
        let in_base = machine.vcap.bosh().join("bin").join(GO_AGENT);
        program(&in_base, 0o755);
        assert_eq!(find(), Some(in_base.clone()));
        let next = own.with_file_name(GO_AGENT);
        program(&next, 0o644);
        assert_eq!(find(), Some(in_base.clone()));
        fs::set_mode(&next, 0o755).unwrap();
        assert_eq!(find(), Some(next.clone()));
        // The program itself under the other name.
        fs::remove_file(&next).unwrap();
        fs::symlink(&own, &next).unwrap();
        assert_eq!(find(), Some(in_base));
    }

    impl Machine {
        async fn choose_agent(
            &self,
            compilation: &str,
            sources: serde_json::Value,
        ) -> Result<ServingAgent, DaemonError> {
            let config = self.scratch.path().join("agent.json");
            let sources = json!({"Settings": {"Sources": sources}});
            let text = format!("{{\"Compilation\": {compilation}, \"Infrastructure\": {sources}}}");
            fs::write(&config, text.as_bytes()).unwrap();
            let context = StartContext {
                config: &config,
                vcap: &self.vcap,
                environment: &Environment::default(),
                fork_server: &self.scratch.path().join("none").into(),
                isolation: Isolation::None,
            };
            let chosen = choose_agent(&context, &CancellationToken::new()).await;
            assert!(!self.vcap.base().exists(), "it has changed files");
            chosen
        }
    }

    #[tokio::test(start_paused = true)]
    async fn go_agent_serves_if_only_it_can_read_the_remaining_source() {
        let machine = machine();
        let missing = machine.scratch.path().join("none");
        let sources =
            json!([{"Type": "VsphereGuestInfo"}, {"Type": "File", "SettingsPath": missing}]);
        let chosen = machine.choose_agent("{}", sources).await.unwrap();
        let ServingAgent::GoAgent { reason } = chosen else {
            panic!("{chosen:?}")
        };
        let facts = ["`VsphereGuestInfo`", "none` does not exist"];
        assert!(facts.iter().all(|it| reason.contains(it)), "{reason}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_compilation_vms_are_served() {
        let machine = machine();
        let file = machine.scratch.path().join("settings.json");
        let sources = json!([{"Type": "File", "SettingsPath": file}]);
        for (groups, is_served) in [
            (
                json!([
                    "director",
                    "dep",
                    "compilation-4b7a5d0e-9c1f-4e58-8a36-2f60d1c7b9e4"
                ]),
                true,
            ),
            // Names of a deployment and an instance group that an operator chose.
            (
                json!(["director", "compilation-x", "compilation-x-web"]),
                false,
            ),
            (json!(["compilation-0f3c"]), false),
            (
                json!(["compilation-4b7a5d0e9c1f4e588a362f60d1c7b9e4"]),
                false,
            ),
            (
                json!(["compilation-4b7a5d0e-9c1f-4e58-8a36-2f60d1c7b9e4-web"]),
                false,
            ),
            (json!(["director", "dep", "web"]), false),
            (json!(["not-compilation-1"]), false),
            (json!(null), false),
        ] {
            let settings = json!({"agent_id": "a", "env": {"bosh": {"groups": groups}}});
            fs::write(&file, settings.to_string().as_bytes()).unwrap();
            let chosen = machine.choose_agent("{}", sources.clone()).await.unwrap();
            assert_eq!(
                chosen == ServingAgent::ThisAgent,
                is_served,
                "{groups} {chosen:?}"
            );
        }
        let off = "{\"StandAside\": false}";
        let chosen = machine.choose_agent(off, sources.clone()).await.unwrap();
        assert_eq!(chosen, ServingAgent::ThisAgent);
        let guest_info = json!([{"Type": "VsphereGuestInfo"}]);
        let chosen = machine.choose_agent("{}", guest_info).await.unwrap();
        assert!(matches!(chosen, ServingAgent::GoAgent { .. }), "{chosen:?}");
        machine.choose_agent("{}", json!([])).await.unwrap_err();
    }
}
