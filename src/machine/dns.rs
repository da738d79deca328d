//! DNS records that a Director sends: names of instances for BOSH DNS and for `/etc/hosts`.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::{Group, geteuid};
use serde_json::Value;

use crate::config::Vcap;
use crate::config::json::Object;
use crate::fs::{self, Context as _};
use crate::machine::bootstrap::Platform;

/// The first and the last line of the records in `/etc/hosts`. Lines outside stay as they are.
const BEGIN: &str = "# Begin of the DNS records of the BOSH Director";
const END: &str = "# End of the DNS records of the BOSH Director";

/// The longest text of records, in bytes.
pub(crate) const LONGEST: u64 = 64 << 20;

/// The longest name, in bytes.
const LONGEST_NAME: usize = 253;

/// Records of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DnsRecords {
    text: Vec<u8>,
    addresses: Vec<(IpAddr, String)>,
}

/// Why records cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DnsError {
    /// The text is not JSON.
    #[error("unmarshalling DNS records: invalid JSON at line {line}, column {column}")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// The text is JSON, but no object.
    #[error("unmarshalling DNS records: expected a JSON object")]
    Document,
    /// A value has the wrong type.
    #[error("unmarshalling DNS records: `{0}` has the wrong type")]
    Type(&'static str),
    /// A record is not an address and a host name.
    #[error("unmarshalling DNS records: record {number} is not an address and a host name")]
    Record {
        /// The number of the record, from 1.
        number: usize,
    },
    /// The records have another version than the request. The text is that of the Go agent.
    #[error("version from unpacked dns blob does not match version supplied by director")]
    Version,
}

impl DnsRecords {
    /// Parses records of a version.
    ///
    /// # Errors
    /// If the text is invalid, or has another version.
    pub(crate) fn parse(text: Vec<u8>, version: u64) -> Result<Self, DnsError> {
        let document: Value = serde_json::from_slice(&text).map_err(|error| DnsError::Json {
            line: error.line(),
            column: error.column(),
        })?;
        if version_of(&document)? != version {
            return Err(DnsError::Version);
        }
        let records = document
            .as_object()
            .and_then(|members| Object::of(members).get("records"));
        let records = match records {
            None => &[][..],
            Some(records) => records.as_array().ok_or(DnsError::Type("records"))?,
        };
        let addresses = records
            .iter()
            .enumerate()
            .map(|(index, record)| record_of(record).ok_or(DnsError::Record { number: index + 1 }))
            .collect::<Result<_, _>>()?;
        Ok(Self { text, addresses })
    }

    /// Saves the records for BOSH DNS. Blocks until the file is on the disk.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn save(&self, vcap: &Vcap, platform: Platform) -> fs::Result<()> {
        let path = vcap.dns_records();
        fs::create_dir_all(fs::parent(&path))?;
        let (mut file, temporary) = fs::temporary_next_to(&path)?.into_parts();
        file.write_all(&self.text).at("write", &path)?;
        if platform == Platform::Linux && geteuid().is_root() {
            // Jobs that read the records belong to this group.
            let group = Group::from_name("vcap").ok().flatten();
            let group = group.map(|group| group.gid.as_raw());
            fchown(&file, None, group).at("set the owner of", &path)?;
        }
        let mode = Permissions::from_mode(0o640);
        file.set_permissions(mode).at("set the mode of", &path)?;
        file.sync_all().at("sync", &path)?;
        fs::persist(temporary, &path)
    }

    /// Replaces the records in the `hosts` file of the system. Blocks.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub(crate) fn write_hosts(&self, root: &Path) -> fs::Result<()> {
        let path = hosts(root);
        let old = fs::if_there(fs::read_lossy(&path))?.unwrap_or_default();
        let new = self.merged_into(&old);
        // In a container, the file is a mount, which cannot be replaced.
        if fs::lookup(&path)?.is_some() && fs::is_mount_point(&path)? {
            return fs::write(&path, new.as_bytes());
        }
        fs::write_atomic(&path, new.as_bytes(), 0o644)
    }

    fn merged_into(&self, old: &str) -> String {
        let mut text = String::new();
        let mut is_record = false;
        let is_whole = old
            .lines()
            .skip_while(|line| *line != BEGIN)
            .any(|line| line == END);
        for line in old.lines() {
            // If the last line is missing, keep all lines after the first one: it is unknown which ones are the
            // agent's.
            if !is_whole && line == BEGIN {
                continue;
            }
            is_record |= line == BEGIN;
            if !is_record {
                text += line;
                text.push('\n');
            }
            is_record &= line != END;
        }
        text += BEGIN;
        text.push('\n');
        for (address, name) in &self.addresses {
            let _ = writeln!(text, "{address} {name}");
        }
        text += END;
        text.push('\n');
        text
    }
}

fn hosts(root: &Path) -> PathBuf {
    root.join("etc/hosts")
}

/// The version of the saved records; `None` if there are none, or if they are not valid. Blocks.
pub(crate) fn saved_version(vcap: &Vcap) -> Option<u64> {
    let (text, _) = beginning(&vcap.dns_records(), LONGEST).ok()?;
    version_of(&serde_json::from_slice(&text).ok()?).ok()
}

/// The beginning of a file, and whether that is the whole file.
///
/// # Errors
/// If the path is not a regular file, or cannot be read.
pub(crate) fn beginning(path: &Path, limit: u64) -> fs::Result<(Vec<u8>, bool)> {
    let mut text = Vec::new();
    let file = fs::open_file(path)?;
    file.take(limit + 1)
        .read_to_end(&mut text)
        .at("read", path)?;
    let is_whole = text.len() as u64 <= limit;
    Ok((text, is_whole))
}

fn version_of(document: &Value) -> Result<u64, DnsError> {
    let members = document.as_object().ok_or(DnsError::Document)?;
    match Object::of(members).get("version") {
        None => Ok(0),
        Some(version) => version.as_u64().ok_or(DnsError::Type("version")),
    }
}

/// An address and a name, if they are safe in a line of `/etc/hosts`.
fn record_of(record: &Value) -> Option<(IpAddr, String)> {
    let [address, name] = &record.as_array()?[..] else {
        return None;
    };
    let (address, name) = (address.as_str()?.parse().ok()?, name.as_str()?);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_name = !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(is_plain);
    is_name.then(|| (address, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<DnsRecords, DnsError> {
        DnsRecords::parse(text.as_bytes().to_vec(), 7)
    }

    #[test]
    fn records_replace_the_older_ones_in_hosts() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(&root.path().join("etc")).unwrap();
        let path = hosts(root.path());
        fs::write(&path, b"127.0.0.1 localhost\n").unwrap();
        for records in [
            r#"{"version": 7, "records": [["10.0.0.1", "a.bosh"], ["::1", "b.bosh"]]}"#,
            r#"{"version": 7, "records": [["10.0.0.2", "a.bosh"]], "record_keys": []}"#,
        ] {
            parsed(records).unwrap().write_hosts(root.path()).unwrap();
        }
        assert_eq!(
            fs::read_lossy(&path).unwrap(),
            format!("127.0.0.1 localhost\n{BEGIN}\n10.0.0.2 a.bosh\n{END}\n")
        );
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o644
        );
    }

    #[test]
    fn lines_of_an_edited_hosts_file_are_kept() {
        let records = parsed(r#"{"version": 7}"#).unwrap();
        let old = format!("{BEGIN}\n10.0.0.1 a\n");
        let new = records.merged_into(&old);
        assert_eq!(new, format!("10.0.0.1 a\n{BEGIN}\n{END}\n"));
    }

    #[test]
    fn records_that_are_a_fifo_are_ignored() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(scratch.path());
        fs::create_dir_all(fs::parent(&vcap.dns_records())).unwrap();
        fs::make_fifo(&vcap.dns_records()).unwrap();
        assert_eq!(saved_version(&vcap), None);
    }

    #[test]
    fn version_is_that_of_the_saved_file() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(scratch.path());
        assert_eq!(saved_version(&vcap), None);
        parsed(r#"{"Version": 7}"#)
            .unwrap()
            .save(&vcap, Platform::Dummy)
            .unwrap();
        assert_eq!(saved_version(&vcap), Some(7));
        let mode = fs::metadata(&vcap.dns_records())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640);
        fs::write(&vcap.dns_records(), b"{").unwrap();
        assert_eq!(saved_version(&vcap), None);
    }

    #[test]
    fn invalid_records_are_refused() {
        assert_eq!(parsed(r#"{"version": 8}"#), Err(DnsError::Version));
        assert_eq!(
            parsed(r#"{"version": "7"}"#),
            Err(DnsError::Type("version"))
        );
        assert!(matches!(parsed("{"), Err(DnsError::Json { .. })));
        assert_eq!(
            parsed(r#"{"version": 7, "records": 7}"#),
            Err(DnsError::Type("records"))
        );
        for document in ["[]", "null", "7"] {
            assert_eq!(parsed(document), Err(DnsError::Document), "{document}");
        }
        for record in [
            r#"["10.0.0.1", "a\n127.0.0.1 evil"]"#,
            r#"["10.0.0.1"]"#,
            r#"["10.0.0.1", ""]"#,
            r#"["name", "a"]"#,
            r#"{}"#,
        ] {
            let text = format!(r#"{{"version": 7, "records": [["::1", "a"], {record}]}}"#);
            assert_eq!(
                parsed(&text),
                Err(DnsError::Record { number: 2 }),
                "{record}"
            );
        }
    }
}
