//! Numbers as header values.

use std::str;

use http::HeaderValue;

/// The first number that is not in [`DIGITS`].
const TABLE_END: u64 = 10_000;

/// Returns a number as a header value. A number of up to four digits allocates no memory
/// (test: `allocations`).
pub(super) fn number(value: u64) -> HeaderValue {
    match value {
        0..TABLE_END => HeaderValue::from_static(digits(value as usize)),
        _ => HeaderValue::from_str(itoa::Buffer::new().format(value)).expect("digits are valid"),
    }
}

/// Returns the digits of a number below [`TABLE_END`].
fn digits(number: usize) -> &'static str {
    let length = match number {
        0..10 => 1,
        10..100 => 2,
        100..1_000 => 3,
        _ => 4,
    };
    let end = 4 * (number + 1);
    &DIGITS[end - length..end]
}

/// The numbers below [`TABLE_END`], with four digits each.
static DIGITS: &str = {
    static BYTES: [u8; 4 * TABLE_END as usize] = {
        let mut bytes = [0; 4 * TABLE_END as usize];
        let mut index = 0;
        while index < bytes.len() {
            let power = [1_000, 100, 10, 1][index % 4];
            bytes[index] = b'0' + (index / 4 / power % 10) as u8;
            index += 1;
        }
        bytes
    };
    match str::from_utf8(&BYTES) {
        Ok(digits) => digits,
        Err(_) => panic!("digits are UTF-8"),
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_equals_its_formatted_value() {
        for value in (0..2 * TABLE_END).chain([1 << 32, u64::MAX]) {
            assert_eq!(number(value), value.to_string());
        }
    }
}
