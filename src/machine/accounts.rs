//! Accounts of users who log in with `bosh ssh`. A Director asks for an account with a random name
//! that starts with `bosh_`, and later for its removal.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex_lite::Regex;

use super::program::{ProgramError, Programs, run_program};
use crate::config::Vcap;
use crate::diag::Chain;
use crate::fs::{self, Context as _};
use crate::runtime::{self, TaskFailed};

/// The start of the names of these accounts. Only such accounts are removed.
const PREFIX: &str = "bosh_";

/// The longest name that `useradd` accepts, in bytes.
const LONGEST_NAME: usize = 32;

/// The longest public key, in bytes.
const LONGEST_KEY: usize = 16 << 10;

/// The groups of an account. The configuration of a stemcell allows their members to log in and to use `sudo`.
const GROUPS: [&str; 4] = ["vcap", "admin", "bosh_sudoers", "bosh_sshers"];

/// The shell of an account.
const SHELL: &str = "/bin/bash";

/// The time limit of `useradd` and `userdel`. A Director waits 45 seconds for the reply.
const LIMIT: Duration = Duration::from_secs(30);

/// Why an account could not be created or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountError {
    /// The name cannot be the name of such an account.
    #[error(
        "{name:?} is not a name for `bosh ssh`: expected `bosh_` and at most {} lower-case letters, digits, `_` or `-`",
        LONGEST_NAME - PREFIX.len()
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The key is not a line of an `authorized_keys` file.
    #[error("the public key is not in the format of OpenSSH")]
    Key,
    /// There is an account with this name.
    #[error("the user `{name}` already exists")]
    Exists {
        /// The name.
        name: String,
    },
    /// The path of the home directory exists already, or that of the directory for homes is not a directory.
    #[error("`{}` is occupied by another file or directory", path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
    },
    /// `useradd` succeeded, but the account is missing.
    #[error("`useradd` has not created the user `{name}`")]
    NotCreated {
        /// The name.
        name: String,
    },
    /// The pattern of names is not a regular expression.
    #[error("Compiling regexp")]
    Pattern(#[source] regex_lite::Error),
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// A task panicked.
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

/// The accounts of a machine.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    programs: Programs,
    /// The directory of home directories, as users see it.
    homes: PathBuf,
}

/// An entry of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    name: String,
    user: u32,
    group: u32,
    home: PathBuf,
}

impl Accounts {
    /// The accounts of the system with these programs.
    pub(crate) fn new(programs: Programs, vcap: &Vcap) -> Self {
        Self {
            programs,
            homes: vcap.ssh_homes(),
        }
    }

    /// The machine's public key, from which a client recognizes the machine. Blocks.
    ///
    /// # Errors
    /// If the key cannot be read.
    pub(crate) fn host_key(&self) -> fs::Result<String> {
        fs::read_lossy(&self.at(Path::new("/etc/ssh/ssh_host_rsa_key.pub")))
    }

    /// Creates an account with a home directory, and allows the owner of the key to log in.
    ///
    /// # Errors
    /// If the name or the key is invalid, or the account exists. After another failure, the account
    /// is removed again.
    pub(crate) async fn create(&self, name: &str, key: &str) -> Result<(), AccountError> {
        if !is_valid_name(name) {
            return Err(AccountError::Name {
                name: name.chars().take(LONGEST_NAME).collect(),
            });
        }
        let key = public_key(key).ok_or(AccountError::Key)?.to_owned();
        let (own, owned) = (self.clone(), name.to_owned());
        let checking = runtime::spawn_blocking("accounts", move || own.check(&owned));
        let groups = checking.await??;
        let mut arguments = self.prefix();
        let homes = self.homes.display().to_string();
        for argument in ["-m", "-b", &homes, "-s", SHELL, "-p", "*"] {
            arguments.push(argument.into());
        }
        if !groups.is_empty() {
            arguments.extend(["-G".into(), groups.join(",").into()]);
        }
        arguments.extend(["--".into(), name.into()]);
        if let Err(error) = run_program(&self.programs, "useradd", arguments, LIMIT).await {
            // The program may have been stopped after it had created the account.
            self.undo(name).await;
            return Err(error.into());
        }
        let (own, owned) = (self.clone(), name.to_owned());
        let allowing = runtime::spawn_blocking("accounts", move || own.allow(&owned, &key));
        let allowed = allowing.await.map_err(AccountError::Task).flatten();
        if allowed.is_err() {
            self.undo(name).await;
        }
        allowed
    }

    /// Removes an incomplete account, if there is one.
    async fn undo(&self, name: &str) {
        let (own, owned) = (self.clone(), name.to_owned());
        let looking = runtime::spawn_blocking("accounts", move || {
            let accounts = own.read().unwrap_or_default();
            accounts.iter().any(|account| account.name == owned)
        });
        if looking.await.unwrap_or(true)
            && let Err(error) = self.remove(name).await
        {
            let error = Chain(&error);
            tracing::warn!(user = name, %error, "failed to remove an incomplete account");
        }
    }

    /// Removes the accounts that [`create`](Self::create) created and whose names match a regular
    /// expression, with their home directories. Returns their names.
    ///
    /// # Errors
    /// If the pattern is invalid, or an account cannot be removed; the others are removed.
    pub(crate) async fn remove_matching(&self, pattern: &str) -> Result<Vec<String>, AccountError> {
        let pattern = Regex::new(pattern).map_err(AccountError::Pattern)?;
        let own = self.clone();
        let reading = runtime::spawn_blocking("accounts", move || own.read());
        let mut removed = Vec::new();
        let mut failure = None;
        for account in reading.await?? {
            if self.is_ours(&account) && pattern.is_match(&account.name) {
                match self.remove(&account.name).await {
                    Ok(()) => removed.push(account.name),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(removed),
        }
    }

    /// Checks that the account can be created. Returns those of its groups that exist.
    fn check(&self, name: &str) -> Result<Vec<&'static str>, AccountError> {
        if self.read()?.iter().any(|account| account.name == name) {
            return Err(AccountError::Exists {
                name: name.to_owned(),
            });
        }
        let homes = self.at(&self.homes);
        fs::create_dir_all(fs::parent(&homes))?;
        match fs::lookup(&homes)? {
            None => {
                fs::create_dir(&homes)?;
                fs::set_mode(&homes, 0o755)?;
            }
            Some(there) if there.is_dir() => {}
            Some(_) => return Err(AccountError::Occupied { path: homes }),
        }
        // Refuse an existing home, because a packaging script may have left it, for example as a link.
        let home = homes.join(name);
        if fs::lookup(&home)?.is_some() {
            return Err(AccountError::Occupied { path: home });
        }
        let groups = fs::read_lossy(&self.at(Path::new("/etc/group")))?;
        let exists = |group: &&str| {
            let mut names = groups.lines().filter_map(|line| line.split(':').next());
            names.any(|name| name == *group)
        };
        let (existing, missing): (Vec<&str>, Vec<&str>) = GROUPS.into_iter().partition(exists);
        if !missing.is_empty() {
            let groups = missing.join(",");
            tracing::warn!(
                user = name,
                groups,
                "the machine lacks groups of an account"
            );
        }
        Ok(existing)
    }

    /// Writes the key into the home directory. The user cannot have changed the directory, because logging in needs the key.
    fn allow(&self, name: &str, key: &str) -> Result<(), AccountError> {
        let mut accounts = self.read()?.into_iter();
        let account = accounts.find(|account| account.name == name && self.is_ours(account));
        let account = account.ok_or_else(|| AccountError::NotCreated {
            name: name.to_owned(),
        })?;
        let directory = self.at(&account.home).join(".ssh");
        fs::create_dir_with_mode(&directory, 0o700)?;
        let path = directory.join("authorized_keys");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = fs::open_with(&options, &path)?;
        file.write_all(format!("{key}\n").as_bytes())
            .at("write", &path)?;
        for path in [&path, &directory] {
            lchown(path, Some(account.user), Some(account.group)).at("set the owner of", path)?;
        }
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<(), ProgramError> {
        let mut arguments = self.prefix();
        arguments.extend(["-r".into(), "-f".into(), "--".into(), name.into()]);
        run_program(&self.programs, "userdel", arguments, LIMIT).await
    }

    /// The arguments that make a program change the files of another root directory.
    fn prefix(&self) -> Vec<std::ffi::OsString> {
        let root = &self.programs.root;
        match root.parent() {
            None => Vec::new(),
            Some(_) => vec!["--prefix".into(), root.into()],
        }
    }

    /// Whether [`create`](Self::create) has created the account.
    fn is_ours(&self, account: &Account) -> bool {
        is_valid_name(&account.name)
            && account.user != 0
            && account.home == self.homes.join(&account.name)
    }

    fn read(&self) -> fs::Result<Vec<Account>> {
        let text = fs::read_lossy(&self.at(Path::new("/etc/passwd")))?;
        Ok(text.lines().filter_map(Account::parse).collect())
    }

    /// A path of the system below the root directory.
    fn at(&self, path: &Path) -> PathBuf {
        let root = &self.programs.root;
        root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Account {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, user, group, _, home, _] = fields[..] else {
            return None;
        };
        Some(Self {
            name: name.to_owned(),
            user: user.parse().ok()?,
            group: group.parse().ok()?,
            home: home.into(),
        })
    }
}

fn is_valid_name(name: &str) -> bool {
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    let rest = name.strip_prefix(PREFIX);
    name.len() <= LONGEST_NAME
        && rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(is_plain))
}

/// The key without surrounding white space, if it is one public key without options.
fn public_key(key: &str) -> Option<&str> {
    let key = key.trim();
    let mut fields = key.split(' ');
    let (kind, data) = (fields.next()?, fields.next()?);
    let is_kind = ["ssh-", "ecdsa-", "sk-"]
        .iter()
        .any(|start| kind.starts_with(start));
    let is_data = STANDARD.decode(data).is_ok_and(|data| !data.is_empty());
    let is_line = key.len() <= LONGEST_KEY && !key.contains(char::is_control);
    (is_kind && is_data && is_line).then_some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;
    use crate::config::Environment;
    use crate::fs::{require, require_root};

    const KEY: &str = "ssh-rsa AAAAB3NzaC1yc2E= alice@example.com";

    /// A root directory with the files of accounts, and the accounts in it.
    fn accounts() -> (tempfile::TempDir, Accounts) {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(fs::parent(&path)).unwrap();
            fs::write(&path, text.as_bytes()).unwrap();
        };
        write(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nvcap:x:1000:1000::/home/vcap:/bin/bash\n\
             bosh_old:x:1001:1001::/home/bosh_old:/bin/bash\n",
        );
        write("etc/group", "root:x:0:\nvcap:x:1000:\nadmin:x:999:\n");
        write(
            "etc/shadow",
            "root:*:1::::::\nvcap:*:1::::::\nbosh_old:*:1::::::\n",
        );
        write("etc/gshadow", "root:*::\nvcap:!::\nadmin:!::\n");
        write(
            "etc/login.defs",
            "USERGROUPS_ENAB yes\nUID_MIN 1000\nGID_MIN 1000\n",
        );
        write("etc/ssh/ssh_host_rsa_key.pub", "ssh-rsa AAAA host\n");
        let programs = root.path().join("usr/sbin");
        fs::create_dir_all(&programs).unwrap();
        for program in ["useradd", "userdel"] {
            let file = Path::new("/usr/sbin").join(program);
            fs::symlink(&file, &programs.join(program)).unwrap();
        }
        let vcap = Vcap::new(Path::new(Vcap::BASE));
        let programs = Programs {
            root: root.path().to_owned(),
            environment: Environment::default(),
        };
        let accounts = Accounts::new(programs, &vcap);
        (root, accounts)
    }

    /// Whether this process can create accounts below another root directory.
    fn can_create() -> bool {
        require_root() && require(Path::new("/usr/sbin/useradd").exists(), "useradd")
    }

    #[tokio::test]
    async fn account_is_created_with_its_key_and_removed() {
        if !can_create() {
            return;
        }
        let (root, accounts) = accounts();
        accounts.create("bosh_1a-b", KEY).await.unwrap();
        let account = accounts.read().unwrap().pop().unwrap();
        assert_eq!(account.home, Path::new("/var/vcap/bosh_ssh/bosh_1a-b"));
        let home = root.path().join("var/vcap/bosh_ssh/bosh_1a-b");
        let keys = home.join(".ssh/authorized_keys");
        assert_eq!(fs::read_lossy(&keys).unwrap(), format!("{KEY}\n"));
        for (path, mode) in [(&keys, 0o600), (&home.join(".ssh"), 0o700)] {
            let found = fs::metadata(path).unwrap();
            assert_eq!(found.permissions().mode() & 0o7777, mode);
            assert_eq!((found.uid(), found.gid()), (account.user, account.group));
        }
        let groups = fs::read_lossy(&root.path().join("etc/group")).unwrap();
        assert!(groups.contains("vcap:x:1000:bosh_1a-b"), "{groups}");
        assert!(groups.contains("admin:x:999:bosh_1a-b"), "{groups}");
        let again = accounts.create("bosh_1a-b", KEY).await.unwrap_err();
        assert!(matches!(again, AccountError::Exists { .. }), "{again}");

        // An account that was not created here stays.
        assert_eq!(
            accounts.remove_matching("^vcap|old").await.unwrap(),
            [""; 0]
        );
        let removed = accounts.remove_matching("^bosh_").await.unwrap();
        assert_eq!(removed, ["bosh_1a-b"]);
        assert!(!home.exists());
        assert_eq!(accounts.read().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn account_in_an_occupied_home_is_refused() {
        let (root, accounts) = accounts();
        let homes = root.path().join("var/vcap/bosh_ssh");
        fs::create_dir_all(&homes).unwrap();
        fs::symlink(Path::new("/etc"), &homes.join("bosh_a")).unwrap();
        let error = accounts.create("bosh_a", KEY).await.unwrap_err();
        assert!(matches!(error, AccountError::Occupied { .. }), "{error}");
        fs::remove_tree(&homes).unwrap();
        fs::symlink(Path::new("/etc"), &homes).unwrap();
        let error = accounts.create("bosh_a", KEY).await.unwrap_err();
        assert!(matches!(error, AccountError::Occupied { .. }), "{error}");
    }

    #[tokio::test]
    async fn invalid_names_keys_and_patterns_are_refused() {
        let (_root, accounts) = accounts();
        for name in [
            "",
            "root",
            "bosh_",
            "bosh_A",
            "bosh_a b",
            "bosh_a:x",
            "-bosh_a",
            "bosh_../a",
        ] {
            let error = accounts.create(name, KEY).await.unwrap_err();
            assert!(
                matches!(error, AccountError::Name { .. }),
                "{name}: {error}"
            );
        }
        let long = format!("bosh_{}", "a".repeat(LONGEST_NAME));
        assert!(!is_valid_name(&long));
        for key in [
            "",
            "ssh-rsa",
            "ssh-rsa not/base64!",
            "command=\"sh\" ssh-rsa AAAA",
            "ssh-rsa AAAA\nssh-rsa BBBB",
        ] {
            let error = accounts.create("bosh_a", key).await.unwrap_err();
            assert!(matches!(error, AccountError::Key), "{key}: {error}");
        }
        let error = accounts.remove_matching("(").await.unwrap_err();
        assert_eq!(error.to_string(), "Compiling regexp");
    }

    #[test]
    fn key_of_the_machine_is_read() {
        let (_root, accounts) = accounts();
        assert_eq!(accounts.host_key().unwrap(), "ssh-rsa AAAA host\n");
    }
}
