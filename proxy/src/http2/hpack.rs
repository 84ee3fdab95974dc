//! Field blocks as RFC 7541 compresses them, read for what `h2` does not tell: whether they are in order at all, so that a
//! connection whose sides disagree about its table ends with COMPRESSION_ERROR; and what is lost when `h2` has read them.
//!
//! Keeps of each field of the table what can be asked about it, not its text. Knows nothing of frames and streams.

use std::collections::VecDeque;

use super::huffman;

/// What a client's blocks have put into the table.
#[derive(Debug)]
pub(super) struct Table {
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    size_max: usize,
    /// A text, decoded.
    text: Vec<u8>,
}

/// The block is not in order. What the two sides believe of the table differs from now on (RFC 9113 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbled;

/// What was seen of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// A field came: the table's size may not change any more.
    pub(super) fields: bool,
    /// The table was changed.
    pub(super) changes: bool,
    /// A name begins with a colon.
    pub(super) pseudo: bool,
    /// `:path` has no such form (RFC 9113 §8.3.1): it does not begin with `/`, or has a `#`.
    pub(super) odd_path: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Name,
    name_length: usize,
    value_length: usize,
    odd_path: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Path,
    Pseudo,
    Ordinary,
}

impl Name {
    const fn of(name: &[u8]) -> Self {
        match name {
            b":path" => Self::Path,
            [b':', ..] => Self::Pseudo,
            _ => Self::Ordinary,
        }
    }
}

impl Entry {
    /// As the table counts it (RFC 7541 §4.1).
    const fn size(&self) -> usize {
        self.name_length + self.value_length + 32
    }
}

/// The size of the table that clients are allowed: HTTP/2's own, which the proxy never changes.
const TABLE_BYTES_MAX: usize = 4096;
/// Room for texts that a connection keeps between blocks.
const TEXT_BYTES_KEPT: usize = 1024;

impl Table {
    pub(super) const fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, size_max: TABLE_BYTES_MAX, text: Vec::new() }
    }

    /// Reads the fields at the start of `bytes` that are there as a whole; how many bytes they take.
    ///
    /// # Errors
    /// Something is out of order, whatever may follow.
    pub(super) fn read(&mut self, bytes: &[u8], seen: &mut Seen) -> Result<usize, Garbled> {
        let mut length = 0;
        while let Some(read) = self.read_one(&bytes[length..], seen)? {
            length += read;
        }
        Ok(length)
    }

    /// The block has ended: gives back the room of a text that was unusually long, which a connection would keep for life.
    pub(super) fn release(&mut self) {
        if self.text.capacity() > TEXT_BYTES_KEPT {
            self.text = Vec::new();
        }
    }

    /// `None`: it is not there as a whole.
    fn read_one(&mut self, bytes: &[u8], seen: &mut Seen) -> Result<Option<usize>, Garbled> {
        let Some(first) = bytes.first() else { return Ok(None) };
        let mut rest = bytes;
        match first {
            0b1000_0000.. => {
                let Some(index) = integer(&mut rest, 7)? else { return Ok(None) };
                let field = self.at(index)?;
                seen.field(field.name, field.odd_path);
            }
            0b0010_0000..0b0100_0000 => {
                let Some(size) = integer(&mut rest, 5)? else { return Ok(None) };
                // RFC 7541 §4.2 and §6.3
                if seen.fields || size > TABLE_BYTES_MAX {
                    return Err(Garbled);
                }
                seen.changes = true;
                self.size_max = size;
                self.make_room(0);
            }
            _ => {
                let enters = *first >= 0b0100_0000;
                let Some(index) = integer(&mut rest, if enters { 6 } else { 4 })? else { return Ok(None) };
                let (name, name_length) = if index == 0 {
                    let Some(name) = text(&mut rest, &mut self.text)? else { return Ok(None) };
                    (Name::of(name), name.len())
                } else {
                    let named = self.at(index)?;
                    (named.name, named.name_length)
                };
                let Some(value) = text(&mut rest, &mut self.text)? else { return Ok(None) };
                let odd_path = name == Name::Path && is_odd_path(value);
                let entry = Entry { name, name_length, value_length: value.len(), odd_path };
                seen.field(name, odd_path);
                if enters {
                    seen.changes = true;
                    self.enter(entry);
                }
            }
        }
        Ok(Some(bytes.len() - rest.len()))
    }

    fn at(&self, index: usize) -> Result<Entry, Garbled> {
        let index = index.checked_sub(1).ok_or(Garbled)?;
        match STATIC.get(index) {
            Some(entry) => Ok(*entry),
            None => self.entries.get(index - STATIC.len()).copied().ok_or(Garbled),
        }
    }

    fn enter(&mut self, entry: Entry) {
        self.make_room(entry.size());
        // What is larger than the table leaves it empty (RFC 7541 §4.4).
        if entry.size() <= self.size_max {
            self.size += entry.size();
            self.entries.push_front(entry);
        }
    }

    fn make_room(&mut self, wanted: usize) {
        while self.size + wanted > self.size_max
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}

impl Seen {
    fn field(&mut self, name: Name, odd_path: bool) {
        self.fields = true;
        self.pseudo |= name != Name::Ordinary;
        self.odd_path |= odd_path;
    }
}

fn is_odd_path(path: &[u8]) -> bool {
    (path.first() != Some(&b'/') && path != b"*") || path.contains(&b'#')
}

/// Takes an integer whose first octet has `prefix` bits of it (RFC 7541 §5.1). `None`: it is not there as a whole.
fn integer(bytes: &mut &[u8], prefix: u32) -> Result<Option<usize>, Garbled> {
    let Some((&first, mut rest)) = bytes.split_first() else { return Ok(None) };
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(first) & most;
    let mut shift = 0;
    let mut more = value == most;
    while more {
        // Four further octets say more than any block has: larger numbers are errors, however they are written.
        if shift > 21 {
            return Err(Garbled);
        }
        let Some((&next, after)) = rest.split_first() else { return Ok(None) };
        rest = after;
        value += usize::from(next & 0x7f) << shift;
        shift += 7;
        more = next & 0x80 != 0;
    }
    *bytes = rest;
    Ok(Some(value))
}

/// Takes a text (RFC 7541 §5.2). `None`: it is not there as a whole.
fn text<'a, 'b: 'a>(bytes: &mut &'b [u8], decoded: &'a mut Vec<u8>) -> Result<Option<&'a [u8]>, Garbled> {
    let is_huffman = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let mut rest = *bytes;
    let Some(length) = integer(&mut rest, 7)? else { return Ok(None) };
    let Some((raw, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    *bytes = rest;
    if !is_huffman {
        return Ok(Some(raw));
    }
    decoded.clear();
    huffman::decode(raw, decoded).map_err(|_| Garbled)?;
    Ok(Some(decoded))
}

/// The fields that every table begins with. Only fields that enter the table are counted, so values have no length here.
static STATIC: [Entry; STATIC_NAMES.len()] = {
    let mut entries =
        [Entry { name: Name::Ordinary, name_length: 0, value_length: 0, odd_path: false }; STATIC_NAMES.len()];
    let mut index = 0;
    while index < STATIC_NAMES.len() {
        let name = STATIC_NAMES[index].as_bytes();
        (entries[index].name, entries[index].name_length) = (Name::of(name), name.len());
        index += 1;
    }
    entries
};

/// RFC 7541 appendix A
#[rustfmt::skip]
const STATIC_NAMES: [&str; 61] = [
    ":authority", ":method", ":method", ":path", ":path", ":scheme", ":scheme", ":status", ":status", ":status", ":status",
    ":status", ":status", ":status", "accept-charset", "accept-encoding", "accept-language", "accept-ranges", "accept",
    "access-control-allow-origin", "age", "allow", "authorization", "cache-control", "content-disposition",
    "content-encoding", "content-language", "content-length", "content-location", "content-range", "content-type", "cookie",
    "date", "etag", "expect", "expires", "from", "host", "if-match", "if-modified-since", "if-none-match", "if-range",
    "if-unmodified-since", "last-modified", "link", "location", "max-forwards", "proxy-authenticate", "proxy-authorization",
    "range", "referer", "refresh", "retry-after", "server", "set-cookie", "strict-transport-security", "transfer-encoding",
    "user-agent", "vary", "via", "www-authenticate",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::huffman::tests::encode;

    /// A whole block, however it is cut.
    fn read(table: &mut Table, block: &[u8]) -> Result<Seen, Garbled> {
        let mut seen = Seen::default();
        let length = table.read(block, &mut seen)?;
        if length == block.len() { Ok(seen) } else { Err(Garbled) }
    }

    fn literal(kind: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
        [&[kind, name.len() as u8][..], name, &[value.len() as u8], value].concat()
    }

    #[test]
    fn the_examples_of_the_rfc_fill_the_table_as_it_says() {
        // RFC 7541 C.4: requests with Huffman coding.
        let mut table = Table::new();
        let www = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        read(&mut table, &[&[0x82, 0x86, 0x84, 0x41, 0x8c][..], &www].concat()).unwrap();
        assert_eq!((table.entries.len(), table.size), (1, 57));
        read(&mut table, &[0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap();
        assert_eq!((table.entries.len(), table.size), (2, 110));
        let custom =
            [&[0x82, 0x87, 0x85, 0xbf, 0x40, 0x88][..], &encode(b"custom-key"), &[0x89], &encode(b"custom-value")];
        read(&mut table, &custom.concat()).unwrap();
        assert_eq!((table.entries.len(), table.size), (3, 164));
    }

    #[test]
    fn what_is_out_of_order_is_garbled() {
        let check = |block: &[u8]| {
            assert_eq!(read(&mut Table::new(), block), Err(Garbled), "{block:x?}");
        };
        check(&[0x80]);
        check(&[0xbe]);
        check(&[0xff, 0x80, 0x80, 0x01]);
        check(&[0x7e, 0x01, b'a']);
        check(&[0x0f, 0x2f, 0x01, b'a']);
        check(&[0x00, 0x00]);
        check(&[0x00, 0x05, b'a']);
        check(&[0x3f, 0xe2, 0x1f]);
        check(&[0x82, 0x20]);
        check(&[0x82, 0x3f, 0xe1, 0x1f]);
        check(&[0x00, 0x81, 0x00, 0x01, b'a']);
        check(&[0x00, 0x01, b'a', 0x84, 0xff, 0xff, 0xff, 0xff]);
        check(&[0x00, 0x01, b'a', 0x82, 0x07, 0xff]);
        // Numbers without end.
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        check(&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]);
    }

    #[test]
    fn a_size_may_change_before_the_first_field_and_what_no_longer_fits_is_gone() {
        let mut table = Table::new();
        read(&mut table, &literal(0x40, b"one", b"1")).unwrap();
        read(&mut table, &literal(0x40, b"two", b"2")).unwrap();
        assert!(read(&mut table, &[0xbf]).is_ok());
        // Room for one.
        read(&mut table, &[&[0x3f, 36 - 31][..], &[0xbe]].concat()).unwrap();
        assert_eq!(read(&mut table, &[0xbf]), Err(Garbled));
        // None, then as much as there may be.
        read(&mut table, &[0x20, 0x3f, 0xe1, 0x1f]).unwrap();
        assert_eq!(read(&mut table, &[0xbe]), Err(Garbled));
        assert_eq!((table.size, table.size_max), (0, 4096));
        // Larger than the table.
        read(&mut table, &literal(0x40, b"one", b"1")).unwrap();
        let large = [&[0x40, 0x01, b'a', 0x7f, 0x81, 0x1f][..], &[b'x'; 127 + 1 + 31 * 128]].concat();
        read(&mut table, &large).unwrap();
        assert_eq!((table.entries.len(), table.size), (0, 0));
    }

    #[test]
    fn pseudo_fields_and_odd_paths_are_seen_also_in_the_table() {
        let mut table = Table::new();
        let mut check = |block: &[u8], pseudo: bool, odd_path: bool| {
            let seen = read(&mut table, block).unwrap();
            assert_eq!((seen.pseudo, seen.odd_path), (pseudo, odd_path), "{block:x?}");
        };
        check(&literal(0x40, b"x-a", b"#"), false, false);
        check(&[0xbe], false, false);
        check(&[0x82], true, false);
        check(&literal(0x00, b":any", b""), true, false);
        check(
            &[&[0x00, 0x80 | encode(b":path").len() as u8][..], &encode(b":path"), &[0x83], &encode(b"/#")].concat(),
            true,
            true,
        );
        check(&[&[0x04, 0x03][..], b"/a?"].concat(), true, false);
        check(&[0x04, 0x01, b'*'], true, false);
        check(&[&[0x44, 0x04][..], b"/a#b"].concat(), true, true);
        check(&[0xbe], true, true);
        check(&[&[0x7e, 0x02][..], b"/b"].concat(), true, false);
        check(&[&[0x14, 0x08][..], b"http://a"].concat(), true, true);
        check(&[0x14, 0x00], true, true);
    }

    #[test]
    fn the_room_of_a_long_text_is_given_back_after_its_block() {
        let mut table = Table::new();
        let long = encode(&[b'a'; 8000]);
        let length = long.len() - 127;
        let head = [0x00, 0x01, b'a', 0xff, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8];
        read(&mut table, &[&head[..], &long].concat()).unwrap();
        assert!(table.text.capacity() >= 8000);
        table.release();
        assert_eq!(table.text.capacity(), 0);
        read(&mut table, &[&[0x00, 0x01, b'a', 0x81][..], &encode(b"b")].concat()).unwrap();
        let kept = table.text.capacity();
        table.release();
        assert_eq!(table.text.capacity(), kept, "what is usual stays");
    }

    #[test]
    fn fields_that_are_not_there_as_a_whole_are_left() {
        let block =
            [&[0x3f, 0xe1, 0x1f, 0x82][..], &literal(0x40, b"name", b"value"), &[0xbe], &literal(0x10, b"a", b"b")]
                .concat();
        let whole = read(&mut Table::new(), &block).unwrap();
        for cut in 0..block.len() {
            let mut table = Table::new();
            let mut seen = Seen::default();
            let first = table.read(&block[..cut], &mut seen).unwrap();
            let second = table.read(&block[first..], &mut seen).unwrap();
            assert_eq!((first + second, seen), (block.len(), whole), "{cut}");
        }
    }
}
