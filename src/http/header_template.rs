use http::{HeaderMap, HeaderName, HeaderValue};

use super::number::number;

/// A header map in which numbers are to be filled in.
///
/// The insertion of a header hashes its name, which takes most of the time of building a map. A clone of
/// a map does not (bench: `steps::reject::json`).
pub(super) struct HeaderTemplate {
    map: HeaderMap,
    /// For each value of the map, the index of its number, if it is one.
    numbers: Box<[Option<usize>]>,
}

impl HeaderTemplate {
    /// Creates a template of these headers. A header without a value gets a number in each copy.
    pub(super) fn new<const N: usize>(headers: [(HeaderName, Option<HeaderValue>); N]) -> Self {
        let without_value = headers.iter().filter(|(_, value)| value.is_none());
        let names: Vec<_> = without_value.map(|(name, _)| name.clone()).collect();
        let zero = HeaderValue::from_static("0");
        let map: HeaderMap = headers
            .into_iter()
            .map(|(name, value)| (name, value.unwrap_or_else(|| zero.clone())))
            .collect();
        let number = |name| names.iter().position(|without_value| without_value == name);
        Self {
            numbers: map.keys().map(number).collect(),
            map,
        }
    }

    /// Returns the headers with these numbers, in the order in which the names were given.
    pub(super) fn fill<const N: usize>(&self, numbers: [u64; N]) -> HeaderMap {
        let mut map = self.map.clone();
        for (value, index) in map.values_mut().zip(&self.numbers) {
            if let Some(index) = *index {
                *value = number(numbers[index]);
            }
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use http::header::{AGE, ALLOW, RETRY_AFTER};

    use super::*;
    use crate::http::header::X_RATELIMIT_LIMIT;

    #[test]
    fn filled_headers_have_their_own_numbers() {
        let template = HeaderTemplate::new([
            (RETRY_AFTER, None),
            (ALLOW, Some(HeaderValue::from_static("GET"))),
            (X_RATELIMIT_LIMIT, None),
            (AGE, None),
        ]);
        for numbers in [[0, 0, 1], [1, 20_000, 3]] {
            let headers = template.fill(numbers);
            let names = [&RETRY_AFTER, &X_RATELIMIT_LIMIT, &AGE];
            let values = names.map(|name| headers[name].to_str().expect("digits"));
            assert_eq!(values.map(str::parse), numbers.map(Ok));
            assert_eq!(headers[ALLOW], "GET");
            assert_eq!(headers.len(), names.len() + 1);
        }
    }
}
