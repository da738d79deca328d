//! The methods of the protocol, and the action that implements each one.

use super::actions::{self, Action};

/// Declares the methods. Each has an enum variant and an action in a file that is named after the
/// method.
macro_rules! methods {
    ($($variant:ident = $file:ident,)*) => {
        /// A method of the protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Method {
            $($variant,)*
        }

        impl Method {
            /// Finds a method by its name in the protocol, which is case-sensitive.
            pub(super) fn parse(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($file) => Some(Self::$variant),)*
                    _ => None,
                }
            }

            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($file),)*
                }
            }

            fn action(self) -> Action {
                match self {
                    $(Self::$variant => actions::$file::ACTION,)*
                }
            }
        }
    };
}

methods! {
    AddDynamicDisk = add_dynamic_disk,
    AddPersistentDisk = add_persistent_disk,
    Apply = apply,
    BundleLogs = bundle_logs,
    CancelTask = cancel_task,
    CompilePackage = compile_package,
    CompilePackageWithSignedUrl = compile_package_with_signed_url,
    DeleteArpEntries = delete_arp_entries,
    Drain = drain,
    FetchLogs = fetch_logs,
    FetchLogsWithSignedUrl = fetch_logs_with_signed_url,
    GetState = get_state,
    GetTask = get_task,
    Info = info,
    ListDisk = list_disk,
    MigrateDisk = migrate_disk,
    MountDisk = mount_disk,
    Ping = ping,
    Prepare = prepare,
    RemoveDynamicDisk = remove_dynamic_disk,
    RemoveFile = remove_file,
    RemovePersistentDisk = remove_persistent_disk,
    RunErrand = run_errand,
    RunScript = run_script,
    Shutdown = shutdown,
    Ssh = ssh,
    Start = start,
    Stop = stop,
    SyncDns = sync_dns,
    SyncDnsWithSignedUrl = sync_dns_with_signed_url,
    UnmountDisk = unmount_disk,
    UpdateSettings = update_settings,
    UploadBlob = upload_blob,
}

impl Method {
    /// The action for a sender of this protocol version.
    pub(super) fn action_for(self, protocol: i64) -> Action {
        match self {
            Self::ListDisk if protocol < actions::list_disk::TASK_SINCE => {
                actions::list_disk::IMMEDIATE
            }
            _ => self.action(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_are_methods() {
        for method in [
            Method::Ping,
            Method::GetTask,
            Method::CompilePackageWithSignedUrl,
        ] {
            assert_eq!(Method::parse(method.name()), Some(method));
        }
        assert_eq!(Method::CompilePackage.name(), "compile_package");
        for name in ["", "PING", "ping ", "prepare_network_change"] {
            assert_eq!(Method::parse(name), None, "{name}");
        }
    }
}
