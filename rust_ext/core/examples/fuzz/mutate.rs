//! What can happen to bytes: some change, vanish, come twice, or the rest of them is lost.

use super::random::Random;

/// Texts that a careless reader takes for something else.
const TOKENS: [&[u8]; 26] = [
    b",",
    b"\"",
    b"\n",
    b"\r\n",
    b"\"\"",
    b"\",\"",
    b"\n\"",
    b"\n,\"",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b" ",
    b"-",
    b".",
    b"7.0",
    b"3",
    b"900",
    b"50912",
    b"NaN",
    b"inf",
    b"1e400",
    b"-1e-320",
    b"< 5",
    b"___",
    b"0.30000000000000004",
    b"123456789012.25",
];

/// Changes `bytes` in one place, or in up to four.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let places = 1 + random.below(2) * random.below(4);
    for _ in 0..places {
        let at = random.below(bytes.len() + 1);
        let length = random.below(24).min(bytes.len() - at);
        match random.below(16) {
            0..3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            3..5 if at < bytes.len() => bytes[at] = random.next() as u8,
            5..9 => splice(bytes, at..at, random.choose(&TOKENS)),
            9..11 => splice(bytes, at..at + length, random.choose(&TOKENS)),
            11..13 => splice(bytes, at..at + length, b""),
            13..15 => {
                let piece = bytes[at..at + length].to_vec();
                let to = random.below(bytes.len() + 1);
                splice(bytes, to..to, &piece);
            }
            // Rarely: most of what is cut short is refused, and says little.
            15 if random.below(4) == 0 => bytes.truncate(at),
            _ => {}
        }
    }
}

fn splice(bytes: &mut Vec<u8>, range: std::ops::Range<usize>, with: &[u8]) {
    bytes.splice(range, with.iter().copied());
}
