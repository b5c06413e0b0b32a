use std::mem;

use http::{HeaderMap, HeaderName, HeaderValue};

/// A header map of which some values are still to come, the names of all hashed already.
///
/// A map hashes each name that is put into it, byte by byte: most of what it takes to add headers.
/// A copy hashes none.
pub(super) struct Prepared<const N: usize> {
    map: HeaderMap,
    /// Which value belongs to each place of the map, if it is still to come.
    places: Box<[Option<usize>]>,
}

impl<const N: usize> Prepared<N> {
    /// A map of these names, to be copied with their values, and of those that are `fixed`.
    pub(super) fn new<const M: usize>(
        names: &[HeaderName; N],
        fixed: [(HeaderName, HeaderValue); M],
    ) -> Self {
        let mut map = HeaderMap::new();
        for name in names {
            map.insert(name, HeaderValue::from_static(""));
        }
        map.extend(fixed);
        let place = |key| names.iter().position(|name| name == key);
        Self {
            places: map.keys().map(place).collect(),
            map,
        }
    }

    /// A copy with these values of the names, in their order.
    pub(super) fn with(&self, mut values: [HeaderValue; N]) -> HeaderMap {
        let mut map = self.map.clone();
        for (place, name) in map.values_mut().zip(&self.places) {
            if let Some(name) = *name {
                mem::swap(place, &mut values[name]);
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
        let fixed = [(ALLOW, HeaderValue::from_static("GET"))];
        let prepared = Prepared::new(&[RETRY_AFTER, X_RATELIMIT_LIMIT, AGE], fixed);
        for values in [["1", "2", "3"], ["4", "5", "6"]] {
            let headers = prepared.with(values.map(HeaderValue::from_static));
            let names = [&RETRY_AFTER, &X_RATELIMIT_LIMIT, &AGE];
            assert_eq!(names.map(|name| &headers[name]), values);
            assert_eq!(headers[ALLOW], "GET");
            assert_eq!(headers.len(), names.len() + 1);
        }
    }
}
