//! Decides whether this machine may store its packages as results of actions (`--remote-store`). Pure.
//!
//! An action names the program that compiles a package, the stemcell, and the properties of the machine. Nothing proves that a stored
//! result was made like this: clients trust the server, and the server trusts the clients that may write. So this machine stores its
//! packages only if its stemcell, program and user are those of the action. It cannot check the properties of the machine: the user
//! asserts them with the flag.

use crate::package_job::ScriptUser;
use crate::reapi::Digest;
use crate::release::Slug;

/// The facts of an action and those of this machine.
#[derive(Debug)]
pub(super) struct StoreCheck<'a> {
    /// The stemcell of the run.
    pub stemcell: &'a Slug,
    /// The stemcell of this machine; `None` if it is not a stemcell.
    pub machine: Option<&'a Slug>,
    /// The program that the action names.
    pub program: &'a Digest,
    /// This program.
    pub own_program: &'a Digest,
    /// The user of the action, if it names one.
    pub user: Option<ScriptUser>,
    /// The user that runs scripts on this machine.
    pub own_user: ScriptUser,
    /// The isolation tier of this machine.
    pub isolation: &'a str,
    /// Whether several scripts run at a time in the same base directory.
    pub shares_tree: bool,
    /// Whether the server accepts results.
    pub is_updatable: bool,
}

/// Why this machine may not store results.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreRefusal {
    /// This machine is not the stemcell.
    #[error("this machine is {}, not the stemcell {wanted} that the stored packages would name", found(machine.as_ref()))]
    Stemcell {
        /// The stemcell of this machine.
        machine: Option<Slug>,
        /// The stemcell of the run.
        wanted: Slug,
    },
    /// The other machines run another program.
    #[error("this program is not the one of --remote-agent that the stored packages would name")]
    Program,
    /// Scripts run as another user.
    #[error("scripts run as {own} here, and as {wanted} on the other machines")]
    User {
        /// The user on this machine.
        own: &'static str,
        /// The user on the other machines.
        wanted: &'static str,
    },
    /// Scripts are not isolated.
    #[error("the isolation tier is `none`, in which scripts can change each other's packages")]
    NotIsolated,
    /// Scripts can change packages that are compiled concurrently.
    #[error(
        "several scripts run at a time in the tier `{tier}`, in which they can change each other's packages: pass --jobs 1"
    )]
    Shared {
        /// The isolation tier.
        tier: String,
    },
    /// The server accepts no results.
    #[error("the server accepts no results from clients")]
    ReadOnly,
}

fn found(machine: Option<&Slug>) -> String {
    machine.map_or_else(|| "no stemcell".to_owned(), |it| format!("stemcell {it}"))
}

impl StoreCheck<'_> {
    /// Whether this machine may store its packages.
    ///
    /// # Errors
    /// If it may not.
    pub(super) fn check(&self) -> Result<(), StoreRefusal> {
        if self.machine != Some(self.stemcell) {
            return Err(StoreRefusal::Stemcell {
                machine: self.machine.cloned(),
                wanted: self.stemcell.clone(),
            });
        }
        if self.program != self.own_program {
            return Err(StoreRefusal::Program);
        }
        // Most machines of servers run actions as root.
        let wanted = self.user.unwrap_or(ScriptUser::Root);
        if wanted != self.own_user {
            return Err(StoreRefusal::User {
                own: name(self.own_user),
                wanted: name(wanted),
            });
        }
        if self.isolation == "none" {
            return Err(StoreRefusal::NotIsolated);
        }
        if self.shares_tree {
            let tier = self.isolation.to_owned();
            return Err(StoreRefusal::Shared { tier });
        }
        match self.is_updatable {
            true => Ok(()),
            false => Err(StoreRefusal::ReadOnly),
        }
    }
}

fn name(user: ScriptUser) -> &'static str {
    match user {
        ScriptUser::Root => "root",
        ScriptUser::Ordinary => "an ordinary user",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_stores_only_what_its_action_says() {
        let [stemcell, other] =
            ["ubuntu-noble/1.1", "ubuntu-noble/1.2"].map(|it| Slug::parse(it).unwrap());
        let [program, old] = [b"new", b"old"].map(|it| Digest::of(it));
        let check = || StoreCheck {
            stemcell: &stemcell,
            machine: Some(&stemcell),
            program: &program,
            own_program: &program,
            user: None,
            own_user: ScriptUser::Root,
            isolation: "landlock",
            shares_tree: false,
            is_updatable: true,
        };
        assert_eq!(check().check(), Ok(()));
        let user = Some(ScriptUser::Ordinary);
        let own_user = ScriptUser::Ordinary;
        let ordinary = StoreCheck {
            user,
            own_user,
            ..check()
        };
        assert_eq!(ordinary.check(), Ok(()));
        let wrong = [
            StoreCheck {
                machine: None,
                ..check()
            },
            StoreCheck {
                machine: Some(&other),
                ..check()
            },
            StoreCheck {
                own_program: &old,
                ..check()
            },
            StoreCheck {
                own_user,
                ..check()
            },
            StoreCheck { user, ..check() },
            StoreCheck {
                isolation: "none",
                ..check()
            },
            StoreCheck {
                shares_tree: true,
                ..check()
            },
            StoreCheck {
                is_updatable: false,
                ..check()
            },
        ];
        for check in wrong {
            assert!(check.check().is_err(), "{check:?}");
        }
    }
}
