//! One content on its way into a coding: gzip (RFC 1952), Brotli (RFC 7932) or Zstandard (RFC 8878).
//!
//! Whatever is fed comes out so far that a client can read all of it. Windows are small, so that many answers at once do
//! not take much memory: 32 KiB of gzip, 512 KiB of the others.

use std::io::{self, Write as _};
use std::{fmt, mem};

use flate2::{Compress, Crc, FlushCompress, Status};
use sealane_model::config::ContentCoding;

/// Logarithm of the window of Brotli and Zstandard.
const WINDOW_LOG: u32 = 19;

/// One content on its way.
pub(crate) struct Encoder(Kind);

enum Kind {
    Gzip {
        compress: Compress,
        crc: Crc,
        is_begun: bool,
    },
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
    /// The end was fed.
    Ended,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Gzip { .. } => "gzip",
            Kind::Brotli(_) => "br",
            Kind::Zstd(_) => "zstd",
            Kind::Ended => "ended",
        })
    }
}

impl Encoder {
    /// `level`: 1 (fast) to 9 (small).
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn new(coding: ContentCoding, level: u32) -> io::Result<Self> {
        Ok(Self(match coding {
            ContentCoding::Gzip => Kind::Gzip {
                compress: Compress::new(flate2::Compression::new(level), false),
                crc: Crc::new(),
                is_begun: false,
            },
            ContentCoding::Brotli => {
                Kind::Brotli(Box::new(brotli::CompressorWriter::new(Vec::new(), 4096, level, WINDOW_LOG)))
            }
            ContentCoding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level as i32)?;
                encoder.window_log(WINDOW_LOG)?;
                Kind::Zstd(Box::new(encoder))
            }
        }))
    }

    /// Appends what becomes of `input` to `out`, so that the client can read all of it; with `last`, the end too.
    ///
    /// # Errors
    /// There is no memory for it. The content cannot be completed.
    pub(crate) fn feed(&mut self, input: &[u8], last: bool, out: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.0 {
            Kind::Gzip { compress, crc, is_begun } => {
                gzip(compress, crc, is_begun, input, last, out);
                Ok(())
            }
            Kind::Brotli(encoder) => {
                encoder.write_all(input)?;
                if last {
                    if let Kind::Brotli(encoder) = mem::replace(&mut self.0, Kind::Ended) {
                        out.append(&mut encoder.into_inner());
                    }
                    return Ok(());
                }
                if !input.is_empty() {
                    encoder.flush()?;
                }
                out.append(encoder.get_mut());
                Ok(())
            }
            Kind::Zstd(encoder) => {
                encoder.write_all(input)?;
                match (last, input.is_empty()) {
                    (true, _) => encoder.do_finish()?,
                    (false, false) => encoder.flush()?,
                    (false, true) => {}
                }
                out.append(encoder.get_mut());
                if last {
                    self.0 = Kind::Ended;
                }
                Ok(())
            }
            Kind::Ended => Ok(()),
        }
    }
}

fn gzip(compress: &mut Compress, crc: &mut Crc, is_begun: &mut bool, mut input: &[u8], last: bool, out: &mut Vec<u8>) {
    if !mem::replace(is_begun, true) {
        out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
    }
    crc.update(input);
    if !input.is_empty() || last {
        let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
        loop {
            out.reserve(input.len() / 2 + 1024);
            let before = compress.total_in();
            // Fails on a compressor that has ended only, and this one has not.
            let Ok(status) = compress.compress_vec(input, out, flush) else { break };
            input = &input[(compress.total_in() - before) as usize..];
            let has_room = out.len() < out.capacity();
            if status == Status::StreamEnd || (!last && input.is_empty() && has_room) {
                break;
            }
        }
    }
    if last {
        out.extend_from_slice(&crc.sum().to_le_bytes());
        out.extend_from_slice(&crc.amount().to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn decoder<'a>(coding: ContentCoding, bytes: &'a [u8]) -> Box<dyn Read + 'a> {
        match coding {
            ContentCoding::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
            ContentCoding::Brotli => Box::new(brotli::Decompressor::new(bytes, 4096)),
            ContentCoding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        }
    }

    #[test]
    fn what_is_fed_can_be_read_at_once_and_the_whole_is_what_it_was() {
        let text: Vec<u8> = (0..200_000u32).flat_map(|number| (number % 977).to_string().into_bytes()).collect();
        for coding in [ContentCoding::Gzip, ContentCoding::Brotli, ContentCoding::Zstd] {
            for size in [1, 7, 1000, 65_536, text.len()] {
                let mut encoder = Encoder::new(coding, 5).unwrap();
                let mut out = Vec::new();
                let fed = &text[..text.len().min(size * 300)];
                for piece in fed.chunks(size) {
                    encoder.feed(piece, false, &mut out).unwrap();
                }
                let mut partial = vec![0; fed.len()];
                decoder(coding, &out).read_exact(&mut partial).unwrap();
                assert_eq!(partial, fed, "{coding:?}, pieces of {size}");
                encoder.feed(b"", true, &mut out).unwrap();
                let mut whole = Vec::new();
                decoder(coding, &out).read_to_end(&mut whole).unwrap();
                assert_eq!(whole, fed, "{coding:?}, pieces of {size}");
                if size == 65_536 {
                    assert!(out.len() * 3 < fed.len(), "{coding:?}: {} of {}", out.len(), fed.len());
                }
            }
            let mut out = Vec::new();
            Encoder::new(coding, 9).unwrap().feed(b"", true, &mut out).unwrap();
            let mut whole = Vec::new();
            decoder(coding, &out).read_to_end(&mut whole).unwrap();
            assert!(whole.is_empty());
        }
    }
}
