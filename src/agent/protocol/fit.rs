//! Messages made to fit: NATS servers of a Director take one MiB.

/// What a reply says that cannot be made to fit.
pub(super) const TOO_LARGE: &str = "Response exceeded maximum allowed length";

/// What stands where the middle of a message was.
pub(super) const CUT: &str = "\n...[truncated]...\n";

/// The longest `head + CUT + tail` of a message that fits, with halves as equal as characters allow; the fixed text when
/// not even that fits. `fits` holds for every shorter text, too.
pub(super) fn shortened(message: &str, fits: impl Fn(&str) -> bool) -> String {
    let at_most = |kept: usize| {
        let head = floor(message, kept / 2);
        let tail = ceil(message, message.len() - (kept - kept / 2));
        format!("{}{CUT}{}", &message[..head], &message[tail..])
    };
    // Escapes make bytes of the message cost more than one, so how many may stay is searched for.
    let (mut fitting, mut too_many) = (None, message.len() + 1);
    let mut least = 0;
    while least < too_many {
        let middle = least + (too_many - least) / 2;
        let text = at_most(middle);
        if fits(&text) {
            fitting = Some(text);
            least = middle + 1;
        } else {
            too_many = middle;
        }
    }
    fitting.unwrap_or_else(|| TOO_LARGE.to_owned())
}

/// The last character's beginning at or before `at`.
fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The first character's beginning at or after `at`.
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
    fn the_middle_goes_and_as_much_as_fits_stays() {
        let message = "abcdefghij".repeat(10);
        let text = shortened(&message, |text| text.len() <= 40);
        assert_eq!(text.len(), 40);
        assert_eq!(text, format!("{}{CUT}{}", &message[..10], &message[89..]));
        assert_eq!(shortened(&message, |_| false), TOO_LARGE);
    }
}
