//! Freezes: adding, listing, removing. Whether one holds a rollout is the rollout machine's to say.

use sealane_model::ids::Digest;
use sealane_proto::convert::unix_ms;
use sealane_proto::v1;
use serde_json::json;
use tonic::{Code, Status};

use super::status::status;
use crate::app::App;
use crate::fleet::Freeze;
use crate::rollout::view::time;
use crate::store::audit::AuditEntry;

/// Longest reason, in characters.
const REASON_MAX: usize = 500;
/// Freezes at a time.
const FREEZES_MAX: usize = 100;
/// Longest freeze.
const LENGTH_MAX_MS: u64 = 366 * 86_400_000;

/// Adds one.
pub(super) async fn add(app: &App, actor: String, request: &v1::AddFreezeRequest) -> Result<v1::Freeze, Status> {
    let bad = |message: &str| status(Code::InvalidArgument, "BAD_FIELD", message);
    let now_ms = app.clock.now_ms();
    let ms = |time: &prost_types::Timestamp| unix_ms(time).ok().and_then(|ms| u64::try_from(ms).ok());
    let from_ms = match &request.from {
        Some(from) => ms(from).ok_or_else(|| bad("`from` is out of range"))?,
        None => now_ms,
    };
    let until = request.until.as_ref().ok_or_else(|| bad("`until` is missing"))?;
    let until_ms = ms(until).ok_or_else(|| bad("`until` is out of range"))?;
    if until_ms <= from_ms.max(now_ms) {
        return Err(bad("`until` lies before `from`, or in the past"));
    }
    if until_ms - now_ms > LENGTH_MAX_MS {
        return Err(bad("`until` is more than a year away"));
    }
    if request.reason.trim().is_empty() || request.reason.chars().count() > REASON_MAX {
        return Err(bad("a freeze needs a reason of at most 500 characters"));
    }
    if app.store.freezes(now_ms).await?.len() >= FREEZES_MAX {
        return Err(status(Code::ResourceExhausted, "TOO_MANY", "there are 100 freezes: remove some"));
    }
    let reason = request.reason.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let mut freeze = Freeze { id: String::new(), from_ms, until_ms, reason, actor: actor.clone(), created_ms: now_ms };
    let mut change = app.store.write().await?;
    freeze.id = format!("f{}", app.store.add_freeze(&mut change, &freeze).await?);
    let detail = json!({ "from_ms": from_ms, "until_ms": until_ms, "reason": freeze.reason });
    let entry = AuditEntry {
        at_ms: now_ms,
        actor,
        action: "freeze",
        subject: freeze.id.clone(),
        digest: None::<Digest>,
        detail,
    };
    app.store.add_audit(&mut change, &entry).await?;
    app.store.commit(change).await?;
    take_in(app, now_ms).await?;
    Ok(shown(&freeze, now_ms))
}

/// Those that hold now or later.
pub(super) async fn list(app: &App) -> Result<Vec<v1::Freeze>, Status> {
    let now_ms = app.clock.now_ms();
    Ok(app.store.freezes(now_ms).await?.iter().map(|freeze| shown(freeze, now_ms)).collect())
}

/// Removes one.
pub(super) async fn remove(app: &App, actor: String, id: &str) -> Result<(), Status> {
    let now_ms = app.clock.now_ms();
    let short: String = id.chars().take(40).collect();
    let missing = || status(Code::NotFound, "NO_SUCH_FREEZE", format!("there is no freeze `{short}`"));
    let number = id.trim_start_matches('f').parse().map_err(|_| missing())?;
    let mut change = app.store.write().await?;
    if !app.store.remove_freeze(&mut change, number).await? {
        return Err(missing());
    }
    let subject = format!("f{number}");
    let entry = AuditEntry { at_ms: now_ms, actor, action: "unfreeze", subject, digest: None, detail: json!({}) };
    app.store.add_audit(&mut change, &entry).await?;
    app.store.commit(change).await?;
    take_in(app, now_ms).await
}

async fn take_in(app: &App, now_ms: u64) -> Result<(), Status> {
    let freezes = app.store.freezes(now_ms).await?;
    app.live().set_freezes(freezes);
    app.rollouts.wake();
    Ok(())
}

fn shown(freeze: &Freeze, now_ms: u64) -> v1::Freeze {
    v1::Freeze {
        id: freeze.id.clone(),
        from: time(freeze.from_ms),
        until: time(freeze.until_ms),
        reason: freeze.reason.clone(),
        actor: freeze.actor.clone(),
        active: (freeze.from_ms..freeze.until_ms).contains(&now_ms),
    }
}
