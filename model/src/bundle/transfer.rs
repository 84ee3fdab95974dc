//! Content on the wire: compressed where that is shorter, never longer than what was asked for when it is opened.
//!
//! It does not know digests; what comes out is checked like content that came as it is.

use crate::verify::VerifyError;

/// Speed over size: 64 KiB of config text shrink about eightfold already.
const LEVEL: u8 = 6;

/// Raw DEFLATE (RFC 1951); `None` where it would not be shorter.
#[must_use]
pub fn deflate(content: &[u8]) -> Option<Vec<u8>> {
    Some(miniz_oxide::deflate::compress_to_vec(content, LEVEL)).filter(|deflated| deflated.len() < content.len())
}

/// Opens it, and stops as soon as there would be more than `bytes_max` bytes.
///
/// # Errors
/// More than that, or what is no DEFLATE.
pub fn inflate(deflated: &[u8], bytes_max: usize) -> Result<Vec<u8>, VerifyError> {
    use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_with_limit};
    decompress_to_vec_with_limit(deflated, bytes_max).map_err(|error| match error.status {
        TINFLStatus::HasMoreOutput => {
            VerifyError::TooLarge { what: "compressed content", bytes: bytes_max as u64 + 1, max: bytes_max as u64 }
        }
        _ => VerifyError::Malformed { what: "compressed content" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_survives_and_what_does_not_shrink_stays_as_it_is() {
        let text = "  - { path_prefix: /a/, to: http://10.0.0.1:80 }\n".repeat(1000);
        let deflated = deflate(text.as_bytes()).unwrap();
        assert!(deflated.len() * 8 < text.len(), "{}", deflated.len());
        assert_eq!(inflate(&deflated, text.len()).unwrap(), text.as_bytes());
        assert_eq!(deflate(b"a"), None);
    }

    #[test]
    fn decompression_bomb() {
        let bomb = deflate(&vec![0; 64 << 20]).unwrap();
        assert!(bomb.len() < 100 << 10);
        let max = super::super::CHUNK_BYTES_MAX;
        let stopped = VerifyError::TooLarge { what: "compressed content", bytes: max as u64 + 1, max: max as u64 };
        assert_eq!(inflate(&bomb, max), Err(stopped));
        assert_eq!(inflate(&[0xff; 20], max), Err(VerifyError::Malformed { what: "compressed content" }));
        assert!(inflate(&[], max).is_err());
    }
}
