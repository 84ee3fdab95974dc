//! Edits of fields by those who are not the proxy: plugins and hooks.

use crate::admission::edits::FieldEdits;
use crate::http1::field::Known;

/// One edit, as plugins and hooks want it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Edit<'a> {
    Remove(&'a str),
    Set(&'a str, &'a [u8]),
    Add(&'a str, &'a [u8]),
}

/// Of one field value.
const VALUE_BYTES_MAX: usize = 16 << 10;

impl<'a> Edit<'a> {
    pub(crate) const fn name(self) -> &'a str {
        match self {
            Self::Remove(name) | Self::Set(name, _) | Self::Add(name, _) => name,
        }
    }
}

/// Carries out an edit that [`may`] be made.
pub(crate) fn apply(edits: &mut FieldEdits, edit: Edit<'_>) {
    match edit {
        Edit::Remove(name) => edits.remove(name.as_bytes()),
        Edit::Set(name, value) => edits.set(name.as_bytes(), value.trim_ascii()),
        Edit::Add(name, value) => edits.add(name.as_bytes(), value.trim_ascii()),
    }
}

/// Whether the field is neither one of framing nor of one hop, and can be written at all.
pub(crate) fn may(edit: Edit<'_>) -> bool {
    let value: &[u8] = match edit {
        Edit::Remove(_) => b"",
        Edit::Set(_, value) | Edit::Add(_, value) => value,
    };
    is_token(edit.name())
        && value.len() <= VALUE_BYTES_MAX
        && !value.iter().any(|&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f)
        && !matches!(
            Known::of(edit.name().as_bytes()),
            Known::Dropped
                | Known::Host
                | Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::ProxyAuthorization
                | Known::ProxyAuthenticate
                | Known::Http2Settings
                | Known::Te
                | Known::Upgrade
                | Known::ContentLength
                | Known::TransferEncoding
                | Known::Trailer
                | Known::Expect
                | Known::Date
        )
}

/// RFC 9110 §5.6.2.
fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 256
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
