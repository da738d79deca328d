//! Shortens the texts of replies to the message limit of a Director's NATS server, which is 1 MiB.

/// The text that replaces a message that cannot be shortened enough.
pub(super) const TOO_LARGE: &str = "Response exceeded maximum allowed length";

/// The text that replaces the middle of a message.
pub(super) const CUT: &str = "\n...[truncated]...\n";

/// The longest `head + CUT + tail` of a message for which `fits` returns true, where head and tail
/// have about equal length. [`TOO_LARGE`] if none fits. If `fits` is true for a text, it must
/// be true for every shorter text.
pub(super) fn shortened(message: &str, fits: impl Fn(&str) -> bool) -> String {
    let keep = |kept: usize| {
        let head = floor(message, kept / 2);
        let tail = ceil(message, message.len() - (kept - kept / 2));
        format!("{}{CUT}{}", &message[..head], &message[tail..])
    };
    // Bisect the length, because JSON escapes some characters to several bytes.
    let (mut fitting, mut too_many) = (None, message.len() + 1);
    let mut least = 0;
    while least < too_many {
        let middle = least + (too_many - least) / 2;
        let text = keep(middle);
        if fits(&text) {
            fitting = Some(text);
            least = middle + 1;
        } else {
            too_many = middle;
        }
    }
    fitting.unwrap_or_else(|| TOO_LARGE.to_owned())
}

/// The largest character boundary at or before `at`.
fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The smallest character boundary at or after `at`.
fn ceil(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_head_and_tail_that_fit_are_kept() {
        let message = "abcdefghij".repeat(10);
        let text = shortened(&message, |text| text.len() <= 40);
        assert_eq!(text.len(), 40);
        assert_eq!(text, format!("{}{CUT}{}", &message[..10], &message[89..]));
        assert_eq!(shortened(&message, |_| false), TOO_LARGE);
    }
}
