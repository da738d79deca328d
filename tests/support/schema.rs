//! Validates a JSON document with the keywords of JSON Schema that `docs/report.schema.json` uses. Another keyword fails.

use serde_json::Value;

/// The differences of a document from a schema, each with its place.
pub(crate) fn differences(document: &Value, schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(document, schema, schema, "$", &mut found);
    found
}

fn check(value: &Value, schema: &Value, root: &Value, place: &str, found: &mut Vec<String>) {
    let mut fail = |reason: String| found.push(format!("{place}: {reason}: {value}"));
    let keywords = schema.as_object().unwrap();
    for (keyword, wanted) in keywords {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "format" => {}
            // Checked with `properties`.
            "required" if value.is_object() => {
                let names = wanted.as_array().unwrap().iter();
                let missing = names.filter(|name| value.get(name.as_str().unwrap()).is_none());
                missing.for_each(|name| fail(format!("lacks {name}")));
            }
            "const" if value != wanted => fail(format!("is not {wanted}")),
            "enum" if !wanted.as_array().unwrap().contains(value) => {
                fail(format!("is not one of {wanted}"));
            }
            "type" if !has_type(value, wanted) => fail(format!("is no {wanted}")),
            "minimum" if value.as_f64() < wanted.as_f64() && value.is_number() => {
                fail(format!("is less than {wanted}"));
            }
            "maximum" if value.as_f64() > wanted.as_f64() => fail(format!("is more than {wanted}")),
            "pattern" if !value.as_str().is_none_or(|it| matches(it, wanted)) => {
                fail(format!("does not match {wanted}"));
            }
            "required" | "const" | "enum" | "type" | "minimum" | "maximum" | "pattern"
            | "properties" | "items" | "$ref" | "anyOf" => {}
            other => fail(format!("the schema has an unknown keyword `{other}`")),
        }
    }
    check_parts(value, schema, root, place, found);
}

fn check_parts(value: &Value, schema: &Value, root: &Value, place: &str, found: &mut Vec<String>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, part) in value.as_object().into_iter().flatten() {
            match properties.get(name) {
                Some(schema) => check(part, schema, root, &format!("{place}.{name}"), found),
                // A consumer ignores it, but it should be described.
                None => found.push(format!("{place}.{name} is not in the schema")),
            }
        }
    }
    if let Some(items) = schema.get("items") {
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            check(item, items, root, &format!("{place}[{index}]"), found);
        }
    }
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        check(value, target, root, place, found);
    }
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let differences = choices.iter().map(|choice| {
            let mut found = Vec::new();
            check(value, choice, root, place, &mut found);
            found
        });
        let differences: Vec<Vec<String>> = differences.collect();
        if differences.iter().all(|it| !it.is_empty()) {
            found.extend(differences.into_iter().flatten());
        }
    }
}

fn has_type(value: &Value, wanted: &Value) -> bool {
    let is = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("unknown type {other}"),
    };
    match wanted.as_array() {
        Some(several) => several.iter().any(is),
        None => is(wanted),
    }
}

/// Matches the patterns of the schema: the end of a text, or a number of hex digits.
fn matches(text: &str, pattern: &Value) -> bool {
    match pattern.as_str().unwrap() {
        "Z$" => text.ends_with('Z'),
        pattern => {
            let length = pattern.strip_prefix("^[0-9a-f]{").unwrap();
            let length = length.strip_suffix("}$").unwrap();
            let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            text.len() == length.parse::<usize>().unwrap() && text.bytes().all(is_hex)
        }
    }
}
