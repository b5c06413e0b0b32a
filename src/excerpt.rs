/// Returns at most 80 characters of an invalid value for an error's text, with control characters
/// escaped.
pub(crate) fn excerpt(value: &str) -> String {
    let mut short: String = value
        .chars()
        .take(80)
        .flat_map(char::escape_debug)
        .collect();
    if value.chars().nth(80).is_some() {
        short.push('…');
    }
    short
}
