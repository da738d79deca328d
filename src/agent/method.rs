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

            pub(super) fn action(self) -> Action {
                match self {
                    $(Self::$variant => actions::$file::ACTION,)*
                }
            }
        }
    };
}

methods! {
    Apply = apply,
    CancelTask = cancel_task,
    CompilePackage = compile_package,
    CompilePackageWithSignedUrl = compile_package_with_signed_url,
    FetchLogs = fetch_logs,
    FetchLogsWithSignedUrl = fetch_logs_with_signed_url,
    GetState = get_state,
    GetTask = get_task,
    Info = info,
    Ping = ping,
    Shutdown = shutdown,
    UpdateSettings = update_settings,
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
        for name in ["", "PING", "ping ", "run_script"] {
            assert_eq!(Method::parse(name), None, "{name}");
        }
    }
}
