//! Eight bytes of a text at a time.

/// How many bytes are looked at in one step.
const WORD: usize = size_of::<u64>();
const LOW: u64 = u64::MAX / 0xff;
const HIGH: u64 = LOW << 7;

/// Where the first of one of two bytes is, from `from` on; the end when there is none.
#[inline]
pub(super) fn find(bytes: &[u8], from: usize, either: u8, or: u8) -> usize {
    let mut at = from;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<WORD>) {
        let word = u64::from_le_bytes(*chunk);
        let marks = marks(word, either) | marks(word, or);
        if marks != 0 {
            return at + marks.trailing_zeros() as usize / 8;
        }
        at += WORD;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter().position(|&b| b == either || b == or).map_or(bytes.len(), |found| at + found)
}

/// Marks the bytes of a word that are `byte`. The lowest mark is right; above it there may be some too many.
#[inline]
fn marks(word: u64, byte: u8) -> u64 {
    let differs = word ^ (LOW * u64::from(byte));
    differs.wrapping_sub(LOW) & !differs & HIGH
}
