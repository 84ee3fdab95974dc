//! Which coding of an answer's content a client gets (RFC 9110 §12.5.3).

use sealane_model::config::ContentCoding;

use crate::http1::field::members;

/// The name on the wire.
pub(super) const fn name(coding: ContentCoding) -> &'static str {
    match coding {
        ContentCoding::Brotli => "br",
        ContentCoding::Zstd => "zstd",
        ContentCoding::Gzip => "gzip",
    }
}

/// Of the codings on offer the one that the client wants most, of several the first; `None`: none is acceptable, or
/// plain content is wanted more. `lines` are the values of `Accept-Encoding`.
pub(super) fn choose<'a>(offered: &[ContentCoding], lines: impl Iterator<Item = &'a [u8]>) -> Option<ContentCoding> {
    let (mut any, mut identity) = (None, None);
    // By the place in `offered`.
    let mut named = [None; CODINGS_MAX];
    for member in lines.flat_map(members) {
        let mut parts = member.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let coding = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
        let weight = weight.map_or(1000, thousandths);
        let is = |text: &str| coding.eq_ignore_ascii_case(text.as_bytes());
        if coding == b"*" {
            any = Some(weight);
        } else if is("identity") {
            identity = Some(weight);
        } else if let Some(place) =
            offered.iter().position(|&offered| is(name(offered)) || (offered == ContentCoding::Gzip && is("x-gzip")))
        {
            named[place] = Some(weight);
        }
    }
    let mut best: Option<(ContentCoding, u32)> = None;
    for (&coding, named) in offered.iter().zip(named) {
        let weight = named.or(any).unwrap_or(0);
        if weight > best.map_or(0, |(_, best)| best) {
            best = Some((coding, weight));
        }
    }
    best.filter(|&(_, weight)| identity.unwrap_or(0) <= weight).map(|(coding, _)| coding)
}

/// Codings there are.
const CODINGS_MAX: usize = 3;

/// A weight; 0 for what is none.
fn thousandths(text: &[u8]) -> u32 {
    match std::str::from_utf8(text).ok().and_then(|text| text.parse::<f32>().ok()) {
        Some(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coding_is_chosen_by_the_clients_weights_then_by_the_order_on_offer() {
        let all = [ContentCoding::Brotli, ContentCoding::Zstd, ContentCoding::Gzip];
        let check = |value: &str, expected: Option<&str>| {
            assert_eq!(choose(&all, [value.as_bytes()].into_iter()).map(name), expected, "{value}");
        };
        check("gzip", Some("gzip"));
        check("GZIP;q=0.5, deflate", Some("gzip"));
        check("x-gzip", Some("gzip"));
        check("gzip, deflate, br, zstd", Some("br"));
        check("gzip, zstd", Some("zstd"));
        check("gzip;q=1, br;q=0.9", Some("gzip"));
        check("gzip;q=0.5, br;q=0.5", Some("br"));
        check("br;q=0, gzip", Some("gzip"));
        check("*", Some("br"));
        check("br;q=0, *;q=0.1", Some("zstd"));
        check("*;q=0", None);
        check("*, gzip;q=0, br;q=0, zstd;q=0", None);
        check("gzip;q=0", None);
        check("gzip; q=0.000", None);
        check("gzip;q=nonsense", None);
        check("gzip;q=0.5, identity", None);
        check("gzip;q=0.5, identity;q=0.1", Some("gzip"));
        check("deflate", None);
        check("gzipped, brotli", None);
        check("", None);
        assert_eq!(choose(&all, std::iter::empty()), None);
        let gzip = [ContentCoding::Gzip];
        assert_eq!(choose(&gzip, [&b"br, gzip;q=0.1"[..]].into_iter()), Some(ContentCoding::Gzip));
        assert_eq!(choose(&gzip, [&b"br"[..]].into_iter()), None);
    }
}
