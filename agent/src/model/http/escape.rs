//! Percent escapes, as paths and queries have them.

/// The value of a hexadecimal digit; of another byte more than 15.
const VALUES: [u8; 256] = {
    let (lower, upper) = (b"0123456789abcdef", b"0123456789ABCDEF");
    let mut values = [0xff; 256];
    let mut digit = 0;
    while digit < 16 {
        values[lower[digit] as usize] = digit as u8;
        values[upper[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};

/// The byte that is escaped at `at`, where a `%` is; `None` when two hexadecimal digits do not follow.
#[inline]
pub(super) fn decode(bytes: &[u8], at: usize) -> Option<u8> {
    let [high, low] = bytes.get(at + 1..)?.first_chunk::<2>()?.map(|digit| VALUES[usize::from(digit)]);
    ((high | low) < 16).then_some(high << 4 | low)
}

/// A byte escaped, in upper case.
#[inline]
pub(crate) const fn encode(byte: u8) -> [u8; 3] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [b'%', DIGITS[(byte >> 4) as usize], DIGITS[(byte & 15) as usize]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_what_its_escape_says_in_either_case() {
        for byte in 0..=255 {
            assert_eq!(decode(&encode(byte), 0), Some(byte));
            assert_eq!(decode(&encode(byte).map(|b| b.to_ascii_lowercase()), 0), Some(byte));
        }
        for broken in ["%", "%4", "%4g", "%g4", "%+4", "%\u{e9}"] {
            assert_eq!(decode(broken.as_bytes(), 0), None, "{broken}");
        }
    }
}
