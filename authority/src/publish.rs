//! The life of a config change, upper half, top to bottom: words and size → the first answer if the request was made
//! before → parse, every problem → the config's own tests → plan → pack → sign → store → audit → rollout.
//!
//! Signing is outside the transaction; the insert is a compare-and-set on the newest revision.

use prost::Message;
use sealane_model::bundle::{Packed, Resource, pack};
use sealane_model::config::Config;
use sealane_model::ids::{Digest, FleetId, Revision};
use sealane_model::parse::{Reader, parse};
use sealane_model::plan::Plan;
use sealane_model::problem::{Problem, Severity};
use sealane_model::release::{CAPABILITIES, ChangeClass, Partition, Release, SCHEMA};
use sealane_model::selftest::run_tests;
use sealane_model::verify::VerifyError;
use sealane_proto::v1;
use serde_json::json;
use thiserror::Error;

use crate::app::App;
use crate::approve::waits_for;
use crate::home;
use crate::policy::{self, Judgement, PolicyError, Proposal};
use crate::revision::{self, ReadError, find, fresh_view};
use crate::rollout::event::{Event, What};
use crate::rollout::subject::Subject;
use crate::signer::Drawn;
use crate::store::StoreError;
use crate::store::audit::AuditEntry;
use crate::store::idempotency::{Known, Receipt};
use crate::store::release::{NewRelease, ReleaseRow, Stored};

/// Largest config text, in bytes.
pub(crate) const CONFIG_BYTES_MAX: usize = 64 << 20;
/// Longest message, in characters.
const MESSAGE_MAX: usize = 2_000;
/// Longest file name, in bytes.
const FILE_MAX: usize = 255;
/// Longest request id, in characters.
const REQUEST_ID_MAX: usize = 64;
/// The etag that only holds while nothing was published.
const NOTHING_YET: &str = "none";
/// How often a publish without an etag tries again when others publish at the same time.
const TRIES_MAX: usize = 8;
/// Name of a config that came without one.
pub(crate) const DEFAULT_FILE: &str = "config.yaml";

/// What is to be published.
#[derive(Clone, Debug)]
pub(crate) struct PublishOrder {
    pub(crate) text: String,
    pub(crate) file: String,
    pub(crate) message: String,
    /// The etag that was read; `None`: publish whatever is there.
    pub(crate) etag: Option<String>,
    pub(crate) class: ChangeClass,
    pub(crate) hold: bool,
    /// Go on during a freeze.
    pub(crate) override_freeze: bool,
    pub(crate) dry_run: bool,
    pub(crate) supersede: bool,
    pub(crate) actor: String,
    /// Of the caller's token.
    pub(crate) role: &'static str,
    pub(crate) receipt: Option<Receipt>,
}

/// Earlier content, to be published again.
#[derive(Clone, Debug)]
pub(crate) struct RollbackOrder {
    /// Whose content; `None`: the last good one before the newest.
    pub(crate) to: Option<u64>,
    pub(crate) message: String,
    pub(crate) dry_run: bool,
    pub(crate) actor: String,
    pub(crate) receipt: Option<Receipt>,
}

/// Why nothing was published.
#[derive(Debug, Error)]
pub(crate) enum PublishError {
    #[error("the config has {} problem{}", .0.len(), if .0.len() == 1 { "" } else { "s" })]
    Problems(Vec<Problem>),
    #[error("a policy of this authority forbids it: {}", first(.0))]
    Denied(Vec<Problem>),
    #[error("nothing can be published: the policies could not be asked")]
    Policy(#[from] PolicyError),
    #[error("the config has {bytes} bytes, more than the {CONFIG_BYTES_MAX} allowed")]
    TooLarge { bytes: usize },
    #[error("`{field}` {why}")]
    BadWord { field: &'static str, why: &'static str },
    #[error("someone published meanwhile: the newest revision has etag `{now}`, not `{expected}`")]
    EtagMoved { expected: String, now: String },
    #[error("others publish at the same time: try again")]
    Crowded,
    #[error("request id `{0}` was used for another request")]
    RequestIdUsed(String),
    #[error("no revision before the newest has finished its rollout: there is nothing to go back to")]
    NothingGood,
    #[error(
        "agents have seen r{seen} of epoch {epoch}, which this database does not know: it was restored from a backup; \
         stop the authority and run `sealane authority recover --raise-epoch`"
    )]
    Restored { seen: u64, epoch: u32 },
    #[error("the content cannot be packed")]
    Pack(#[source] VerifyError),
    #[error("the keys in the data directory are not enough to sign a release")]
    Sign(#[source] VerifyError),
    #[error("the fleet's plan floor forbids it")]
    PlanFloor(#[source] VerifyError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the work was cut off")]
    CutOff,
}

/// A config without problems, and the warnings about it.
pub(crate) struct Checked {
    pub(crate) config: Config,
    pub(crate) warnings: Vec<Problem>,
    pub(crate) text: String,
}

/// Publishes a config as a new revision.
pub(crate) async fn publish(app: &App, order: PublishOrder) -> Result<v1::PublishResponse, PublishError> {
    let file = file_name(&order.file)?;
    check_words(&order.message, order.receipt.as_ref())?;
    if let Some(answer) = first_answer(app, order.receipt.as_ref()).await? {
        return Ok(answer);
    }
    check_not_restored(app).await?;
    let checked = check(file.clone(), order.text.clone()).await?.map_err(PublishError::Problems)?;
    let plan = checked.config.rollout.unwrap_or_else(|| app.default_plan.clone());
    let judgement = judge(app, &order, &file, &checked.text).await?;
    if !judgement.denials.is_empty() {
        denied(app, &order, &judgement.denials).await?;
        return Err(PublishError::Denied(judgement.denials));
    }
    let config_bytes = checked.text.len() as u64;
    let resource = Resource { kind: "config".to_owned(), name: file.clone(), content: checked.text.into_bytes() };
    let packed = blocking(move || pack(vec![resource])).await?.map_err(PublishError::Pack)?;
    let content = Content { config_bytes, file, manifest: (packed.manifest_digest, packed.manifest.len() as u64) };
    let draft = Draft {
        content,
        packed: Some(packed),
        plan,
        class: order.class,
        message: order.message.clone(),
        hold: order.hold,
        override_freeze: order.override_freeze,
        supersede: order.supersede,
        content_of: None,
        approvals_min: app.approvals_min.max(judgement.approvals_min),
        actor: order.actor.clone(),
        action: "publish",
    };
    let warnings: Vec<v1::Problem> = checked.warnings.iter().map(Into::into).collect();
    let answer = |revision: v1::Revision| v1::PublishResponse {
        etag: revision.digest.clone(),
        revision: Some(revision),
        problems: warnings.clone(),
    };
    append(app, draft, order.etag.as_deref(), order.dry_run, order.receipt, answer).await
}

/// What the policies say of a proposal, compared with what was rolled out last.
pub(crate) async fn judge(app: &App, order: &PublishOrder, file: &str, text: &str) -> Result<Judgement, PublishError> {
    let Some(folder) = app.policy_dir.clone() else { return Ok(Judgement::default()) };
    let previous = match app.store.newest_begun().await? {
        Some(revision) => Some(revision::text(app, &find(app, revision).await?).await?),
        None => None,
    };
    let at = i64::try_from(app.clock.now_ms()).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let proposal = Proposal {
        text: text.to_owned(),
        file: file.to_owned(),
        previous,
        author: order.actor.clone(),
        role: order.role,
        class: class_word(order.class),
        message: order.message.clone(),
        time: at.map(|at| at.to_string()).unwrap_or_default(),
    };
    Ok(blocking(move || policy::judge(Some(&folder), &proposal)).await??)
}

/// A refusal is recorded like a deed.
async fn denied(app: &App, order: &PublishOrder, denials: &[Problem]) -> Result<(), StoreError> {
    if order.dry_run {
        return Ok(());
    }
    app.counters.denied();
    let entry = AuditEntry {
        at_ms: app.clock.now_ms(),
        actor: order.actor.clone(),
        action: "publish_denied",
        subject: String::new(),
        digest: None,
        detail: json!({
            "message": order.message,
            "config_sha256": Digest::of(order.text.as_bytes()).to_string(),
            "rules": denials.iter().map(|one| one.message.clone()).collect::<Vec<_>>(),
        }),
    };
    app.audit(&entry).await
}

fn first(problems: &[Problem]) -> String {
    match problems {
        [] => String::new(),
        [only] => only.message.clone(),
        [first, rest @ ..] => format!("{} (and {} more)", first.message, rest.len()),
    }
}

/// Publishes earlier content as a new revision, straight to all. A rollout under way goes back first.
pub(crate) async fn rollback(app: &App, order: RollbackOrder) -> Result<v1::RollbackResponse, PublishError> {
    check_words(&order.message, order.receipt.as_ref())?;
    if let Some(answer) = first_answer(app, order.receipt.as_ref()).await? {
        return Ok(answer);
    }
    check_not_restored(app).await?;
    let to = match order.to {
        Some(revision) => find(app, revision).await?,
        None => {
            let newest = find(app, 0).await?;
            let good = app.store.completed_before(newest.revision).await?.ok_or(PublishError::NothingGood)?;
            find(app, good).await?
        }
    };
    let source = revision::released(app, &to).await?;
    let message = if order.message.is_empty() { format!("roll back to r{}", to.revision) } else { order.message };
    let draft = Draft {
        content: Content {
            config_bytes: to.config_bytes,
            file: to.file.clone(),
            manifest: (to.manifest_digest, source.release().manifest_bytes),
        },
        packed: None,
        plan: source.release().plan.clone(),
        class: ChangeClass::Revert,
        message,
        hold: false,
        override_freeze: true,
        supersede: true,
        content_of: Some(to.revision),
        approvals_min: 0, // what was approved once, and everybody waits
        actor: order.actor,
        action: "rollback",
    };
    let answer = |revision| v1::RollbackResponse { revision: Some(revision) };
    append(app, draft, None, order.dry_run, order.receipt, answer).await
}

/// Parses and runs the config's own tests, beside the async tasks. The inner error lists every problem.
pub(crate) async fn check(file: String, text: String) -> Result<Result<Checked, Vec<Problem>>, PublishError> {
    if text.len() > CONFIG_BYTES_MAX {
        return Err(PublishError::TooLarge { bytes: text.len() });
    }
    blocking(move || {
        let (config, warnings) = parse(&file, &text, Reader::Fleet)?;
        let failed: Vec<Problem> =
            run_tests(&config).into_iter().map(|problem| Problem { file: file.clone(), ..problem }).collect();
        if failed.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(warnings.into_iter().chain(failed).collect());
        }
        Ok(Checked { config, warnings, text })
    })
    .await
}

/// A file name without its folders: what nodes show in problems.
pub(crate) fn file_name(given: &str) -> Result<String, PublishError> {
    let name = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let name = if name.is_empty() { DEFAULT_FILE } else { name };
    if name.len() > FILE_MAX || name.chars().any(char::is_control) {
        return Err(PublishError::BadWord { field: "file", why: "is too long, or has control characters" });
    }
    Ok(name.to_owned())
}

/// A revision before it has a number.
struct Draft {
    content: Content,
    /// `None`: it is stored already.
    packed: Option<Packed>,
    plan: Plan,
    class: ChangeClass,
    message: String,
    hold: bool,
    override_freeze: bool,
    supersede: bool,
    content_of: Option<u64>,
    /// People beside the author who must approve it.
    approvals_min: u32,
    actor: String,
    action: &'static str,
}

struct Content {
    config_bytes: u64,
    file: String,
    /// Digest and length.
    manifest: (Digest, u64),
}

/// Numbers, signs and stores a draft, then hands it to the rollouts.
async fn append<A: Message + Default>(
    app: &App,
    mut draft: Draft,
    etag: Option<&str>,
    dry_run: bool,
    receipt: Option<Receipt>,
    answer: impl Fn(v1::Revision) -> A,
) -> Result<A, PublishError> {
    for _ in 0..TRIES_MAX {
        let newest = app.store.newest_release().await?;
        let now = newest.as_ref().map_or_else(String::new, |row| row.digest.to_string());
        if let Some(expected) = etag
            && expected != if now.is_empty() { NOTHING_YET } else { now.as_str() }
        {
            return Err(PublishError::EtagMoved { expected: expected.to_owned(), now });
        }
        let (drawn, row) = sign(app, &draft, newest.as_ref()).await?;
        let mut view = fresh_view(app, &row, &draft.plan);
        view.waits_for = waits_for(app, &row.envelope, 0, draft.approvals_min);
        view.approvals_min = draft.approvals_min;
        let waits = !view.waits_for.is_empty();
        if waits {
            "pending".clone_into(&mut view.state);
        }
        let answered = answer(view);
        if dry_run {
            return Ok(answered);
        }
        let queued = Event::new(
            row.created_at_ms,
            What::Queued { hold: draft.hold, supersede: draft.supersede, override_freeze: draft.override_freeze },
        );
        let new = NewRelease {
            audit: audit(&draft, &row),
            newest: newest.map(|row| row.revision),
            event: (queued.what.kind(), queued.to_json()),
            waits: waits.then_some(draft.approvals_min),
            receipt: receipt.clone().map(|receipt| (receipt, answered.encode_to_vec())),
            content: draft.packed.take(),
            row,
        };
        match app.store.publish(&new).await? {
            Stored::Done => {
                if let Some(release) = drawn.verified.filter(|_| !waits) {
                    app.counters.published();
                    app.rollouts.offer(Subject::of(&release), queued).await;
                }
                return Ok(answered);
            }
            Stored::Repeated => return first_answer(app, receipt.as_ref()).await?.ok_or(PublishError::Crowded),
            Stored::Moved => draft.packed = new.content,
        }
    }
    Err(PublishError::Crowded)
}

async fn sign(app: &App, draft: &Draft, newest: Option<&ReleaseRow>) -> Result<(Drawn, ReleaseRow), PublishError> {
    let revision = newest.map_or(0, |row| row.revision) + 1;
    let epoch = home::epoch(&app.store).await?;
    let base = app.board.stable().map(|stable| stable.digest);
    let created_at_ms = app.clock.now_ms();
    let fleet: FleetId = app.signer.fleet().clone();
    let statement = Release {
        fleet,
        epoch,
        revision: Revision(revision),
        partition: Partition::Config,
        manifest_digest: draft.content.manifest.0,
        manifest_bytes: draft.content.manifest.1,
        base,
        capabilities: CAPABILITIES.iter().map(|one| (*one).to_owned()).collect(),
        schema_min: SCHEMA,
        schema_max: SCHEMA,
        plan: draft.plan.clone(),
        change_class: draft.class,
        author: draft.actor.clone(),
        message: draft.message.clone(),
        created_at_unix_ms: i64::try_from(created_at_ms).unwrap_or(i64::MAX),
        producer: concat!("sealane ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let drawn = app.signer.release(&statement).map_err(PublishError::Sign)?;
    if base.is_some() {
        // Agents would refuse it; say so now. The first revision and a roll back are theirs to judge.
        app.signer.plan_floor().admit(&statement).map_err(PublishError::PlanFloor)?;
    }
    let row = ReleaseRow {
        revision,
        epoch: epoch.0,
        digest: drawn.claimed.digest(),
        envelope: drawn.envelope.clone(),
        manifest_digest: statement.manifest_digest,
        base_digest: base,
        change_class: class_word(draft.class).to_owned(),
        author: statement.author,
        message: statement.message,
        file: draft.content.file.clone(),
        config_bytes: draft.content.config_bytes,
        content_of: draft.content_of,
        created_at_ms,
    };
    Ok((drawn, row))
}

fn audit(draft: &Draft, row: &ReleaseRow) -> AuditEntry {
    AuditEntry {
        at_ms: row.created_at_ms,
        actor: draft.actor.clone(),
        action: draft.action,
        subject: Revision(row.revision).to_string(),
        digest: Some(row.digest),
        detail: json!({
            "message": draft.message,
            "file": row.file,
            "change_class": row.change_class,
            "content_of": row.content_of,
            "hold": draft.hold,
            "override_freeze": draft.override_freeze,
            "supersede": draft.supersede,
        }),
    }
}

fn class_word(class: ChangeClass) -> &'static str {
    match class {
        ChangeClass::Standard => "standard",
        ChangeClass::Expedited => "expedited",
        ChangeClass::Sandbox => "sandbox",
        ChangeClass::Revert => "revert",
    }
}

/// The answer that this request got the first time.
pub(crate) async fn first_answer<A: Message + Default>(
    app: &App,
    receipt: Option<&Receipt>,
) -> Result<Option<A>, PublishError> {
    let Some(receipt) = receipt else { return Ok(None) };
    match app.store.known(receipt).await? {
        Known::New => Ok(None),
        Known::Answered(bytes) => {
            let damaged = |_| StoreError::Damaged { what: format!("the answer to request {}", receipt.request_id) };
            Ok(Some(A::decode(bytes.as_slice()).map_err(damaged)?))
        }
        Known::Other => Err(PublishError::RequestIdUsed(receipt.request_id.clone())),
    }
}

fn check_words(message: &str, receipt: Option<&Receipt>) -> Result<(), PublishError> {
    if message.chars().count() > MESSAGE_MAX {
        return Err(PublishError::BadWord { field: "message", why: "has more than 2000 characters" });
    }
    if receipt.is_some_and(|receipt| receipt.request_id.chars().count() > REQUEST_ID_MAX) {
        return Err(PublishError::BadWord { field: "request_id", why: "has more than 64 characters" });
    }
    Ok(())
}

/// An agent that has accepted more than this database knows says that the database was restored.
async fn check_not_restored(app: &App) -> Result<(), PublishError> {
    let newest = app.store.newest_release().await?.map_or(0, |row| row.revision);
    let epoch = home::epoch(&app.store).await?;
    let live = app.live();
    let ahead = live.agents().find(|(_, agent)| (agent.epoch, agent.revision_floor) > (epoch, Revision(newest)));
    match ahead {
        Some((_, agent)) => Err(PublishError::Restored { seen: agent.revision_floor.0, epoch: agent.epoch.0 }),
        None => Ok(()),
    }
}

/// Runs work that takes long beside the async tasks.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PublishError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PublishError::CutOff)
}

/// A receipt for a request that names itself.
pub(crate) fn receipt(method: &'static str, request_id: &str, request: &impl Message) -> Option<Receipt> {
    if request_id.is_empty() {
        return None;
    }
    Some(Receipt { request_id: request_id.to_owned(), method, request: Digest::of(&request.encode_to_vec()) })
}
