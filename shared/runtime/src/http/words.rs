//! What is wrong with a request, in plain words: the errors of serde said as people would say them.

/// What is wrong with a member that stands twice.
pub(super) const TWICE: &str = "must stand only once";

/// What a value must be, for a sentence that begins with its name: `must be a whole number from 1 to 1,000,000`.
pub(super) fn predicate(error: &str) -> String {
    if error.starts_with("missing field ") {
        return "is missing".to_owned();
    }
    if error.starts_with("duplicate field ") {
        return TWICE.to_owned();
    }
    if error.starts_with("unknown field ") {
        return match listed(error) {
            names if names.is_empty() => "is not known: no names are taken here".to_owned(),
            names => format!("is not known: there are {}", names.join(", ")),
        };
    }
    if error.starts_with("unknown variant ") {
        return format!("must be one of {}", listed(error).join(", "));
    }
    match error.rsplit_once(", expected ") {
        Some((begin, expected)) if begin.starts_with("invalid ") => format!("must be {}", plain(expected)),
        _ => error.to_owned(),
    }
}

/// The names that serde lists behind what it expected.
fn listed(error: &str) -> Vec<&str> {
    let expected = error.rsplit_once(", expected ").map_or("", |(_, expected)| expected);
    expected.split('`').skip(1).step_by(2).collect()
}

/// A type of Rust in words. Fields that check themselves say in words what they expect.
fn plain(expected: &str) -> &str {
    match expected {
        "i64" => "a whole number",
        "u64" | "u32" | "usize" => "a whole number, not below 0",
        "a string" | "string or map" => "a text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

/// A number as people write it.
pub(super) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-".to_owned() } else { String::new() };
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A sentence about what a pointer names.
pub(super) fn sentence(pointer: &str, predicate: &str) -> String {
    let name = pointer.trim_start_matches(['/', '?', '{']).trim_end_matches('}');
    if name.is_empty() { predicate.to_owned() } else { format!("{name} {predicate}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_said_in_plain_words() {
        for (error, words) in [
            ("invalid type: string \"3\", expected a whole number from 1 to 5", "must be a whole number from 1 to 5"),
            ("invalid type: floating point `1.5`, expected i64", "must be a whole number"),
            ("invalid type: null, expected a boolean", "must be true or false"),
            ("invalid type: integer `1`, expected struct Line", "must be an object"),
            ("missing field `quantity`", "is missing"),
            (
                "unknown field `colour`, expected `quantity` or `reference`",
                "is not known: there are quantity, reference",
            ),
            ("unknown field `x`, there are no fields", "is not known: no names are taken here"),
            (
                "unknown variant `whim`, expected one of `theft`, `expiry`, `other`",
                "must be one of theft, expiry, other",
            ),
            ("must be a position", "must be a position"),
        ] {
            assert_eq!(predicate(error), words);
        }
    }

    #[test]
    fn numbers_are_grouped() {
        let groups = [0, 12, 999, 1_000, 1_000_000, -25_000].map(grouped);
        assert_eq!(groups, ["0", "12", "999", "1,000", "1,000,000", "-25,000"]);
    }

    #[test]
    fn a_sentence_begins_with_what_is_pointed_at() {
        assert_eq!(sentence("/lines/0/quantity", "is missing"), "lines/0/quantity is missing");
        assert_eq!(sentence("?size", "is missing"), "size is missing");
        assert_eq!(sentence("{productId}", "is missing"), "productId is missing");
        assert_eq!(sentence("", "The body is missing"), "The body is missing");
    }
}
