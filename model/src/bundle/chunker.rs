//! Content-defined chunking: cuts depend on the bytes around them, so that a change moves only the chunks it touches.
//!
//! A gear hash rolls over the bytes; a cut is where it falls below a threshold, and never in the first 16 KiB of a chunk.
//! The hash has forgotten a byte after 64 more, so two texts that differ in one place agree on cuts soon after it.

use super::CHUNK_BYTES_MAX;

/// Smallest chunk but the last, in bytes.
const CHUNK_BYTES_MIN: usize = 16 << 10;
/// Mean distance of a cut from the smallest chunk: 16 KiB + 48 KiB make the mean of 64 KiB.
const CUT_DISTANCE_MEAN: u64 = 48 << 10;
const THRESHOLD: u64 = u64::MAX / CUT_DISTANCE_MEAN;
/// Bytes that the hash remembers.
const WINDOW: usize = 64;
const GEAR: [u64; 256] = gear();

/// The chunks of `content`, in order; none of nothing.
pub(super) fn chunks(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = content;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (chunk, after) = rest.split_at(first_cut(rest));
        rest = after;
        Some(chunk)
    })
}

fn first_cut(content: &[u8]) -> usize {
    if content.len() <= CHUNK_BYTES_MIN {
        return content.len();
    }
    let end = content.len().min(CHUNK_BYTES_MAX);
    let mut hash = 0_u64;
    for byte in &content[CHUNK_BYTES_MIN - WINDOW..CHUNK_BYTES_MIN] {
        hash = (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
    }
    for (at, byte) in content[..end].iter().enumerate().skip(CHUNK_BYTES_MIN) {
        if hash <= THRESHOLD {
            return at;
        }
        hash = (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
    }
    end
}

/// 256 numbers without a pattern, by SplitMix64. They must never change: other cuts are other chunks for every fleet.
const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut state = 0_u64;
    let mut index = 0;
    while index < table.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[index] = mixed ^ (mixed >> 31);
        index += 1;
    }
    table
}
