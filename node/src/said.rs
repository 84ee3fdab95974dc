//! What a gRPC status says to a person, without the words of the library that made it.

use std::error::Error;

use tonic::{Code, Status};

/// The status in words: the innermost cause where the call did not reach the other side, else what the other side said.
#[must_use]
pub fn said(status: &Status) -> String {
    if let Some(cause) = status.source() {
        return innermost(cause);
    }
    match (status.message(), status.code()) {
        ("", Code::Unimplemented) => {
            "it does not know this call: is it of another version, or something else?".to_owned()
        }
        ("", code) => code.description().to_owned(),
        (message, _) => message.to_owned(),
    }
}

/// Whether the call did not reach the other side.
#[must_use]
pub fn is_transport(status: &Status) -> bool {
    status.source().is_some()
}

/// An error and its causes in one line; statuses in words.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        let status =
            error.downcast_ref::<Status>().or_else(|| error.downcast_ref::<Box<Status>>().map(|status| &**status));
        if let Some(status) = status {
            text.push_str(&said(status));
            break;
        }
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// Outer sentences ("transport error") say nothing; the innermost cause does.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot fetch it")]
    struct Outer(#[source] Box<Status>);

    #[test]
    fn a_status_reads_as_a_sentence() {
        assert_eq!(
            said(&Status::unauthenticated("the token is unknown, revoked or expired")),
            "the token is unknown, revoked or expired"
        );
        assert!(said(&Status::new(Code::Unimplemented, "")).contains("another version"));
        let refused = std::io::Error::from_raw_os_error(111);
        let status = Status::from_error(Box::new(std::io::Error::other(refused)));
        assert_eq!(said(&status), "connection refused");
        assert!(is_transport(&status));
        assert_eq!(chain(&Outer(Box::new(status))), "cannot fetch it: connection refused");
    }
}
