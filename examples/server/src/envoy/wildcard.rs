//! Values with `*` in them, each of which stands for any text.

/// A pattern for values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wildcard {
    pattern: String,
}

impl Wildcard {
    /// Returns `None` if the value has no `*`.
    pub(super) fn new(value: &str) -> Option<Self> {
        value.contains('*').then(|| Self {
            pattern: value.to_owned(),
        })
    }

    pub(super) fn pattern(&self) -> &str {
        &self.pattern
    }

    pub(super) fn matches(&self, value: &str) -> bool {
        let Some((start, rest)) = self.pattern.split_once('*') else {
            return self.pattern == value;
        };
        let Some(mut value) = value.strip_prefix(start) else {
            return false;
        };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        // The first match of a part leaves the most text for the parts after it.
        for part in middle.split('*') {
            match value.find(part) {
                Some(place) => value = &value[place + part.len()..],
                None => return false,
            }
        }
        value.ends_with(end)
    }
}

#[cfg(test)]
mod tests {
    use super::Wildcard;

    #[test]
    fn matches() {
        let cases = [
            ("value*", "value", true),
            ("value*", "valueXYZ", true),
            ("value*", "valu", false),
            ("*", "", true),
            ("*.pdf", "a.pdf", true),
            ("*.pdf", "a.pdf2", false),
            ("/api/*/action", "/api/123/action", true),
            ("/api/*/action", "/api/123/other", false),
            ("/api/*/action", "/api/action", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("a**c", "abc", true),
            ("a*bc*c", "abcc", true),
            ("a*bc*c", "abc", false),
        ];
        for (pattern, value, expected) in cases {
            let wildcard = Wildcard::new(pattern).expect("it has a star");
            assert_eq!(wildcard.matches(value), expected, "{pattern} {value}");
        }
        assert_eq!(Wildcard::new("plain"), None);
    }
}
