//! Errors on the wire: a status, an `ErrorInfo` with a stable reason, and field violations for configs.

use std::collections::HashMap;

use sealane_model::problem::Problem;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tracing::error;

use crate::approve::ApproveError;
use crate::error::chain;
use crate::fleet::LiveError;
use crate::home::HomeError;
use crate::pki::PkiError;
use crate::publish::PublishError;
use crate::revision::ReadError;
use crate::rollout::driver::CommandError;
use crate::rollout::machine::Refusal;
use crate::store::StoreError;
use crate::trust::TrustError;

/// Domain of our error reasons.
const DOMAIN: &str = "sealane";
/// Details travel in a header field: so many violations, so many bytes of text in each. `Validate` lists them all.
const VIOLATIONS_MAX: usize = 20;
const VIOLATION_BYTES_MAX: usize = 240;

/// A status with a reason that programs can rely on.
pub(crate) fn status(code: Code, reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()))
}

/// The same with what to type next.
pub(crate) fn hinted(code: Code, reason: &str, message: impl Into<String>, hint: impl Into<String>) -> Status {
    let metadata = HashMap::from([("hint".to_owned(), hint.into())]);
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
}

impl From<PublishError> for Status {
    fn from(error: PublishError) -> Self {
        let message = chain(&error);
        match error {
            PublishError::Problems(problems) => invalid_config(&problems),
            PublishError::Denied(problems) => denied(&problems, message),
            PublishError::Policy(_) => status(Code::FailedPrecondition, "POLICY_FAILED", message),
            PublishError::TooLarge { .. } => status(Code::InvalidArgument, "CONFIG_TOO_LARGE", message),
            PublishError::BadWord { .. } => status(Code::InvalidArgument, "BAD_FIELD", message),
            PublishError::EtagMoved { .. } => status(Code::Aborted, "ETAG_MOVED", message),
            PublishError::Crowded => status(Code::Aborted, "CROWDED", message),
            PublishError::RequestIdUsed(_) => status(Code::InvalidArgument, "REQUEST_ID_USED", message),
            PublishError::NothingGood => status(Code::FailedPrecondition, "NOTHING_GOOD", message),
            PublishError::Restored { .. } => status(Code::FailedPrecondition, "DATABASE_RESTORED", message),
            PublishError::Pack(_) => status(Code::InvalidArgument, "CONTENT_REFUSED", message),
            PublishError::Sign(_) => status(Code::FailedPrecondition, "CANNOT_SIGN", message),
            PublishError::PlanFloor(_) => status(Code::FailedPrecondition, "BELOW_PLAN_FLOOR", message),
            PublishError::Read(error) => error.into(),
            PublishError::Store(error) => error.into(),
            PublishError::CutOff => status(Code::Internal, "CUT_OFF", message),
        }
    }
}

impl From<ApproveError> for Status {
    fn from(error: ApproveError) -> Self {
        let message = chain(&error);
        match error {
            ApproveError::NotPending(_) => status(Code::FailedPrecondition, "NOT_PENDING", message),
            ApproveError::Overtaken { .. } => status(Code::FailedPrecondition, "OVERTAKEN", message),
            ApproveError::OtherPayload(_) => status(Code::InvalidArgument, "OTHER_PAYLOAD", message),
            ApproveError::UnknownSignature => status(Code::PermissionDenied, "UNKNOWN_SIGNATURE", message),
            ApproveError::OwnWork { .. } => status(Code::PermissionDenied, "OWN_WORK", message),
            ApproveError::LongMessage => status(Code::InvalidArgument, "BAD_FIELD", message),
            ApproveError::Publish(error) => error.into(),
            ApproveError::Read(error) => error.into(),
            ApproveError::Store(error) => error.into(),
        }
    }
}

impl From<TrustError> for Status {
    fn from(error: TrustError) -> Self {
        let message = chain(&error);
        match error {
            TrustError::BadField { .. } => status(Code::InvalidArgument, "BAD_FIELD", message),
            TrustError::Nothing => status(Code::InvalidArgument, "NOTHING_CHANGES", message),
            TrustError::NoSuchKey(_) => status(Code::NotFound, "NO_SUCH_KEY", message),
            TrustError::Unsound(_) => status(Code::FailedPrecondition, "ROOT_REFUSED", message),
            TrustError::NoTimestampKey => status(Code::FailedPrecondition, "NO_TIMESTAMP_KEY", message),
            TrustError::Stranded { lacking, .. } => {
                let name = lacking.first().map(|one| one.revision.to_string()).unwrap_or_default();
                let hint = format!(
                    "trust the new keys first (`sealane key rotate --add-release FILE`), have them sign what is served \
                     (`sealane revision approve {name} --key FILE`), then this again; when a key was stolen and cannot \
                     wait: `--even-if-unsigned`"
                );
                hinted(Code::FailedPrecondition, "SIGNATURES_MISSING", message, hint)
            }
            TrustError::SandboxRoutes => status(Code::FailedPrecondition, "SANDBOX_ROUTES", message),
            TrustError::Home(error) => error.into(),
            TrustError::Store(error) => error.into(),
        }
    }
}

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Self {
        let message = chain(&error);
        match error {
            ReadError::Unknown(_) | ReadError::NothingYet => status(Code::NotFound, "NO_SUCH_REVISION", message),
            ReadError::Waiting(_) => status(Code::FailedPrecondition, "PENDING", message),
            ReadError::Store(error) => error.into(),
            ReadError::Content { .. } => {
                error!(error = message, "content in the database does not verify");
                status(Code::DataLoss, "CONTENT_DAMAGED", message)
            }
        }
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<&StoreError> for Status {
    fn from(error: &StoreError) -> Self {
        let message = chain(error);
        error!(error = message, "the database failed a call");
        match error {
            StoreError::DiskFull => status(Code::ResourceExhausted, "DISK_FULL", message),
            StoreError::Locked => status(Code::Unavailable, "DATABASE_LOCKED", message),
            StoreError::Failed { .. } | StoreError::Migration(_) | StoreError::Damaged { .. } => {
                status(Code::Internal, "DATABASE_FAILED", message)
            }
        }
    }
}

impl From<CommandError> for Status {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Refused(refusal) => refusal.into(),
            CommandError::Store(error) => (&*error).into(),
            CommandError::Stopping => status(Code::Unavailable, "STOPPING", error.to_string()),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::Moved { .. } => Code::Aborted,
            _ => Code::FailedPrecondition,
        };
        let reason = match refusal {
            Refusal::NothingUnderWay => "NOTHING_UNDER_WAY",
            Refusal::NotOpen { .. } => "ROLLOUT_ENDED",
            Refusal::Moved { .. } => "STATE_VERSION_MOVED",
            Refusal::Queued { .. } => "ROLLOUT_QUEUED",
            Refusal::RollingBack { .. } => "ROLLING_BACK",
            Refusal::Paused { .. } => "PAUSED",
            Refusal::NotPaused { .. } => "NOT_PAUSED",
            Refusal::NotHeld { .. } => "NOT_HELD",
            Refusal::Preparing { .. } => "PREPARING",
            Refusal::NoProxy { .. } => "NO_PROXY",
        };
        status(code, reason, refusal.to_string())
    }
}

impl From<LiveError> for Status {
    fn from(error: LiveError) -> Self {
        let (code, reason) = match &error {
            LiveError::AgentIdTaken { .. } => (Code::AlreadyExists, "AGENT_ID_TAKEN"),
            LiveError::TooMany { .. } => (Code::ResourceExhausted, "TOO_MANY"),
            LiveError::BadName { .. } => (Code::InvalidArgument, "BAD_NAME"),
        };
        status(code, reason, error.to_string())
    }
}

impl From<PkiError> for Status {
    fn from(error: PkiError) -> Self {
        let message = chain(&error);
        match error {
            PkiError::BadRequest | PkiError::BadName { .. } => {
                status(Code::InvalidArgument, "BAD_CERTIFICATE_REQUEST", message)
            }
            PkiError::Entropy(_) | PkiError::Failed(_) => status(Code::Internal, "CERTIFICATE_FAILED", message),
        }
    }
}

impl From<HomeError> for Status {
    fn from(error: HomeError) -> Self {
        status(Code::Internal, "DATA_DIRECTORY", chain(&error))
    }
}

/// Each rule that says no is a violation.
fn denied(problems: &[Problem], message: String) -> Status {
    let mut details = ErrorDetails::with_error_info("POLICY_DENIED", DOMAIN, HashMap::new());
    for problem in problems.iter().take(VIOLATIONS_MAX) {
        let rule = problem.message.split(':').next().unwrap_or_default();
        details.add_precondition_failure_violation("policy", rule, cut(&problem.message));
    }
    let hint = HashMap::from([("hint".to_owned(), "change the config, or ask whoever keeps the policies".to_owned())]);
    details.set_error_info("POLICY_DENIED", DOMAIN, hint);
    Status::with_error_details(Code::PermissionDenied, cut(&message), details)
}

fn invalid_config(problems: &[Problem]) -> Status {
    let mut details = ErrorDetails::with_error_info("CONFIG_INVALID", DOMAIN, HashMap::new());
    for problem in problems.iter().take(VIOLATIONS_MAX) {
        let field = if problem.path.is_empty() { &problem.file } else { &problem.path };
        let place = format!("{} line {} column {}: ", problem.path, problem.line, problem.column);
        details.add_bad_request_violation(field.clone(), cut(&format!("{}{}", place.trim_start(), problem.message)));
    }
    let count = problems.len();
    let first = problems.first().map(|problem| {
        let path = if problem.path.is_empty() { String::new() } else { format!(" {}", problem.path) };
        cut(&format!("{}:{}:{}:{path} {}", problem.file, problem.line, problem.column, problem.message))
    });
    let first = first.unwrap_or_default();
    let message = if count > 1 { format!("{first} (and {} more)", count - 1) } else { first };
    Status::with_error_details(Code::InvalidArgument, message, details)
}

fn cut(text: &str) -> String {
    if text.len() <= VIOLATION_BYTES_MAX {
        return text.to_owned();
    }
    let end = (0..=VIOLATION_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}
