//! Whether messages have colors.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use clap::ValueEnum;

use crate::config::Environment;
use crate::offline::Paint;

/// `--color`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless NO_COLOR is set; elsewhere if CLICOLOR_FORCE is set
    #[default]
    Auto,
    /// On every output
    Always,
    /// No colors
    Never,
}

/// The colors of errors before a run and after it.
static FOR_ERRORS: OnceLock<Paint> = OnceLock::new();

/// Sets the colors of errors, including errors about these arguments.
pub(super) fn set_for_errors(arguments: &[OsString], environment: &Environment) {
    // Called once per process.
    let _ = FOR_ERRORS.set(paint(wanted(arguments), environment));
}

/// The colors of errors.
pub(super) fn for_errors() -> Paint {
    FOR_ERRORS.get().copied().unwrap_or_default()
}

/// The colors of messages.
pub(super) fn paint(color: Color, environment: &Environment) -> Paint {
    let has_colors = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => automatic(|name| environment.get(name), io::stderr().is_terminal()),
    };
    Paint { has_colors }
}

/// Whether stderr is a terminal on which lines can be redrawn.
pub(super) fn is_terminal(environment: &Environment) -> bool {
    environment.get("TERM").is_none_or(|term| term != "dumb") && io::stderr().is_terminal()
}

/// Follows the variables that <https://bixense.com/clicolors/> and <https://no-color.org> describe.
fn automatic<'a>(variable: impl Fn(&str) -> Option<&'a OsStr>, is_terminal: bool) -> bool {
    let is_set = |name| variable(name).is_some_and(|value| !value.is_empty());
    let is_on = |name| is_set(name) && variable(name).is_some_and(|value| value != "0");
    if is_set("NO_COLOR") {
        return false;
    }
    let is_off = variable("CLICOLOR").is_some_and(|value| value == "0");
    let can_show = variable("TERM").is_some_and(|term| term != "dumb");
    is_on("CLICOLOR_FORCE") || (is_terminal && can_show && !is_off)
}

/// The value of `--color` in arguments that were not checked yet.
fn wanted(arguments: &[OsString]) -> Color {
    let mut arguments = arguments.iter().filter_map(|it| it.to_str());
    let mut wanted = Color::default();
    while let Some(argument) = arguments.next() {
        let Some(flag) = argument.strip_prefix('-') else {
            continue;
        };
        let value = match flag.strip_prefix('-').unwrap_or(flag).split_once('=') {
            Some(("color", value)) => Some(value),
            None if flag.trim_start_matches('-') == "color" => arguments.next(),
            _ => None,
        };
        let parsed = value.and_then(|value| Color::from_str(value, false).ok());
        wanted = parsed.unwrap_or(wanted);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_decide_about_colors() {
        let of = |variables: &[(&str, &'static str)], is_terminal| {
            let value = |name: &str| {
                let found = variables.iter().find(|(it, _)| *it == name);
                found.map(|(_, value)| OsStr::new(*value))
            };
            automatic(value, is_terminal)
        };
        let term = ("TERM", "xterm");
        assert!(of(&[term], true));
        assert!(!of(&[term], false));
        assert!(!of(&[("TERM", "dumb")], true));
        assert!(!of(&[], true));
        assert!(!of(&[term, ("NO_COLOR", "1")], true));
        assert!(of(&[term, ("NO_COLOR", "")], true));
        assert!(!of(&[term, ("CLICOLOR", "0")], true));
        assert!(of(&[("CLICOLOR_FORCE", "1")], false));
        assert!(!of(&[("CLICOLOR_FORCE", "0")], false));
        assert!(!of(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false));
    }

    #[test]
    fn color_is_found_in_invalid_arguments() {
        for (arguments, expected) in [
            (
                &["compile", "--color=always", "--nonsense"][..],
                Color::Always,
            ),
            (&["compile", "-color", "never"], Color::Never),
            (
                &["compile", "--color", "never", "--color=always"],
                Color::Always,
            ),
            (&["compile", "--color=red"], Color::Auto),
            (&["compile", "color"], Color::Auto),
        ] {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            assert_eq!(wanted(&arguments), expected, "{arguments:?}");
        }
    }
}
