//! Parses `agent.json`, the configuration file of a stemcell for its agent. It says where the agent
//! finds its settings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::Secret;
use super::json::{self, JsonError, Object};

/// The contents of `agent.json`, the file of `-C`. By default, there is no source of settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentConfig {
    /// The member `Platform.Linux`.
    pub linux: LinuxOptions,
    /// The member `Infrastructure.Settings.Sources`: the sources of settings, in the order in which
    /// they are tried.
    pub sources: Vec<Source>,
}

/// Options for the platform Linux. Options for disks and networks are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinuxOptions {
    /// Whether to keep `/tmp`. By default, the Go agent mounts a directory of the data disk over
    /// it.
    pub use_default_tmp_dir: bool,
    /// Whether the disks are already set up. Then the agent does not mount `data`.
    pub(crate) skip_disk_setup: bool,
    /// The service manager: `systemd`, or empty for runit.
    pub(crate) service_manager: String,
}

/// A source of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file that a CPI (the part of BOSH that creates machines) writes into a container.
    File {
        /// The member `SettingsPath`.
        path: PathBuf,
    },
    /// A metadata service (type `HTTP`, or `InstanceMetadata` of Google).
    Http(HttpSource),
    /// A source that only the Go agent supports.
    Unsupported {
        /// The type: `ConfigDrive`, `CDROM` or `VsphereGuestInfo`.
        kind: String,
    },
}

/// A metadata service, a web server of a cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSource {
    /// The member `URI`, which may contain a password.
    pub uri: Secret,
    /// The member `UserDataPath` (`SettingsPath` for `InstanceMetadata`), relative to the URI.
    pub path: String,
    /// The member `Headers`: headers that are sent with requests.
    pub headers: BTreeMap<String, Secret>,
    /// The member `TokenPath`, relative to the URI: where to get a token, which EC2 requires.
    pub(crate) token_path: Option<String>,
}

/// Why `agent.json` is invalid.
#[derive(Debug, thiserror::Error)]
pub enum AgentConfigError {
    /// The text is not valid JSON, or a value has the wrong type.
    #[error("the configuration is invalid")]
    Json(#[from] JsonError),
    /// A source has no type. The message is that of the Go agent.
    #[error("Missing source type")]
    MissingSourceType,
    /// A source has an unknown type. The message is that of the Go agent.
    #[error("Unknown source type '{kind}'")]
    UnknownSourceType {
        /// The member `Type`.
        kind: String,
    },
}

impl AgentConfig {
    /// Parses the contents of `agent.json`.
    ///
    /// # Errors
    /// If the text is not valid JSON, a value has the wrong type, or a source has no known type.
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
        // For a value of another type, `text` returns an error, as the Go agent does.
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
    fn configuration_of_a_container_is_parsed() {
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
    fn metadata_services_have_headers_with_hidden_values() {
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
    fn missing_and_unknown_source_types_give_the_go_agents_errors() {
        let parse = |source: &str| {
            let text =
                format!("{{\"Infrastructure\":{{\"Settings\":{{\"Sources\":[{source}]}}}}}}");
            AgentConfig::parse(text.as_bytes()).unwrap_err().to_string()
        };
        assert_eq!(parse("{}"), "Missing source type");
        assert_eq!(parse("{\"Type\":\"X\"}"), "Unknown source type 'X'");
    }

    #[test]
    fn empty_configuration_is_the_default() {
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
