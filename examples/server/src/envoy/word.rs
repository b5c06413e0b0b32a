//! Plain words of YAML, as `gopkg.in/yaml.v2` reads them, with which Envoy ratelimit loads its rules:
//! YAML 1.1, in which `yes` is a boolean and `010` is 8.

/// A scalar without quotes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Word {
    Boolean(bool),
    Integer(i128),
    Number(f64),
    Text,
}

impl Word {
    pub(super) fn new(word: &str) -> Self {
        match word {
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                return Self::Boolean(true);
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off"
            | "OFF" => return Self::Boolean(false),
            _ => {}
        }
        if !word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
            return Self::Text;
        }
        let plain = word.replace('_', "");
        if let Some(integer) = integer(&plain) {
            return Self::Integer(integer);
        }
        // Rust reads `+inf` and `-nan` as numbers too.
        let is_decimal = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
        match plain.parse::<f64>() {
            Ok(number) if number.is_finite() && plain.chars().all(is_decimal) => {
                Self::Number(number)
            }
            _ => Self::Text,
        }
    }
}

fn integer(word: &str) -> Option<i128> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // A second sign, which Rust would accept.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    Some(sign * i128::from_str_radix(digits, radix).ok()?)
}

#[cfg(test)]
mod tests {
    use super::Word::{self, Boolean, Integer, Number, Text};

    #[test]
    fn words_are_read_as_by_yaml_v2() {
        let cases = [
            ("yes", Boolean(true)),
            ("Off", Boolean(false)),
            ("yEs", Text),
            ("0", Integer(0)),
            ("+5", Integer(5)),
            ("-5", Integer(-5)),
            ("--5", Text),
            ("1_000", Integer(1000)),
            ("_1", Text),
            ("010", Integer(8)),
            ("08", Number(8.0)),
            ("0x1F", Integer(31)),
            ("0x-1", Text),
            ("-0o17", Integer(-15)),
            ("0b101", Integer(5)),
            ("0x", Text),
            ("4294967296", Integer(4_294_967_296)),
            ("1.5", Number(1.5)),
            (".5", Number(0.5)),
            ("1e3", Number(1000.0)),
            ("1e999", Text),
            ("+inf", Text),
            ("-nan", Text),
            ("1.2.3.4", Text),
            ("5m", Text),
            ("", Text),
        ];
        for (word, expected) in cases {
            assert_eq!(Word::new(word), expected, "{word}");
        }
    }
}
