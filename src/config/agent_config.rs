//! `agent.json`: what a stemcell says about the platform that it is made for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::Secret;
use super::json::{self, JsonError, Object};

/// What `-C` names. Without a file everything is at its default, and there is no source of
/// settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentConfig {
    /// `Platform.Linux`.
    pub linux: LinuxOptions,
    /// `Infrastructure.Settings.Sources`: where settings come from, to be tried in this order.
    pub sources: Vec<Source>,
}

/// How the platform is to be set up. What only concerns disks and networks is not read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinuxOptions {
    /// `/tmp` stays where it is. Otherwise the Go agent mounts a directory of the data disk over
    /// it.
    pub use_default_tmp_dir: bool,
    /// Whoever made the machine has also made its disks: what is below `data` is not ours to mount.
    pub skip_disk_setup: bool,
    /// `systemd`, or empty for runit.
    pub service_manager: String,
}

/// One place that settings come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file, which a CPI writes into a container.
    File {
        /// `SettingsPath`.
        path: PathBuf,
    },
    /// A metadata service (`HTTP`, and `InstanceMetadata` of Google).
    Http(HttpSource),
    /// A source of the Go agent that this one cannot read.
    Unsupported {
        /// `ConfigDrive`, `CDROM` or `VsphereGuestInfo`.
        kind: String,
    },
}

/// How a metadata service is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSource {
    /// `URI`. It may hold a password, as any URL may.
    pub uri: Secret,
    /// `UserDataPath` (`SettingsPath` for `InstanceMetadata`), which follows the URI.
    pub path: String,
    /// `Headers` of the request.
    pub headers: BTreeMap<String, Secret>,
    /// `TokenPath`, which follows the URI: where a token is asked for first, as EC2 wants it.
    pub token_path: Option<String>,
}

/// Why `agent.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AgentConfigError {
    /// No JSON, or something of the wrong kind in it.
    #[error("the configuration is not valid")]
    Json(#[from] JsonError),
    /// As the Go agent says it.
    #[error("Missing source type")]
    MissingSourceType,
    /// As the Go agent says it.
    #[error("Unknown source type '{kind}'")]
    UnknownSourceType {
        /// `Type`.
        kind: String,
    },
}

impl AgentConfig {
    /// Reads the text of `agent.json`.
    ///
    /// # Errors
    /// When it is no JSON, when something is of the wrong kind, and for sources without a known
    /// type.
    pub fn parse(text: &[u8]) -> Result<Self, AgentConfigError> {
        let document = json::parse(text)?;
        if document.is_null() {
            return Ok(Self::default());
        }
        let config = Object::document(&document, "config")?;
        let linux = config
            .object_or_empty("Platform")?
            .object_or_empty("Linux")?;
        let settings = config
            .object_or_empty("Infrastructure")?
            .object_or_empty("Settings")?;
        Ok(Self {
            linux: LinuxOptions {
                use_default_tmp_dir: linux.flag("UseDefaultTmpDir")?,
                skip_disk_setup: linux.flag("SkipDiskSetup")?,
                service_manager: linux.text_or_empty("ServiceManager")?,
            },
            sources: settings
                .objects("Sources")?
                .unwrap_or_default()
                .iter()
                .map(source)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn source(options: &Object<'_>) -> Result<Source, AgentConfigError> {
    let Some(kind) = options.text("Type")? else {
        return Err(AgentConfigError::MissingSourceType);
    };
    Ok(match kind {
        "File" => Source::File {
            path: options.text_or_empty("SettingsPath")?.into(),
        },
        "HTTP" => Source::Http(http(options, "UserDataPath")?),
        "InstanceMetadata" => Source::Http(http(options, "SettingsPath")?),
        "ConfigDrive" | "CDROM" | "VsphereGuestInfo" => Source::Unsupported {
            kind: kind.to_owned(),
        },
        _ => {
            return Err(AgentConfigError::UnknownSourceType {
                kind: kind.to_owned(),
            });
        }
    })
}

fn http(options: &Object<'_>, path: &str) -> Result<HttpSource, JsonError> {
    let headers = options.object_or_empty("Headers")?;
    let mut read = BTreeMap::new();
    for (name, value) in headers.iter() {
        // A number or a list would be no mistake of Go's: it refuses them, too.
        let Value::String(value) = value else {
            headers.text(name)?;
            continue;
        };
        read.insert(name.to_owned(), Secret::new(value));
    }
    Ok(HttpSource {
        uri: Secret::new(options.text_or_empty("URI")?),
        path: options.text_or_empty(path)?,
        headers: read,
        token_path: options
            .text("TokenPath")?
            .filter(|path| !path.is_empty())
            .map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_a_container_is_read() {
        let text =
            br#"{"platform":{"LINUX":{"useDefaultTmpDir":true,"UsePreformattedPersistentDisk":true,
            "SkipDiskSetup":null,"ServiceManager":"systemd","NewKey":[1]}},
            "Infrastructure":{"Settings":{"Sources":[{"Type":"File",
            "SettingsPath":"/var/vcap/bosh/warden-cpi-agent-env.json"}],"UseRegistry":true}}}"#;
        let config = AgentConfig::parse(text).unwrap();
        assert!(config.linux.use_default_tmp_dir && !config.linux.skip_disk_setup);
        assert_eq!(config.linux.service_manager, "systemd");
        assert_eq!(
            config.sources,
            [Source::File {
                path: "/var/vcap/bosh/warden-cpi-agent-env.json".into()
            }]
        );
    }

    #[test]
    fn metadata_services_keep_their_headers_and_hide_their_values() {
        let text = br#"{"Infrastructure":{"Settings":{"Sources":[
            {"Type":"HTTP","URI":"http://169.254.169.254","UserDataPath":"/latest/user-data",
             "TokenPath":"/latest/api/token","Headers":{"X-Key":"hunter2","X-None":null}},
            {"Type":"InstanceMetadata","URI":"http://169.254.169.254","SettingsPath":"/computeMetadata/v1/x",
             "Headers":{"Metadata-Flavor":"Google"}},
            {"Type":"CDROM","FileName":"env"}]}}}"#;
        let config = AgentConfig::parse(text).unwrap();
        let [
            Source::Http(ec2),
            Source::Http(google),
            Source::Unsupported { kind },
        ] = &config.sources[..]
        else {
            panic!("{config:?}")
        };
        assert_eq!(ec2.path, "/latest/user-data");
        assert_eq!(ec2.token_path.as_deref(), Some("/latest/api/token"));
        assert_eq!(ec2.headers.len(), 1);
        assert_eq!(google.path, "/computeMetadata/v1/x");
        assert_eq!(google.headers["Metadata-Flavor"].expose(), "Google");
        assert_eq!(kind, "CDROM");
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn sources_without_a_known_type_are_refused_as_the_go_agent_does() {
        let parse = |source: &str| {
            let text =
                format!("{{\"Infrastructure\":{{\"Settings\":{{\"Sources\":[{source}]}}}}}}");
            AgentConfig::parse(text.as_bytes()).unwrap_err().to_string()
        };
        assert_eq!(parse("{}"), "Missing source type");
        assert_eq!(parse("{\"Type\":\"X\"}"), "Unknown source type 'X'");
    }

    #[test]
    fn nothing_said_is_the_default() {
        for text in [
            "{}",
            "null",
            "{\"Platform\":null,\"Infrastructure\":{\"Settings\":{\"Sources\":null}}}",
        ] {
            assert_eq!(
                AgentConfig::parse(text.as_bytes()).unwrap(),
                AgentConfig::default()
            );
        }
    }
}
