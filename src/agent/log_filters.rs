//! Patterns that select logs by their paths. No I/O.
//!
//! The patterns have the same meaning as those of the crate `globset`, which is not used because it would add another regular expression
//! engine to the program. The tests compare the two.

use std::path::Path;

use regex_lite::Regex;

/// A regular expression that matches any number of directories, also none, at the start of a path.
const DIRECTORIES: &str = "(?:/?|.*/)";

/// Why a pattern is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("error parsing glob '{pattern}': {reason}")]
pub struct PatternError {
    pattern: String,
    reason: Reason,
}

impl PatternError {
    /// The invalid pattern.
    pub(super) fn pattern(&self) -> &str {
        &self.pattern
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error("unclosed character class; missing ']'")]
    UnclosedClass,
    #[error("invalid range; '{0}' > '{1}'")]
    InvalidRange(char, char),
    #[error("unopened alternate group; missing '{{' (maybe escape '}}' with '[}}]'?)")]
    UnopenedAlternates,
    #[error("unclosed alternate group; missing '}}' (maybe escape '{{' with '[{{]'?)")]
    UnclosedAlternates,
    #[error("dangling '\\'")]
    DanglingEscape,
    /// Alternates are nested too deeply, or the pattern is too long.
    #[error("{0}")]
    Regex(String),
}

/// Patterns, of which a path must match one.
#[derive(Debug, Clone)]
pub(super) struct LogFilters(Vec<Regex>);

impl LogFilters {
    /// Parses patterns. `*` and `?` match within one directory, `**` matches any number of directories, `[a-z]`, `[!a-z]` and `[^a-z]` one
    /// character, `{a,b}` one of two patterns, and `\` makes the next character literal.
    ///
    /// # Errors
    /// The first invalid pattern.
    pub(super) fn new(patterns: &[String]) -> Result<Self, PatternError> {
        let parse = |pattern: &String| {
            let regex = Translation::of(pattern).and_then(|regex| {
                Regex::new(&regex).map_err(|error| Reason::Regex(error.to_string()))
            });
            regex.map_err(|reason| PatternError {
                pattern: pattern.clone(),
                reason,
            })
        };
        patterns
            .iter()
            .map(parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether a relative path matches one of the patterns. A byte that is not UTF-8 counts as one character.
    pub(super) fn match_path(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        self.0.iter().any(|pattern| pattern.is_match(&path))
    }
}

/// The end of a branch so far. The meaning of a following `**` depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum End {
    #[default]
    Nothing,
    /// `**/` at the start.
    Directories,
    /// `/` or `/**/`, whose regular expression starts at this length.
    Separator(usize),
    Other,
}

/// The regular expression of the pattern, or of one of its alternates.
#[derive(Debug, Default)]
struct Branch {
    regex: String,
    end: End,
}

impl Branch {
    fn push(&mut self, regex: &str) {
        self.regex.push_str(regex);
        self.end = End::Other;
    }

    fn literal(&mut self, literal: char) {
        let start = self.regex.len();
        self.push(&escaped(literal));
        if literal == '/' {
            self.end = End::Separator(start);
        }
    }
}

/// Alternates, such as `{a,b}`, whose closing brace has not been read yet.
#[derive(Debug)]
struct Alternates {
    before: Branch,
    complete: Vec<String>,
}

/// A pattern that is being translated into a regular expression.
#[derive(Debug)]
struct Translation<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    open: Vec<Alternates>,
    branch: Branch,
}

impl Translation<'_> {
    fn of(pattern: &str) -> Result<String, Reason> {
        let mut translation = Translation {
            rest: pattern.chars().peekable(),
            open: Vec::new(),
            branch: Branch::default(),
        };
        while let Some(next) = translation.rest.next() {
            translation.read(next)?;
        }
        if !translation.open.is_empty() {
            return Err(Reason::UnclosedAlternates);
        }
        let regex = match translation.branch.regex.as_str() {
            DIRECTORIES => ".*",
            regex => regex,
        };
        Ok(format!("(?s)^{regex}$"))
    }

    fn read(&mut self, next: char) -> Result<(), Reason> {
        match next {
            '?' => self.branch.push("[^/]"),
            '*' => self.star(),
            '[' => self.class()?,
            '{' => self.open.push(Alternates {
                before: std::mem::take(&mut self.branch),
                complete: Vec::new(),
            }),
            '}' => self.close()?,
            ',' => match self.open.last_mut() {
                Some(alternates) => {
                    let branch = std::mem::take(&mut self.branch);
                    alternates.complete.push(branch.regex);
                }
                None => self.branch.literal(','),
            },
            '\\' => match self.rest.next() {
                Some(literal) => self.branch.literal(literal),
                None => return Err(Reason::DanglingEscape),
            },
            literal => self.branch.literal(literal),
        }
        Ok(())
    }

    /// Ends alternates. Ignores empty ones: `a{,b}` matches only `ab`.
    fn close(&mut self) -> Result<(), Reason> {
        let Alternates {
            before,
            mut complete,
        } = self.open.pop().ok_or(Reason::UnopenedAlternates)?;
        let last = std::mem::replace(&mut self.branch, before);
        complete.push(last.regex);
        complete.retain(|regex| !regex.is_empty());
        if complete.is_empty() {
            self.branch.push("");
        } else {
            self.branch.push(&format!("(?:{})", complete.join("|")));
        }
        Ok(())
    }

    /// Reads the rest of a pattern's stars. `**` as a whole component of a path matches any number of directories; other stars match within
    /// one directory.
    fn star(&mut self) {
        const WITHIN_ONE: &str = "[^/]*";
        if self.rest.next_if_eq(&'*').is_none() {
            return self.branch.push(WITHIN_ONE);
        }
        let next = self.rest.peek().copied();
        match (self.branch.end, next) {
            (End::Nothing, None | Some('/')) => {
                self.rest.next();
                self.branch.push(DIRECTORIES);
                self.branch.end = End::Directories;
            }
            (End::Directories, None | Some('/')) => {
                self.rest.next();
            }
            (End::Directories, Some(',' | '}')) if !self.open.is_empty() => {}
            (End::Separator(start), Some('/')) => {
                self.rest.next();
                self.branch.regex.truncate(start);
                self.branch.push("(?:/|/.*/)");
                self.branch.end = End::Separator(start);
            }
            (End::Separator(start), next)
                if next.is_none() || matches!(next, Some(',' | '}')) && !self.open.is_empty() =>
            {
                self.branch.regex.truncate(start);
                self.branch.push("/.*");
            }
            _ => self.branch.push(WITHIN_ONE),
        }
    }

    /// Reads a class of characters after its `[`.
    fn class(&mut self) -> Result<(), Reason> {
        let negated = self.rest.next_if(|next| matches!(next, '!' | '^'));
        let mut ranges: Vec<(char, char)> = Vec::new();
        let mut in_range = false;
        loop {
            let next = self.rest.next().ok_or(Reason::UnclosedClass)?;
            match (next, ranges.last_mut()) {
                (']', Some(_)) => break,
                ('-', Some(_)) if !in_range => in_range = true,
                (end, Some(range)) if in_range => {
                    if end < range.0 {
                        return Err(Reason::InvalidRange(range.0, end));
                    }
                    range.1 = end;
                    in_range = false;
                }
                (character, _) => ranges.push((character, character)),
            }
        }
        if in_range {
            ranges.push(('-', '-'));
        }
        let mut class = String::from(if negated.is_some() { "[^" } else { "[" });
        for (first, last) in ranges {
            class += &escaped(first);
            class.push('-');
            class += &escaped(last);
        }
        class.push(']');
        self.branch.push(&class);
        Ok(())
    }
}

fn escaped(literal: char) -> String {
    regex_lite::escape(literal.encode_utf8(&mut [0; 4]))
}

#[cfg(test)]
mod tests {
    use globset::GlobBuilder;
    use proptest::prelude::*;

    use super::*;

    fn parsed(pattern: &str) -> Result<LogFilters, PatternError> {
        LogFilters::new(&[pattern.to_owned()])
    }

    /// The same pattern of the reference.
    fn reference(pattern: &str) -> Result<globset::GlobMatcher, globset::Error> {
        let mut builder = GlobBuilder::new(pattern);
        builder.literal_separator(true).backslash_escape(true);
        builder.build().map(|glob| glob.compile_matcher())
    }

    fn compare(pattern: &str, path: &str) {
        match (parsed(pattern), reference(pattern)) {
            (Ok(ours), Ok(theirs)) => assert_eq!(
                ours.match_path(Path::new(path)),
                theirs.is_match(path),
                "{pattern} {path}"
            ),
            (Err(ours), Err(theirs)) => assert_eq!(ours.to_string(), theirs.to_string()),
            (ours, theirs) => panic!("{pattern}: {ours:?} instead of {theirs:?}"),
        }
    }

    #[test]
    fn patterns_mean_the_same_as_those_of_globset() {
        let patterns = [
            "**",
            "**/",
            "**/**",
            "**/**/",
            "/**",
            "a/**",
            "a/**/b",
            "a/**/**",
            "a/**/**/b",
            "**/*",
            "**a",
            "a**",
            "a/**b",
            "a**/b",
            "{**,b}",
            "{a,}",
            "{}",
            "{,}b",
            "{a/**,b}",
            "{**/a,b/**}",
            "{{a,b}/**,b}",
            "a,b",
            "a\\*",
            "\\",
            "\\/**",
            "[",
            "[]",
            "[]a]",
            "[a-]",
            "[-a]",
            "[b-a]",
            "[!a]b",
            "[^a]b",
            "[a&&b]",
            "[a-b-]",
            "[--b]",
            "}",
            "{",
            "{a",
            "a}",
            "?/?",
            "*.*",
            ".*",
            "a.b",
            "(a|b)",
            "a+",
            "#",
            " a",
            "",
        ];
        let paths = [
            "", "a", "b", "ab", "a/b", "a/a", "a/b/a", "a/b/a/b", "b/a", ".a", "a.b", "a*", "a,b",
            "[", "]", "-", "\\", "/a", "a/", "/", "{a", "a}", "{a,b}", "(a|b)", "a+", "aa", "#",
            " a", "a\nb", "&", "a/bb", "aa/b",
        ];
        for pattern in patterns {
            for path in paths {
                compare(pattern, path);
            }
        }
    }

    proptest! {
        #[test]
        fn random_patterns_mean_the_same_as_those_of_globset(pattern in "(\\*\\*/|/\\*\\*|[ab/*?{}\\[\\]!^.-]|,a){0,8}", path in "[ab./-]{0,6}") {
            compare(&pattern, &path);
        }
    }

    #[test]
    fn names_need_not_be_unicode() {
        use std::os::unix::ffi::OsStrExt as _;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"redis\xff/\xc3\xa9.log"));
        for pattern in ["redis?/?.log", "**/*.log", "redis*/[é].log", "redis?/é.*"] {
            assert!(parsed(pattern).unwrap().match_path(path), "{pattern}");
        }
    }

    #[test]
    fn deeply_nested_alternates_are_refused() {
        let pattern = "{".repeat(1000) + "a" + &"}".repeat(1000);
        let message = parsed(&pattern).unwrap_err().to_string();
        assert!(message.ends_with("too much nesting"), "{message}");
    }
}
