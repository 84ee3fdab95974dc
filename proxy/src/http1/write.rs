//! Writes heads and chunks.

use super::body::Coding;
use super::field::{Field, Fields, KnownSet};

/// Appends one field line.
pub fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the field lines of a head of `head_length` bytes, but those in `without`.
///
/// Lines come out as `name: value` and CRLF. Neighbours that already look so are copied as one run, which gives the same
/// bytes.
pub fn fields(out: &mut Vec<u8>, bytes: &[u8], head_length: usize, fields: &Fields, without: KnownSet) {
    let lines = fields.lines();
    let mut run: Option<(usize, usize)> = None;
    for (index, line) in lines.iter().enumerate() {
        if without.contains(line.known) {
            continue;
        }
        let next = lines.get(index + 1).map_or(head_length - 2, |next| next.name.start as usize);
        let start = line.name.start as usize;
        if !is_canonical(bytes, line, next) {
            flush(out, bytes, run.take());
            field(out, line.name.of_bytes(bytes), line.value.of_bytes(bytes));
            continue;
        }
        run = match run {
            Some((run_start, run_end)) if run_end == start => Some((run_start, next)),
            other => {
                flush(out, bytes, other);
                Some((start, next))
            }
        };
    }
    flush(out, bytes, run);
}

fn flush(out: &mut Vec<u8>, bytes: &[u8], run: Option<(usize, usize)>) {
    if let Some((start, end)) = run {
        out.extend_from_slice(&bytes[start..end]);
    }
}

/// Whether the line that ends before `next` is exactly `name: value` and CRLF.
fn is_canonical(bytes: &[u8], line: &Field, next: usize) -> bool {
    let (colon, value, end) = (line.name.end as usize, line.value.start as usize, line.value.end as usize);
    value == colon + 2 && bytes[colon + 1] == b' ' && next == end + 2
}

/// Appends content in `coding`.
pub fn content(out: &mut Vec<u8>, coding: Coding, data: &[u8]) {
    match coding {
        Coding::Identity => out.extend_from_slice(data),
        Coding::Chunked if data.is_empty() => {}
        Coding::Chunked => {
            hexadecimal(out, data.len());
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(data);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Appends a number in hexadecimal.
pub fn hexadecimal(out: &mut Vec<u8>, number: usize) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a number in decimal.
pub fn decimal(out: &mut Vec<u8>, number: u64) {
    if number < 10 {
        out.push(b'0' + number as u8);
        return;
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    while rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits[at..]);
}
