use http::{HeaderMap, HeaderName, HeaderValue};

/// A header map in which three numbers are to be filled in.
///
/// The insertion of a header hashes its name, which takes most of the time of building a map. A clone of
/// a map does not (bench: `steps::reject::json`).
pub(super) struct HeaderTemplate {
    map: HeaderMap,
    /// The indexes of the numbers among the map's values.
    indexes: [usize; 3],
}

impl HeaderTemplate {
    /// Creates a template of these headers. Exactly three of them have no value.
    pub(super) fn new<const N: usize>(headers: [(HeaderName, Option<HeaderValue>); N]) -> Self {
        let without_value = headers.iter().filter(|(_, value)| value.is_none());
        let names: Vec<_> = without_value.map(|(name, _)| name.clone()).collect();
        let zero = HeaderValue::from_static("0");
        let map: HeaderMap = headers
            .into_iter()
            .map(|(name, value)| (name, value.unwrap_or_else(|| zero.clone())))
            .collect();
        let index = |number: usize| map.keys().position(|name| *name == names[number]);
        Self {
            indexes: [0, 1, 2].map(|number| index(number).expect("the map has every name")),
            map,
        }
    }

    /// Returns the headers with these numbers, in the order of their names.
    pub(super) fn fill(&self, numbers: [HeaderValue; 3]) -> HeaderMap {
        let mut map = self.map.clone();
        for (index, number) in self.indexes.into_iter().zip(numbers) {
            *map.values_mut().nth(index).expect("an index of the map") = number;
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
            let headers = template.fill(numbers.map(HeaderValue::from));
            let names = [&RETRY_AFTER, &X_RATELIMIT_LIMIT, &AGE];
            let values = names.map(|name| headers[name].to_str().expect("digits"));
            assert_eq!(values.map(str::parse), numbers.map(Ok));
            assert_eq!(headers[ALLOW], "GET");
            assert_eq!(headers.len(), names.len() + 1);
        }
    }
}
