//! Numbers as header values.

use std::cell::RefCell;
use std::str;
use std::sync::LazyLock;

use http::HeaderValue;

thread_local! {
    static KNOWN: RefCell<[(u64, HeaderValue); PLACES]> =
        const { RefCell::new([const { (0, HeaderValue::from_static("0")) }; PLACES]) };
}

/// How many large numbers each thread knows. A power of two.
const PLACES: usize = 8;

/// A number that is most likely one of those that were asked for last, such as a limit, or seconds
/// until some time: it is not formatted again, and shares its memory.
pub(super) fn lasting(value: u64) -> HeaderValue {
    if value < FORMATTED {
        return number(value);
    }
    let shared = KNOWN.try_with(|places| {
        // Numbers of seconds are often multiples of each other (Knuth's multiplicative hash).
        let hash = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let (known, text) = &mut places.borrow_mut()[hash as usize % PLACES];
        if *known != value {
            (*known, *text) = (value, number(value));
        }
        text.clone()
    });
    shared.unwrap_or_else(|_| number(value))
}

/// What headers say most often. To copy one takes a quarter of the time in which it is made.
static SMALL: LazyLock<Box<[HeaderValue]>> = LazyLock::new(|| {
    let texts = (0..=1_000).map(digits);
    texts.map(HeaderValue::from_static).collect()
});

/// A number as a header value. One of up to four digits is not formatted, and allocates nothing.
pub(super) fn number(value: u64) -> HeaderValue {
    if value < FORMATTED {
        let small = SMALL.get(value as usize);
        return small.map_or_else(|| HeaderValue::from_static(digits(value)), Clone::clone);
    }
    // As long as it has to be, since a value with room to spare is two allocations.
    let mut text = [b'0'; 20];
    let (mut rest, mut start) = (value, text.len());
    while rest > 0 {
        let last = digits(rest % FORMATTED).as_bytes();
        text[start - last.len()..start].copy_from_slice(last);
        rest /= FORMATTED;
        start -= if rest > 0 { 4 } else { last.len() };
    }
    HeaderValue::from_bytes(&text[start..]).expect("digits make a header value")
}

/// The digits of a number of up to four.
fn digits(number: u64) -> &'static str {
    let digits = match number {
        0..10 => 1,
        10..100 => 2,
        100..1_000 => 3,
        _ => 4,
    };
    let end = 4 * (number as usize + 1);
    &NUMBERS[end - digits..end]
}

/// The first that has to be formatted.
pub(super) const FORMATTED: u64 = 10_000;

/// All numbers below, with four digits each.
static NUMBERS: &str = {
    static DIGITS: [u8; 4 * FORMATTED as usize] = {
        let mut digits = [0; 4 * FORMATTED as usize];
        let mut index = 0;
        while index < digits.len() {
            let power = [1_000, 100, 10, 1][index % 4];
            digits[index] = b'0' + (index / 4 / power % 10) as u8;
            index += 1;
        }
        digits
    };
    match str::from_utf8(&DIGITS) {
        Ok(digits) => digits,
        Err(_) => panic!("digits are text"),
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_formatting_makes_of_them() {
        for value in
            (0..2 * FORMATTED).chain([99_999_999, 1 << 32, 100_000_000, 100_010_001, u64::MAX])
        {
            assert_eq!(number(value), value.to_string());
            assert_eq!(lasting(value), value.to_string());
        }
    }
}
