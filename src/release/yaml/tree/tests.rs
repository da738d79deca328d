use super::*;
use proptest::prelude::*;

/// Prints a tree on one line: `{a: [b, c]}`, quoted scalars in quotes.
fn print(node: &Node) -> String {
    let join = |parts: Vec<String>| parts.join(", ");
    match node {
        Node::Scalar(scalar) if scalar.plain => scalar.text.clone(),
        Node::Scalar(scalar) => format!("{:?}", scalar.text),
        Node::Sequence(list) => format!("[{}]", join(list.items.iter().map(print).collect())),
        Node::Mapping(mapping) => {
            let pair = |(key, value): &(Scalar, Node)| format!("{}: {}", key.text, print(value));
            format!("{{{}}}", join(mapping.entries.iter().map(pair).collect()))
        }
    }
}

fn tree(text: &str) -> String {
    print(&parse(text).unwrap())
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn scalars_keep_their_text() {
    let text = "[1.10, 45, 0x10, 1:20, 2020-01-01, 1e3, yes, ~, 'a''b', \"c\\td\", 0777, +.inf]";
    let expected = text.replace("'a''b'", "\"a'b\"");
    assert_eq!(tree(text), expected);
    assert_eq!(
        tree("a: |-\n  x\n  y\nb: >-\n  x\n  y"),
        r#"{a: "x\ny", b: "x y"}"#
    );
}

#[test]
fn common_layouts_of_manifests_are_parsed() {
    for text in [
        "---\njobs:\n- name: a\n  packages: [b]\nversion: 1\n",
        "jobs:\n    - name: a\n      packages:\n        - b\nversion: 1\n",
        "{jobs: [{name: a, packages: [b]}], version: 1}",
        "\u{feff}jobs:\r\n- name: a\r\n  packages: [b] # why\r\nversion: 1\r\n...\r\n",
        "%YAML 1.1\n---\njobs: [{name: a, packages: [b]}]\nversion: 1",
    ] {
        assert_eq!(
            tree(text),
            "{jobs: [{name: a, packages: [b]}], version: 1}",
            "{text}"
        );
    }
    for text in ["", "\n", "# only a comment\n", "---\n", "\u{feff}"] {
        assert!(parse(text).unwrap().is_null(), "{text:?}");
    }
}

#[test]
fn line_numbers_start_at_one() {
    let Node::Mapping(root) = parse("# x\na: 1\r\nb:\n- c: |\n    d\n- e\n").unwrap() else {
        panic!("not a mapping")
    };
    assert_eq!(root.line, 2);
    assert_eq!(root.get("a").unwrap().line(), 2);
    let Some(Node::Sequence(list)) = root.get("b") else {
        panic!("not a list")
    };
    let lines: Vec<_> = list.items.iter().map(Node::line).collect();
    assert_eq!((list.line, lines), (4, vec![4, 6]));
}

#[test]
fn tags_are_resolved_and_binary_is_decoded() {
    let tag = |text: &str| {
        let node = parse(text).unwrap();
        let Node::Scalar(scalar) = node else {
            panic!("{node:?}")
        };
        (scalar.text, scalar.tag.unwrap())
    };
    let core = |name: &str| format!("tag:yaml.org,2002:{name}");
    assert_eq!(tag("!!str 45"), ("45".to_owned(), core("str")));
    assert_eq!(tag("!x 45"), ("45".to_owned(), "!x".to_owned()));
    for text in ["!binary |-\n  MS\n  4x", "!binary MS4x", "!binary 'MS4x'"] {
        assert_eq!(tag(text), ("1.1".to_owned(), "!binary".to_owned()));
    }
    for text in ["!!binary |\n  MS4x\n", "!<tag:yaml.org,2002:binary> MS4x"] {
        assert_eq!(tag(text), ("1.1".to_owned(), core("binary")));
    }
    for text in ["!binary M", "!!binary /w=="] {
        assert_eq!(
            error(text),
            "line 1, column 1: the binary value is not UTF-8 text in base64"
        );
    }
}

#[test]
fn base64_may_have_white_space_and_lack_padding() {
    for text in ["Zm9vYg==", "Zm9vYg", "Zm9v\n  Yg= =\n", "Zm9vYh"] {
        assert_eq!(decode_base64(text).as_deref(), Some(&b"foob"[..]), "{text}");
    }
    assert_eq!(decode_base64("+/+/").unwrap(), [0xfb, 0xff, 0xbf]);
    for text in [
        "A", "Zg=", "Z===", "Zm9v=", "Zg==Zg==", "====", "Zm_v", "Zm9v!", "é",
    ] {
        assert_eq!(decode_base64(text), None, "{text}");
    }
}

#[test]
fn aliases_and_merges_are_resolved() {
    for (text, expected) in [
        ("a: &x [1, 2]\nb: *x", "{a: [1, 2], b: [1, 2]}"),
        ("a: &x 1\nb: &x 2\nc: *x", "{a: 1, b: 2, c: 2}"),
        (
            "a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}",
            "{a: {k: 1, l: 2}, b: {k: 3, l: 2}}",
        ),
        ("<<: [{a: 1}, {a: 2, b: 3}]\nc: 4", "{c: 4, a: 1, b: 3}"),
        ("<<: {a: {b: 1}}\na: {}", "{a: {}}"),
        ("'<<': 1", "{<<: 1}"),
        ("&k a: 1\nb: *k", "{a: 1, b: a}"),
    ] {
        assert_eq!(tree(text), expected, "{text}");
    }
}

#[test]
fn errors_have_a_position() {
    for (text, expected) in [
        ("a: 1\nb: 2\n a: 3", "line 3, column 3: "),
        (
            "a: 1\nb: 2\na: 3",
            "line 3, column 1: duplicate key `a`; the first is on line 1",
        ),
        (
            "a: {b: 1, \"b\": 2}",
            "line 1, column 11: duplicate key `b`; the first is on line 1",
        ),
        (
            "<<: {}\n<<: {}",
            "line 2, column 1: duplicate key `<<`; the first is on line 1",
        ),
        (
            "? [a]\n: 1",
            "line 1, column 3: the key is a list; expected a scalar",
        ),
        (
            "a:\n  <<: 1",
            "line 2, column 3: the value of `<<` is neither a mapping nor a list of mappings",
        ),
        (
            "a: &x [*x]",
            "line 1, column 8: the alias refers to a node that contains it",
        ),
        (
            "a: *x",
            "line 1, column 4: while parsing node, found unknown anchor",
        ),
        (
            "a: b\0c",
            r"line 1, column 5: the control character '\0' is not allowed",
        ),
        (
            "a: 1\nb: \"\u{1b}\"",
            r"line 2, column 5: the control character '\u{1b}' is not allowed",
        ),
        ("a: [1", "line 2, column 1: while parsing a flow sequence"),
        (
            "b: 1\n\ta: 1",
            "line 1, column 4: while scanning a plain scalar, found a tab",
        ),
    ] {
        let message = error(text);
        assert!(message.starts_with(expected), "{text:?} gave {message:?}");
    }
}

/// All expectations were compared with Psych 4.0.3 and libyaml 0.2.5.
#[test]
fn tabs_are_handled_as_by_libyaml() {
    for (text, expected) in [
        ("name:\tdemo", "{name: demo}"),
        ("name:\t\tdemo\t\nb:\t\"c\"", "{name: demo, b: \"c\"}"),
        ("name: \tdemo", "{name: demo}"),
        ("name\t: demo", "{name: demo}"),
        ("a:\t-1", "{a: -1}"),
        ("a:\t# none\n- b", "{a: [b]}"),
        ("a:\t|-\n  b:\tc", "{a: \"b:\\tc\"}"),
        ("a: [\tb,\tc\t]", "{a: [b, c]}"),
        ("{\n\t\"a\":\t[\n\t\t\"b\"\n\t]\n}\n", "{a: [\"b\"]}"),
    ] {
        assert_eq!(tree(text), expected, "{text:?}");
    }
    for (text, expected) in [
        (
            "a:\n\tb: c",
            "tabs disallowed within this context (block indentation)",
        ),
        ("a:\tb: c", "mapping values are not allowed in this context"),
        (
            "a:\t- b",
            "block sequence entries are not allowed in this context",
        ),
    ] {
        let message = error(text);
        assert!(message.ends_with(expected), "{text:?} gave {message:?}");
    }
}

#[test]
fn only_the_first_document_is_parsed() {
    for text in [
        "a: b\n---\nc: d\n",
        "---\na: b\n---\nc: [d\n",
        "a: b\n...\n---\nc: d\n",
        "a: b\n...\n...\n---\n",
        "# x\n---\na: b\n",
        "a: b\n---\nc: *undefined\n",
    ] {
        assert_eq!(tree(text), "{a: b}", "{text:?}");
    }
    assert!(parse("---\n---\na: b\n").unwrap().is_null());
    // Psych does not report content without a `---` before it.
    assert!(error("  a: b\nc: d").ends_with("did not find expected <document start>"));
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    parse(&nested(MAX_DEPTH)).unwrap();
    for text in [
        nested(MAX_DEPTH + 1),
        "[".repeat(200),
        "- ".repeat(10_000),
        format!("a: &x {}\nb: [[[*x]]]", nested(MAX_DEPTH - 2)),
    ] {
        assert_eq!(parse(&text).unwrap_err().kind, ErrorKind::TooDeep);
    }
    // The parser has its own limit, which it may reach first because it reads ahead.
    assert!(error(&"[".repeat(100_000)).ends_with("recursion limit exceeded"));
}

#[test]
fn aliases_of_aliases_cannot_exhaust_memory() {
    let list = |n: usize| vec![format!("*a{}", n - 1); 10].join(", ");
    let lists = (1..10).map(|n| format!("a{n}: &a{n} [{}]\n", list(n)));
    let nodes = format!(
        "a0: &a0 [{}]\n{}",
        "x, ".repeat(10),
        lists.collect::<String>()
    );
    let text = format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), "*a, ".repeat(200));
    for document in [nodes, text] {
        assert_eq!(parse(&document).unwrap_err().kind, ErrorKind::TooLarge);
    }
}

proptest! {
    #[test]
    fn any_text_gives_a_tree_or_an_error(
        text in r#"([a-c]|[-?:,\[\]{}&*!|>'"%@`<#] ?|[ \n]|&a |\*a|---|<<: |!!binary ){0,40}|\PC*"#
    ) {
        let _ = parse(&text);
    }
}
