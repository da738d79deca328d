//! As much of Markdown as the documents use.

use std::collections::BTreeMap;

/// A page, taken to its parts.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// What a link can name after its `#`.
    pub(super) anchors: Vec<String>,
    /// The targets of links, with their line numbers.
    pub(super) links: Vec<(usize, String)>,
    /// The texts between backticks, with their line numbers.
    pub(super) code: Vec<(usize, String)>,
    /// The lines of code blocks. Continued lines are joined.
    pub(super) commands: Vec<String>,
    /// Those of them that are in blocks for a shell.
    pub(super) shell: Vec<String>,
}

impl Document {
    pub(super) fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut in_block = false;
        let mut is_shell = false;
        let mut prose = String::new();
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
                is_shell = line.trim_start() == "```sh";
                prose.push('\n');
            } else if in_block {
                command(&mut page.commands, line);
                if is_shell {
                    command(&mut page.shell, line);
                }
                prose.push('\n');
            } else {
                if let Some(heading) = line.trim_start_matches('#').strip_prefix(' ')
                    && line.starts_with('#')
                {
                    let anchor = anchor(heading);
                    let count = seen.entry(anchor.clone()).or_default();
                    page.anchors.push(match count {
                        0 => anchor,
                        _ => format!("{anchor}-{count}"),
                    });
                    *count += 1;
                }
                prose.push_str(line);
                prose.push('\n');
            }
        }
        page.inline(&prose);
        page
    }

    /// Finds code and links. Both may continue on the next line.
    fn inline(&mut self, prose: &str) {
        let mut without_code = String::new();
        for (number, part) in prose.split('`').enumerate() {
            let newlines = part.matches('\n').count();
            if number % 2 == 1 {
                let line = without_code.matches('\n').count() + 1;
                self.code.push((line, part.replace('\n', " ")));
                without_code.push_str(&"\n".repeat(newlines));
            } else {
                without_code.push_str(part);
            }
        }
        for (at, _) in without_code.match_indices("](") {
            let line = without_code[..at].matches('\n').count() + 1;
            let target = without_code[at + 2..].split(')').next().unwrap();
            self.links.push((line, target.trim().to_owned()));
        }
    }
}

/// Appends a line, or continues the last one.
fn command(commands: &mut Vec<String>, line: &str) {
    match commands.last_mut().filter(|it| it.ends_with('\\')) {
        Some(last) => {
            last.pop();
            last.push_str(line);
        }
        None => commands.push(line.to_owned()),
    }
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|it| it.is_alphanumeric() || " -_".contains(*it));
    kept.map(|it| if it == ' ' { '-' } else { it }).collect()
}

#[test]
fn page_is_taken_to_its_parts() {
    let page = Document::parse(
        "# The `x` flag, twice\n\n## More\n## More\nSee [a\nb](c.md#d), `[no](link)` and `two\nwords`.\n\
         ```sh\n# no heading\nrun \\\n  --flag\n```\n[e](f)\n```json\n{}\n```\n",
    );
    assert_eq!(page.anchors, ["the-x-flag-twice", "more", "more-1"]);
    let links = [(6, "c.md#d".to_owned()), (13, "f".to_owned())];
    assert_eq!(page.links, links);
    let code = page.code.iter().map(|(line, text)| (*line, text.as_str()));
    let expected = [(1, "x"), (6, "[no](link)"), (6, "two words")];
    assert_eq!(code.collect::<Vec<_>>(), expected);
    assert_eq!(page.commands, ["# no heading", "run   --flag", "{}"]);
    assert_eq!(page.shell, ["# no heading", "run   --flag"]);
}
