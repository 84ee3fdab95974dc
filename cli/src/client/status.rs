//! A gRPC status as a failure of the command: the sentence, the hint, the exit code.

use sealane_proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::exit::{Exit, Failure};

/// What a refusal of the authority at `url` means to a user.
pub(super) fn failure(status: &Status, url: &str, has_token: bool) -> Failure {
    let exit = exit(status);
    let message = match (exit, status.message()) {
        (Exit::Unreachable, message) if is_transport(status) => {
            format!("lost the authority at {url}: {}", cause(status).unwrap_or_else(|| or_code(message, status)))
        }
        (Exit::Unreachable, message) => {
            format!("the authority at {url} is not available: {}", or_code(message, status))
        }
        (_, message) => or_code(message, status),
    };
    let failure = Failure::new(exit, message);
    let details = status.get_error_details();
    let said = details.error_info().and_then(|info| info.metadata.get("hint").cloned());
    match (said, status.code()) {
        (Some(hint), _) if !hint.is_empty() => failure.hint(hint),
        // Depending on who notices first: a broken protocol, or a closed connection.
        _ if is_transport(status) && url.starts_with("http://") => {
            failure.hint(format!("if that server speaks TLS, say {}", url.replacen("http", "https", 1)))
        }
        (_, Code::Unauthenticated) if !has_token => failure.hint(
            "pass --token-file FILE, or --client FILE; the authority wrote admin.token and client.yaml in its data directory",
        ),
        (_, Code::Unauthenticated) => failure.hint("the token may be revoked, expired or of another fleet"),
        (_, Code::PermissionDenied) => failure.hint("ask for a token of another role: `sealane token create --role ROLE`"),
        (_, Code::Unimplemented) => failure.hint("the authority is of another version; compare `sealane version` on both"),
        (_, Code::NotFound) => match reason(status).as_deref().and_then(listing) {
            Some(hint) => failure.hint(hint),
            None => failure,
        },
        (_, Code::Aborted) if reason(status).is_none_or(|reason| reason == "ETAG_MOVED") => failure.hint("read the newest revision again with `sealane revision show`, then publish; a plan file is made again with `sealane plan FILE --out`"),
        _ => failure,
    }
}

/// What lists the things of which one was not found.
fn listing(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "NO_SUCH_REVISION" => "`sealane revision list` shows those that there are",
        "NO_SUCH_NODE" | "UNKNOWN_NODE" => "`sealane fleet nodes` shows those that there are",
        "NO_SUCH_TOKEN" => "`sealane token list` shows those that there are",
        "NO_SUCH_FREEZE" => "`sealane freeze list` shows those that there are",
        _ => return None,
    })
}

/// Source: design page "Public interfaces", the exit table.
fn exit(status: &Status) -> Exit {
    match status.code() {
        Code::Ok => Exit::Done,
        Code::NotFound => Exit::NotFound,
        Code::Unauthenticated | Code::PermissionDenied => Exit::NotAllowed,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Exit::Unreachable,
        _ if broke(status) => Exit::Unreachable,
        Code::Aborted => Exit::Conflict,
        Code::InvalidArgument if is_about_config(status) => Exit::Invalid,
        Code::InvalidArgument => Exit::Usage,
        Code::Unknown
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => Exit::Failed,
    }
}

/// The stable word for why, such as `ETAG_MOVED`.
fn reason(status: &Status) -> Option<String> {
    status.get_error_details().error_info().map(|info| info.reason.clone())
}

/// Whether the config is at fault, not the command line.
fn is_about_config(status: &Status) -> bool {
    let reason = reason(status);
    !violations(status).is_empty() || matches!(reason.as_deref(), Some("CONFIG_TOO_LARGE" | "CONTENT_REFUSED"))
}

/// Whether the connection broke rather than the authority refused: the same call may be answered on another.
pub(crate) fn broke(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown | Code::Internal | Code::Cancelled => is_transport(status),
        Code::Ok
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

/// Whether it was made on this side, from a broken connection.
fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

fn or_code(message: &str, status: &Status) -> String {
    if message.is_empty() { status.code().to_string() } else { message.to_owned() }
}

fn cause(status: &Status) -> Option<String> {
    let mut cause: &dyn std::error::Error = status;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Some(cause.to_string()).filter(|text| !text.is_empty())
}

/// The field violations of a refusal, as problems: the key's path and one sentence. Lines are not in a violation.
#[must_use]
pub fn violations(status: &Status) -> Vec<v1::Problem> {
    let details = status.get_error_details();
    let Some(bad) = details.bad_request() else { return Vec::new() };
    bad.field_violations
        .iter()
        .map(|violation| v1::Problem {
            code: "refused".into(),
            severity: "error".into(),
            message: violation.description.clone(),
            path: violation.field.clone(),
            ..Default::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn every_status_has_the_exit_code_of_the_table() {
        for (code, expected) in [
            (Code::NotFound, 4),
            (Code::Unauthenticated, 5),
            (Code::PermissionDenied, 5),
            (Code::Unavailable, 6),
            (Code::DeadlineExceeded, 6),
            (Code::Aborted, 7),
            (Code::InvalidArgument, 64),
            (Code::Internal, 1),
            (Code::FailedPrecondition, 1),
        ] {
            assert_eq!(failure(&Status::new(code, "x"), "http://a", false).exit as u8, expected, "{code:?}");
        }
        let details = ErrorDetails::with_bad_request_violation("routes[0].pool", "no such pool");
        let status = Status::with_error_details(Code::InvalidArgument, "the config has 1 problem", details);
        assert_eq!(failure(&status, "http://a", false).exit, Exit::Invalid);
        let details = ErrorDetails::with_error_info(
            "CONFIG_TOO_LARGE",
            "sealane",
            std::collections::HashMap::<String, String>::new(),
        );
        let large = Status::with_error_details(Code::InvalidArgument, "the config is larger than 64 MiB", details);
        assert_eq!(failure(&large, "http://a", false).exit, Exit::Invalid);
        assert_eq!(violations(&status)[0].path, "routes[0].pool");
    }

    #[test]
    fn a_missing_token_is_told_from_a_wrong_one() {
        let status = Status::unauthenticated("a token is needed");
        let hint = |has_token| failure(&status, "http://a", has_token).next_step().unwrap().to_owned();
        assert!(hint(false).contains("--token-file"));
        assert!(hint(true).contains("revoked"));
    }

    #[test]
    fn what_was_not_found_is_listed_by_a_command_that_is_named() {
        for (reason, command) in [("NO_SUCH_REVISION", "revision list"), ("NO_SUCH_NODE", "fleet nodes")] {
            let details =
                ErrorDetails::with_error_info(reason, "sealane", std::collections::HashMap::<String, String>::new());
            let status = Status::with_error_details(Code::NotFound, "there is none", details);
            assert!(
                failure(&status, "http://a", false).next_step().is_some_and(|hint| hint.contains(command)),
                "{reason}"
            );
        }
    }
}
