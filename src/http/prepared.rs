use std::mem;

use http::{HeaderMap, HeaderName, HeaderValue};

/// A header map of which `N` values are still to come, with the names of all hashed already.
///
/// A map hashes each name that is put into it, byte by byte: most of what it takes to add headers.
/// A copy hashes none.
pub(super) struct Prepared<const N: usize> {
    map: HeaderMap,
    /// Which of the values to come belongs to each place of the map.
    places: Box<[Option<usize>]>,
}

impl<const N: usize> Prepared<N> {
    /// A map of these names, `N` of them without a value.
    pub(super) fn new<const M: usize>(headers: [(HeaderName, Option<HeaderValue>); M]) -> Self {
        let to_come = headers.iter().filter(|(_, value)| value.is_none());
        let to_come: Vec<_> = to_come.map(|(name, _)| name.clone()).collect();
        debug_assert_eq!(to_come.len(), N);
        let nothing = HeaderValue::from_static("");
        let headers = headers.into_iter();
        let map: HeaderMap = headers
            .map(|(name, value)| (name, value.unwrap_or_else(|| nothing.clone())))
            .collect();
        let place = |key| to_come.iter().position(|name| name == key);
        Self {
            places: map.keys().map(place).collect(),
            map,
        }
    }

    /// A copy with these values, in the order of their names.
    pub(super) fn with(&self, mut values: [HeaderValue; N]) -> HeaderMap {
        let mut map = self.map.clone();
        for (place, value) in map.values_mut().zip(&self.places) {
            if let Some(value) = *value {
                mem::swap(place, &mut values[value]);
            }
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use http::header::{AGE, ALLOW, RETRY_AFTER};

    use super::*;
    use crate::header::X_RATELIMIT_LIMIT;

    #[test]
    fn each_name_has_its_own_value_every_time() {
        let get = HeaderValue::from_static("GET");
        let prepared = Prepared::new([
            (RETRY_AFTER, None),
            (ALLOW, Some(get)),
            (X_RATELIMIT_LIMIT, None),
            (AGE, None),
        ]);
        for values in [["1", "2", "3"], ["4", "5", "6"]] {
            let headers = prepared.with(values.map(HeaderValue::from_static));
            let names = [&RETRY_AFTER, &X_RATELIMIT_LIMIT, &AGE];
            assert_eq!(names.map(|name| &headers[name]), values);
            assert_eq!(headers[ALLOW], "GET");
            assert_eq!(headers.len(), names.len() + 1);
        }
    }
}
