use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::number::{FORMATTED, lasting, number};

thread_local! {
    static LAST: RefCell<[Option<Filled>; KEPT]> = const { RefCell::new([const { None }; KEPT]) };
}

/// How many maps each thread keeps, as it filled them in last.
const KEPT: usize = 4;

/// Some of them are the same in most responses.
type Numbers = [u64; 3];

/// A header map of which three numbers are still to come.
///
/// A map hashes each name that is put into it, byte by byte: most of what it takes to add headers.
/// A copy hashes none. What is copied is what the thread filled in last, in which most numbers are
/// right already.
pub(super) struct Prepared {
    map: HeaderMap,
    /// Which of the map's values are the numbers.
    places: [usize; 3],
    /// Which one this is.
    id: usize,
}

struct Filled {
    id: usize,
    numbers: Numbers,
    map: HeaderMap,
}

impl Prepared {
    /// A map of these names. Three have no value yet.
    pub(super) fn new<const M: usize>(headers: [(HeaderName, Option<HeaderValue>); M]) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let to_come: Vec<_> = headers
            .iter()
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        let zero = HeaderValue::from_static("0");
        let map: HeaderMap = headers
            .into_iter()
            .map(|(name, value)| (name, value.unwrap_or_else(|| zero.clone())))
            .collect();
        let place = |number: usize| map.keys().position(|name| *name == to_come[number]);
        Self {
            places: [0, 1, 2].map(|number| place(number).expect("it was put there")),
            map,
            id: MADE.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// A copy with these numbers, in the order of their names. The second may be another each time.
    pub(super) fn with(&self, numbers: Numbers) -> HeaderMap {
        let [one, changing, other] = numbers;
        // One that has memory of its own would have to share it, for one response.
        let apart = (changing >= FORMATTED).then_some(changing);
        let kept = [one, apart.map_or(changing, |_| 0), other];
        let copy = LAST.try_with(|last| self.copy(&mut last.borrow_mut()[self.id % KEPT], kept));
        let mut copy = copy.unwrap_or_else(|_| self.copy(&mut None, kept));
        if let Some(apart) = apart {
            set(&mut copy, self.places[1], number(apart));
        }
        copy
    }

    /// A copy of what was filled in last, after it was filled in with these.
    fn copy(&self, last: &mut Option<Filled>, numbers: Numbers) -> HeaderMap {
        let filled = match last {
            Some(filled) if filled.id == self.id => filled,
            _ => last.insert(Filled {
                id: self.id,
                numbers: [0; 3],
                map: self.map.clone(),
            }),
        };
        let known = filled.numbers.iter_mut().zip(&self.places);
        for ((known, place), new) in known.zip(numbers) {
            if *known != new {
                set(&mut filled.map, *place, lasting(new));
                *known = new;
            }
        }
        filled.map.clone()
    }
}

fn set(map: &mut HeaderMap, place: usize, number: HeaderValue) {
    *map.values_mut().nth(place).expect("it is there") = number;
}

#[cfg(test)]
mod tests {
    use http::header::{AGE, ALLOW, RETRY_AFTER};

    use super::*;
    use crate::header::X_RATELIMIT_LIMIT;

    #[test]
    fn each_name_has_its_own_value_every_time() {
        let get = HeaderValue::from_static("GET");
        let prepared = || {
            Prepared::new([
                (RETRY_AFTER, None),
                (ALLOW, Some(get.clone())),
                (X_RATELIMIT_LIMIT, None),
                (AGE, None),
            ])
        };
        // More than are kept.
        let several: Vec<_> = (0..=KEPT).map(|_| prepared()).collect();
        for numbers in [[0, 0, 1], [1, 2, 3], [1, 20_000, 3], [30_000, 20_001, 0]] {
            for prepared in &several {
                let headers = prepared.with(numbers);
                let names = [&RETRY_AFTER, &X_RATELIMIT_LIMIT, &AGE];
                let values = names.map(|name| headers[name].to_str().expect("digits"));
                assert_eq!(values.map(str::parse), numbers.map(Ok));
                assert_eq!(headers[ALLOW], "GET");
                assert_eq!(headers.len(), names.len() + 1);
            }
        }
    }
}
