use std::{array, mem};

use http::{HeaderMap, HeaderName, HeaderValue};

/// The names of a header map to be, hashed already.
///
/// A map hashes each name that is put into it, byte by byte: most of what it takes to add headers.
/// A copy hashes none.
pub(super) struct Prepared<const N: usize> {
    map: HeaderMap,
    /// Which name it is that each place of the map has.
    order: [usize; N],
}

impl<const N: usize> Prepared<N> {
    pub(super) fn new(names: &[HeaderName; N]) -> Self {
        let mut map = HeaderMap::new();
        for name in names {
            map.insert(name, HeaderValue::from_static(""));
        }
        let mut keys = map.keys();
        let order = array::from_fn(|_| {
            let key = keys.next();
            let name = names.iter().position(|name| Some(name) == key);
            name.expect("each name is there once")
        });
        Self { map, order }
    }

    /// A map of these values of the names, in their order.
    pub(super) fn with(&self, mut values: [HeaderValue; N]) -> HeaderMap {
        let mut map = self.map.clone();
        for (place, name) in map.values_mut().zip(self.order) {
            mem::swap(place, &mut values[name]);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use http::header::{AGE, RETRY_AFTER};

    use super::*;
    use crate::header::X_RATELIMIT_LIMIT;

    #[test]
    fn each_name_has_its_own_value_every_time() {
        let prepared = Prepared::new(&[RETRY_AFTER, X_RATELIMIT_LIMIT, AGE]);
        for values in [["1", "2", "3"], ["4", "5", "6"]] {
            let headers = prepared.with(values.map(HeaderValue::from_static));
            let names = [&RETRY_AFTER, &X_RATELIMIT_LIMIT, &AGE];
            assert_eq!(names.map(|name| &headers[name]), values);
            assert_eq!(headers.len(), names.len());
        }
    }
}
