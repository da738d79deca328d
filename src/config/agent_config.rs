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
    /// The member `Compilation`, which only this agent knows.
    pub compilation: CompilationConfig,
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

/// How the agent serves a compilation VM. The Go agent ignores these options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompilationConfig {
    /// The member `StandAside`: whether the agent becomes the Go agent on a VM that does not compile packages. True by default.
    pub stand_aside: bool,
    /// The member `UploadFailedLog`: whether the log of a failed package is uploaded for the Director. True by default.
    pub upload_failed_log: bool,
    /// The member `UploadLog`: whether the log of each compiled package is uploaded for the Director.
    pub upload_log: bool,
    /// The member `LogLimit`: the maximum size of an uploaded log in bytes. 4 MiB by default.
    pub log_limit: u64,
    /// The member `KeepFailed`: whether the directories of a failed package are kept until the next compile.
    pub keep_failed: bool,
}

impl Default for CompilationConfig {
    fn default() -> Self {
        Self {
            stand_aside: true,
            upload_failed_log: true,
            upload_log: false,
            log_limit: 4 << 20,
            keep_failed: false,
        }
    }
}

impl CompilationConfig {
    fn read(options: &Object<'_>) -> Result<Self, JsonError> {
        let default = Self::default();
        let flag = |name: &str, default: bool| -> Result<bool, JsonError> {
            Ok(options.optional_flag(name)?.unwrap_or(default))
        };
        Ok(Self {
            stand_aside: flag("StandAside", default.stand_aside)?,
            upload_failed_log: flag("UploadFailedLog", default.upload_failed_log)?,
            upload_log: flag("UploadLog", default.upload_log)?,
            log_limit: options.number("LogLimit")?.unwrap_or(default.log_limit),
            keep_failed: flag("KeepFailed", default.keep_failed)?,
        })
    }
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
    /// A disk with a file (type `ConfigDrive` of OpenStack, or `CDROM` of vSphere).
    Disk(DiskSource),
    /// A source that only the Go agent supports.
    Unsupported {
        /// The type: `VsphereGuestInfo`.
        kind: String,
    },
}

/// A disk that a cloud attaches to a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSource {
    /// The type: `ConfigDrive` or `CDROM`.
    pub kind: &'static str,
    /// The devices, in the order in which they are tried: the member `DiskPaths`, or the first CD drive.
    pub disks: Vec<PathBuf>,
    /// The path of the settings in the file system of the disk: the member `UserDataPath` (`FileName` for `CDROM`).
    pub file: PathBuf,
}

/// The device of the first CD drive.
const CD_DRIVE: &str = "/dev/sr0";

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
            compilation: CompilationConfig::read(&config.object_or_empty("Compilation")?)?,
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
        "ConfigDrive" => Source::Disk(DiskSource {
            kind: "ConfigDrive",
            disks: disks(options)?,
            file: options.text_or_empty("UserDataPath")?.into(),
        }),
        "CDROM" => Source::Disk(DiskSource {
            kind: "CDROM",
            disks: match disks(options)? {
                // The Go agent knows only this drive.
                none if none.is_empty() => vec![CD_DRIVE.into()],
                given => given,
            },
            file: options.text_or_empty("FileName")?.into(),
        }),
        "VsphereGuestInfo" => Source::Unsupported {
            kind: kind.to_owned(),
        },
        _ => {
            return Err(AgentConfigError::UnknownSourceType {
                kind: kind.to_owned(),
            });
        }
    })
}

fn disks(options: &Object<'_>) -> Result<Vec<PathBuf>, JsonError> {
    let disks = options.texts("DiskPaths")?.unwrap_or_default();
    Ok(disks.into_iter().map(PathBuf::from).collect())
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
            {"Type":"VsphereGuestInfo","RpcToolPath":"/usr/bin/vmware-rpctool"}]}}}"#;
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
        assert_eq!(kind, "VsphereGuestInfo");
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn disks_have_devices_and_a_file() {
        let text = br#"{"Infrastructure":{"Settings":{"Sources":[
            {"Type":"ConfigDrive","DiskPaths":["/dev/disk/by-label/CONFIG-2","/dev/disk/by-label/config-2"],
             "MetaDataPath":"ec2/latest/meta-data.json","UserDataPath":"ec2/latest/user-data"},
            {"Type":"CDROM","FileName":"env"}]}}}"#;
        let config = AgentConfig::parse(text).unwrap();
        let [Source::Disk(drive), Source::Disk(cd)] = &config.sources[..] else {
            panic!("{config:?}")
        };
        assert_eq!(drive.disks.len(), 2);
        assert_eq!(drive.disks[1], PathBuf::from("/dev/disk/by-label/config-2"));
        assert_eq!(drive.file, PathBuf::from("ec2/latest/user-data"));
        assert_eq!(cd.disks, [PathBuf::from("/dev/sr0")]);
        assert_eq!(cd.file, PathBuf::from("env"));
    }

    #[test]
    fn options_of_compilation_have_defaults() {
        let text = br#"{"compilation":{"KEEPFAILED":true,"LogLimit":1000,"StandAside":null}}"#;
        let config = AgentConfig::parse(text).unwrap().compilation;
        assert!(config.keep_failed && config.stand_aside);
        assert!(config.upload_failed_log && !config.upload_log);
        assert_eq!(config.log_limit, 1000);
        let off =
            br#"{"Compilation":{"StandAside":false,"UploadFailedLog":false,"UploadLog":true}}"#;
        let config = AgentConfig::parse(off).unwrap().compilation;
        assert!(!config.stand_aside && !config.upload_failed_log && config.upload_log);
        assert_eq!(config.log_limit, 4 << 20);
        let wrong = AgentConfig::parse(br#"{"Compilation":{"LogLimit":"4m"}}"#).unwrap_err();
        assert_eq!(
            crate::diag::Chain(&wrong).to_string(),
            "the configuration is invalid: `config.Compilation.LogLimit` is a string; expected a whole number"
        );
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
