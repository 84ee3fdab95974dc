//! What plugins may change: edits of fields but those that are not theirs, and answers of a bounded size.

use crate::admission::edits::FieldEdits;
use crate::admission::guest::{Edit, apply, may};
use crate::http1::field::Known;
use crate::http1::write;
use crate::plugin::CallResult;

/// What a plugin wants, checked.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) request: FieldEdits,
    /// Names that the request's edits remove or set.
    pub(crate) taken: Vec<String>,
    pub(crate) response: FieldEdits,
    /// `None`: the request goes on.
    pub(crate) respond: Option<Respond>,
    /// Edits that it may not make.
    pub(crate) denied: u32,
}

/// An answer to the client.
#[derive(Debug)]
pub(crate) struct Respond {
    pub(crate) status: u16,
    /// Whole lines.
    pub(crate) lines: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// Of an answer's content.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Edits in one answer.
const EDITS_MAX: usize = 200;

impl Verdict {
    /// Takes an edit of the request's fields, if a plugin may make it.
    pub(crate) fn edit_request(&mut self, edit: Edit<'_>) {
        if !may(edit) || is_of_the_client(edit.name()) {
            self.denied += 1;
            return;
        }
        if let Edit::Remove(name) | Edit::Set(name, _) = edit {
            self.taken.push(name.to_ascii_lowercase());
        }
        apply(&mut self.request, edit);
    }

    /// The same of the fields of whatever answers.
    pub(crate) fn edit_response(&mut self, edit: Edit<'_>) {
        if may(edit) { apply(&mut self.response, edit) } else { self.denied += 1 }
    }

    /// Lets the proxy answer.
    ///
    /// # Errors
    /// It is no answer.
    pub(crate) fn respond<'a>(
        &mut self,
        status: i64,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        body: Vec<u8>,
    ) -> Result<(), CallResult> {
        let status = u16::try_from(status).ok().filter(|status| (200..=599).contains(status));
        let status = status.ok_or(CallResult::Invalid)?;
        if body.len() > BODY_BYTES_MAX {
            return Err(CallResult::Invalid);
        }
        let mut lines = Vec::new();
        for (name, value) in headers {
            if may(Edit::Add(name, value)) {
                write::field(&mut lines, name.as_bytes(), value.trim_ascii());
            } else {
                self.denied += 1;
            }
        }
        // There is no content in answers with these (RFC 9110 §15).
        let body = if matches!(status, 204 | 205 | 304) { Vec::new() } else { body };
        self.respond = Some(Respond { status, lines, body });
        Ok(())
    }
}

/// Whether so many edits are too many.
pub(crate) const fn bounded(edits: usize) -> Result<(), CallResult> {
    if edits <= EDITS_MAX { Ok(()) } else { Err(CallResult::Invalid) }
}

/// Fields by which the proxy tells endpoints whom a request is from.
fn is_of_the_client(name: &str) -> bool {
    let known = Known::of(name.as_bytes());
    matches!(known, Known::XRealIp | Known::Forwarded | Known::XRequestId)
        || name.get(..12).is_some_and(|start| start.eq_ignore_ascii_case("x-forwarded-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_edit_neither_framing_nor_hops_nor_whom_a_request_is_from() {
        let denied = [
            "Host",
            "connection",
            "Keep-Alive",
            "TE",
            "Upgrade",
            "Trailer",
            "Transfer-Encoding",
            "content-length",
            "Expect",
            "X-Forwarded-For",
            "x-forwarded-prefix",
            "X-Real-IP",
            "Forwarded",
            ":path",
            "",
            "a b",
            "a\r\nb",
        ];
        for name in denied {
            for edit in [Edit::Remove(name), Edit::Set(name, b"x"), Edit::Add(name, b"x")] {
                let mut verdict = Verdict::default();
                verdict.edit_request(edit);
                assert_eq!((verdict.denied, verdict.request.lines()), (1, &b""[..]), "{name}");
            }
        }
        let mut verdict = Verdict::default();
        verdict.edit_request(Edit::Set("X-User", b"a\r\nX-Admin: 1"));
        verdict.edit_response(Edit::Add("X-User", b"a\0"));
        assert_eq!(verdict.denied, 2);
        verdict.edit_request(Edit::Set("X-User", b"alice"));
        assert_eq!((verdict.denied, verdict.request.lines()), (2, &b"X-User: alice\r\n"[..]));
    }

    #[test]
    fn answers_have_a_final_status_and_a_bounded_body() {
        for status in [-1, 0, 99, 100, 101, 199, 600, 70_000] {
            assert!(Verdict::default().respond(status, std::iter::empty(), Vec::new()).is_err(), "{status}");
        }
        let mut verdict = Verdict::default();
        assert!(verdict.respond(403, std::iter::empty(), vec![0; BODY_BYTES_MAX + 1]).is_err());
        verdict.respond(204, [("Content-Length", &b"9"[..])].into_iter(), b"body".to_vec()).unwrap();
        let respond = verdict.respond.unwrap();
        assert_eq!((respond.status, respond.lines.len(), respond.body.len(), verdict.denied), (204, 0, 0, 1));
    }
}
