//! Writes the dependency graph of a run in Graphviz's DOT language. No I/O.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The maximum length of a version, in characters. Most versions are long digests.
const VERSION_LENGTH: usize = 12;

/// The fill color of packages that are compiled already.
const COMPILED: &str = "lightgray";

/// The color of the critical path.
const CRITICAL: &str = "red";

/// A package of a graph.
#[derive(Debug, Clone)]
pub(super) struct DotNode {
    pub name: String,
    pub version: String,
    /// `NAME/VERSION` of each release that has the package, at least one.
    pub releases: Vec<String>,
    /// The expected time, such as `12.0s`.
    pub time: Option<String>,
    /// Whether the package was compiled before.
    pub is_compiled: bool,
    /// Whether the package is on the critical path.
    pub is_critical: bool,
    /// The index of the dependency that precedes the package on the critical path.
    pub critical_dependency: Option<usize>,
    /// The indices of the direct dependencies.
    pub dependencies: Vec<usize>,
}

/// The text of a graph. An arrow leads from a package to its dependency. If there are several releases, each is a cluster. A package that
/// several releases share is outside the clusters, and its label names the releases.
pub(super) fn text(nodes: &[DotNode]) -> String {
    let mut clusters: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for release in &node.releases {
            clusters.entry(release).or_default().push(index);
        }
    }
    let mut text = "// An arrow leads from a package to its dependency.\n\
                    digraph packages {\n  \
                    rankdir=LR;\n  \
                    node [shape=box, style=rounded, fontname=\"sans-serif\"];\n"
        .to_owned();
    let has_clusters = clusters.len() > 1;
    for (number, (release, indices)) in clusters.iter().enumerate().filter(|_| has_clusters) {
        let _ = writeln!(
            text,
            "  subgraph cluster_{number} {{\n    label={};",
            quoted(release)
        );
        for &index in indices
            .iter()
            .filter(|&&index| nodes[index].releases.len() == 1)
        {
            let _ = writeln!(text, "    n{index} [{}];", attributes(&nodes[index]));
        }
        text.push_str("  }\n");
    }
    for (index, node) in nodes.iter().enumerate() {
        if !has_clusters || node.releases.len() != 1 {
            let _ = writeln!(text, "  n{index} [{}];", attributes(node));
        }
    }
    for (index, node) in nodes.iter().enumerate() {
        for &dependency in &node.dependencies {
            let color = match node.critical_dependency == Some(dependency) {
                true => format!(" [color={CRITICAL}, penwidth=2]"),
                false => String::new(),
            };
            let _ = writeln!(text, "  n{index} -> n{dependency}{color};");
        }
    }
    text.push_str("}\n");
    text
}

fn attributes(node: &DotNode) -> String {
    let version: String = node.version.chars().take(VERSION_LENGTH).collect();
    let mut lines = vec![format!("{}/{version}", node.name)];
    if node.is_compiled {
        lines.push("compiled".to_owned());
    }
    lines.extend(node.time.clone());
    if node.releases.len() > 1 {
        lines.push(node.releases.join(", "));
    }
    let mut attributes = format!(
        "label={}, tooltip={}",
        quoted(&lines.join("\n")),
        quoted(&format!("{}/{}", node.name, node.version))
    );
    if node.is_compiled {
        let _ = write!(
            attributes,
            ", style=\"rounded,filled\", fillcolor={COMPILED}"
        );
    }
    if node.is_critical {
        let _ = write!(attributes, ", color={CRITICAL}, penwidth=2");
    }
    attributes
}

/// A quoted string of the DOT language. Backslashes are escaped, because they begin escapes in labels.
fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, releases: &[&str], dependencies: &[usize]) -> DotNode {
        DotNode {
            name: name.to_owned(),
            version: "0123456789abcdef".to_owned(),
            releases: releases.iter().map(ToString::to_string).collect(),
            time: None,
            is_compiled: false,
            is_critical: false,
            critical_dependency: None,
            dependencies: dependencies.to_vec(),
        }
    }

    #[test]
    fn packages_are_nodes_and_dependencies_arrows() {
        let mut nodes = [
            node("lib", &["demo/1"], &[]),
            node("app", &["demo/1"], &[0]),
        ];
        nodes[0].is_compiled = true;
        nodes[1].time = Some("12.0s".to_owned());
        assert_eq!(
            text(&nodes),
            "// An arrow leads from a package to its dependency.\n\
             digraph packages {\n  \
             rankdir=LR;\n  \
             node [shape=box, style=rounded, fontname=\"sans-serif\"];\n  \
             n0 [label=\"lib/0123456789ab\\ncompiled\", tooltip=\"lib/0123456789abcdef\", style=\"rounded,filled\", fillcolor=lightgray];\n  \
             n1 [label=\"app/0123456789ab\\n12.0s\", tooltip=\"app/0123456789abcdef\"];\n  \
             n1 -> n0;\n\
             }\n"
        );
    }

    #[test]
    fn releases_are_clusters_without_their_common_packages() {
        let mut nodes = [
            node("lib", &["one/1", "two/1"], &[]),
            node("app", &["one/1"], &[0]),
            node("web", &["two/1"], &[0]),
        ];
        nodes[0].is_critical = true;
        nodes[1].is_critical = true;
        nodes[1].critical_dependency = Some(0);
        let text = text(&nodes);
        for part in [
            "  subgraph cluster_0 {\n    label=\"one/1\";\n    n1 [",
            "  subgraph cluster_1 {\n    label=\"two/1\";\n    n2 [",
            "\n  n0 [label=\"lib/0123456789ab\\none/1, two/1\", tooltip=\"lib/0123456789abcdef\", color=red, penwidth=2];\n",
            "\n  n1 -> n0 [color=red, penwidth=2];\n",
            "\n  n2 -> n0;\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn texts_are_escaped() {
        assert_eq!(quoted("a\"b\\c\nd"), r#""a\"b\\c\nd""#);
    }
}
