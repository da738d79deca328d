//! Formats pieces of HTML: escaped texts, filled templates, numbers.

use std::time::Duration;

use crate::diag::Elapsed;

/// A text for the content of an element or for an attribute in quotes.
pub(super) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\n' | '\t' => html.push(character),
            // Replace other control characters, which HTML does not allow.
            other if other.is_control() => html.push('\u{fffd}'),
            // Replace characters that change the direction of the text after them.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => html.push('\u{fffd}'),
            other => html.push(other),
        }
    }
    html
}

/// JSON for the content of a `script` element, which ends at the first `</script`.
pub(super) fn json(text: &str) -> String {
    // `<` occurs only in strings.
    text.replace('<', "\\u003c")
}

/// A template with `{{name}}` replaced by the value of that name. Values are not searched for placeholders.
pub(super) fn filled(template: &str, values: &[(&str, String)]) -> String {
    let mut html = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        html.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        let value = values.iter().find(|(known, _)| *known == name);
        html.push_str(value.map_or("", |(_, value)| value));
        rest = after;
    }
    html.push_str(rest);
    html
}

/// The percentage of a part in a whole, from 0 to 100.
pub(super) fn percent(part: f64, whole: f64) -> String {
    let percent = match whole > 0.0 {
        true => (part / whole * 100.0).clamp(0.0, 100.0),
        false => 0.0,
    };
    format!("{percent:.3}%")
}

/// Seconds as a duration for people.
pub(super) fn duration(seconds: f64) -> String {
    Elapsed(Duration::try_from_secs_f64(seconds).unwrap_or_default()).to_string()
}

/// `1 package`, `2 packages`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        more => format!("{more} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_end_elements_or_attributes() {
        assert_eq!(
            escaped("</script><b a=\"x\" b='y'> & \u{1b}[1m\u{202e}é\n"),
            "&lt;/script&gt;&lt;b a=&quot;x&quot; b=&#39;y&#39;&gt; &amp; \u{fffd}[1m\u{fffd}é\n"
        );
        let text = serde_json::to_string("</script><!--").unwrap();
        assert!(!json(&text).contains('<'));
        let read: String = serde_json::from_str(&json(&text)).unwrap();
        assert_eq!(read, "</script><!--");
    }

    #[test]
    fn values_are_not_searched_for_placeholders() {
        let values = [("a", "{{b}}".to_owned()), ("b", "2".to_owned())];
        assert_eq!(filled("<{{a}}>{{b}}{{missing}}.", &values), "<{{b}}>2.");
    }

    #[test]
    fn percentages_stay_in_their_range() {
        assert_eq!(percent(1.0, 3.0), "33.333%");
        assert_eq!(percent(5.0, 0.0), "0.000%");
        assert_eq!(percent(-1.0, 4.0), "0.000%");
        assert_eq!(percent(5.0, 4.0), "100.000%");
    }
}
