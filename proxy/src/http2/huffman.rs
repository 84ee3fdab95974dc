//! The code of RFC 7541 appendix B, for texts in field blocks. Knows nothing of blocks.

/// The text is not in the code: it holds the end symbol, or ends in something else than up to seven ones (RFC 7541 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotHuffman;

/// Appends what `bytes` say to `text`.
///
/// # Errors
/// The bytes are not in the code; `text` has what came before.
pub(super) fn decode(bytes: &[u8], text: &mut Vec<u8>) -> Result<(), NotHuffman> {
    // The lowest `held` bits of `window` are what was not decoded yet.
    let (mut window, mut held) = (0_u64, 0);
    // No code is shorter than five bits.
    text.reserve(bytes.len() * 8 / 5);
    let mut bytes = bytes.iter();
    loop {
        while held <= 56
            && let Some(byte) = bytes.next()
        {
            window = window << 8 | u64::from(*byte);
            held += 8;
        }
        // The next 32 bits, with ones after the end.
        let next = if held >= 32 {
            (window >> (held - 32)) as u32
        } else {
            (window << (32 - held)) as u32 | u32::MAX.checked_shr(held).unwrap_or(0)
        };
        let (symbol, length) = TABLE.look_up(next);
        if length > held {
            return if held < 8 && next == u32::MAX { Ok(()) } else { Err(NotHuffman) };
        }
        text.push(u8::try_from(symbol).map_err(|_| NotHuffman)?);
        held -= length;
    }
}

/// The code is canonical: codes of one length follow each other in the order of their symbols, after all shorter ones.
struct Table {
    /// By the next eight bits: symbol and length of the code that they begin with; 0: a longer one.
    short: [(u8, u8); 256],
    /// By length, aligned to the left of 32 bits: the first code, and what lies after the last.
    first: [u64; LENGTH_MAX + 1],
    end: [u64; LENGTH_MAX + 1],
    /// By length: where its symbols begin.
    offset: [usize; LENGTH_MAX + 1],
    /// In the order of their codes.
    symbols: [u16; LENGTHS.len()],
}

static TABLE: Table = Table::new();

impl Table {
    const fn new() -> Self {
        let mut table = Self {
            short: [(0, 0); 256],
            first: [0; LENGTH_MAX + 1],
            end: [0; LENGTH_MAX + 1],
            offset: [0; LENGTH_MAX + 1],
            symbols: [0; LENGTHS.len()],
        };
        let (mut next, mut count, mut length) = (0_u64, 0, 1);
        while length <= LENGTH_MAX {
            table.first[length] = next;
            table.offset[length] = count;
            let mut symbol = 0;
            while symbol < LENGTHS.len() {
                if LENGTHS[symbol] as usize == length {
                    table.symbols[count] = symbol as u16;
                    count += 1;
                    let after = next + (1 << (32 - length));
                    while length <= 8 && next < after {
                        table.short[(next >> 24) as usize] = (symbol as u8, length as u8);
                        next += 1 << 24;
                    }
                    next = after;
                }
                symbol += 1;
            }
            table.end[length] = next;
            length += 1;
        }
        table
    }

    /// The symbol that the next 32 bits begin with, and the length of its code.
    fn look_up(&self, next: u32) -> (u16, u32) {
        let (symbol, length) = self.short[(next >> 24) as usize];
        if length > 0 {
            return (u16::from(symbol), u32::from(length));
        }
        let next = u64::from(next);
        let mut length = 9;
        // The last code ends where 32 bits do.
        while next >= self.end[length] {
            length += 1;
        }
        let place = self.offset[length] + ((next - self.first[length]) >> (32 - length)) as usize;
        (self.symbols[place], length as u32)
    }
}

const LENGTH_MAX: usize = 30;

/// Bits of each symbol's code; the last is the end.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The text in the code, the rest of its last octet filled with ones.
    pub(in super::super) fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for &byte in text {
            let length = usize::from(LENGTHS[usize::from(byte)]);
            let place = TABLE.symbols.iter().position(|&symbol| symbol == u16::from(byte)).unwrap();
            let code = (TABLE.first[length] >> (32 - length)) + (place - TABLE.offset[length]) as u64;
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        while bits.len() % 8 != 0 {
            bits.push(true);
        }
        bits.chunks(8).map(|bits| bits.iter().fold(0, |byte, &bit| byte << 1 | u8::from(bit))).collect()
    }

    fn check(bytes: &[u8], expected: Result<&[u8], NotHuffman>) {
        let mut text = Vec::new();
        let decoded = decode(bytes, &mut text).map(|()| &text[..]);
        assert_eq!(decoded, expected, "{bytes:x?}");
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        // RFC 7541 C.4 and C.6
        check(&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff], Ok(b"www.example.com"));
        check(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], Ok(b"no-cache"));
        check(&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], Ok(b"custom-key"));
        check(&[0x64, 0x02], Ok(b"302"));
        check(
            &[
                0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66, 0xe0,
                0x82, 0xa6, 0x2d, 0x1b, 0xff,
            ],
            Ok(b"Mon, 21 Oct 2013 20:13:21 GMT"),
        );
        check(&[], Ok(b""));
    }

    #[test]
    fn every_octet_is_read_wherever_it_begins() {
        for before in ["", "0", "00", "a0", "\"", "0\"", "~", "\r"] {
            for byte in 0..=255 {
                let text = [before.as_bytes(), &[byte], before.as_bytes()].concat();
                check(&encode(&text), Ok(&text));
            }
        }
    }

    #[test]
    fn an_end_that_is_not_ones_or_too_many_of_them_is_refused() {
        let wrong = Err(NotHuffman);
        // `0` is 00000, then zeros.
        check(&[0b0000_0000], wrong);
        check(&[0b0000_0111], Ok(b"0"));
        check(&[0b0000_0110], wrong);
        check(&[0b0000_0111, 0xff], wrong);
        check(&[0xff], wrong);
        // The end symbol itself.
        check(&[0xff; 4], wrong);
        check(&[0b0000_0111, 0xff, 0xff, 0xff, 0xff], wrong);
    }
}
