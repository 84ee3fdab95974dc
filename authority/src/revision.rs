//! Reading revisions: their text, their view, the difference between two.

use std::collections::HashMap;
use std::time::Duration;

use sealane_model::ids::{Digest, Revision};
use sealane_model::parse::changes::{self, Change};
use sealane_model::parse::{Reader, parse};
use sealane_model::plan::Plan;
use sealane_model::release::{ClaimedRelease, VerifiedRelease};
use sealane_model::trust::Role;
use sealane_model::verify::VerifyError;
use sealane_proto::v1;
use similar::{Algorithm, TextDiff};
use thiserror::Error;

use crate::app::App;
use crate::approve::waits_for;
use crate::rollout::memory::stored_view;
use crate::rollout::view::{state_name, time};
use crate::store::StoreError;
use crate::store::release::ReleaseRow;

/// Lines around a change in a diff.
const CONTEXT_LINES: usize = 3;
/// After this a diff may be coarser than the least one.
const DIFF_TIME: Duration = Duration::from_secs(2);

/// Why a revision could not be read.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error("there is no revision r{0}")]
    Unknown(u64),
    #[error("nothing was published yet")]
    NothingYet,
    #[error("r{0} waits for signatures or approvals and was never rolled out")]
    Waiting(u64),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the content of r{revision} cannot be trusted")]
    Content {
        revision: u64,
        #[source]
        source: VerifyError,
    },
}

/// A revision by number; 0: the newest.
pub(crate) async fn find(app: &App, revision: u64) -> Result<ReleaseRow, ReadError> {
    if revision == 0 {
        return app.store.newest_release().await?.ok_or(ReadError::NothingYet);
    }
    app.store.release(revision).await?.ok_or(ReadError::Unknown(revision))
}

/// The config's text, checked against the signed digests on the way out of the database.
pub(crate) async fn text(app: &App, row: &ReleaseRow) -> Result<String, ReadError> {
    let revision = row.revision;
    let refused = |source| ReadError::Content { revision, source };
    let (manifest, mut chunks) = blobs(app, row).await?;
    let chunk = |digest: &Digest| chunks.remove(digest);
    let resources = match app.signer.verify_release(&row.envelope) {
        Ok(release) => {
            let manifest = release.open_manifest(&manifest).map_err(refused)?;
            manifest.open(chunk).map_err(refused)?.resources().to_vec()
        }
        // One that waits for signatures is shown as what it claims to be.
        Err(error) if !is_waiting(app, row).await? => return Err(refused(error)),
        Err(_) => {
            let claimed = ClaimedRelease::read(&row.envelope).map_err(refused)?;
            claimed.content(&manifest, chunk).map_err(refused)?
        }
    };
    let config = resources.into_iter().find(|resource| resource.kind == "config");
    let config = config.ok_or(refused(VerifyError::Malformed { what: "bundle: there must be exactly one config" }))?;
    String::from_utf8(config.content)
        .map_err(|_| refused(VerifyError::Malformed { what: "bundle: the config is not UTF-8" }))
}

/// Manifest and chunks as they are stored.
pub(crate) async fn blobs(app: &App, row: &ReleaseRow) -> Result<(Vec<u8>, HashMap<Digest, Vec<u8>>), ReadError> {
    let revision = row.revision;
    let gone = || StoreError::Damaged { what: format!("content of revision {revision} is missing") };
    let manifest = app.store.blob(&row.manifest_digest).await?.ok_or_else(gone)?;
    let listed = sealane_model::bundle::listed_chunks(&manifest, &row.manifest_digest)
        .map_err(|source| ReadError::Content { revision, source })?;
    let mut chunks = HashMap::new();
    for digest in listed {
        chunks.insert(digest, app.store.blob(&digest).await?.ok_or_else(gone)?);
    }
    Ok((manifest, chunks))
}

/// Whether a revision was published and not rolled out yet, for want of signatures or approvals.
async fn is_waiting(app: &App, row: &ReleaseRow) -> Result<bool, StoreError> {
    Ok(app.store.pending(row.revision).await?.is_some() && !app.store.has_begun(row.revision).await?)
}

/// A stored release, verified; one that waits is none.
pub(crate) async fn released(app: &App, row: &ReleaseRow) -> Result<VerifiedRelease, ReadError> {
    if is_waiting(app, row).await? {
        return Err(ReadError::Waiting(row.revision));
    }
    let revision = row.revision;
    app.signer.verify_release(&row.envelope).map_err(|source| ReadError::Content { revision, source })
}

/// What operators see of a revision.
pub(crate) async fn view(app: &App, row: &ReleaseRow, with_config: bool) -> Result<v1::Revision, ReadError> {
    let revision = row.revision;
    let state = match app.board.rollout(revision) {
        Some(rollout) => Some(state_name(rollout.state())),
        None => stored_view(&app.store, &app.signer, revision).await?.map(|rollout| state_name(rollout.state())),
    };
    let config_yaml = if with_config { text(app, row).await? } else { String::new() };
    let claimed = ClaimedRelease::read(&row.envelope).map_err(|source| ReadError::Content { revision, source })?;
    let mut view =
        v1::Revision { state: state.unwrap_or_default(), config_yaml, ..fresh_view(app, row, &claimed.release().plan) };
    if let Some(pending) = app.store.pending(revision).await? {
        view.approved_by = app.store.approvals(revision).await?;
        view.approvals_min = pending.approvals_min;
        if !app.store.has_begun(revision).await? {
            let is_over = app.store.newest_begun().await?.is_some_and(|newest| newest > revision);
            if is_over {
                "superseded".clone_into(&mut view.state);
            } else {
                "pending".clone_into(&mut view.state);
                view.waits_for = waits_for(app, &row.envelope, view.approved_by.len(), pending.approvals_min);
            }
        }
    }
    Ok(view)
}

/// The view of a revision that was published this moment.
pub(crate) fn fresh_view(app: &App, row: &ReleaseRow, plan: &Plan) -> v1::Revision {
    let (signed_by, signatures_min) = app.signer.root().signers(&row.envelope, Role::Release);
    let change_class = match row.change_class.as_str() {
        "expedited" => v1::ChangeClass::Expedited,
        "sandbox" => v1::ChangeClass::Sandbox,
        "revert" => v1::ChangeClass::Revert,
        _ => v1::ChangeClass::Standard,
    };
    v1::Revision {
        revision: row.revision,
        name: Revision(row.revision).to_string(),
        epoch: row.epoch,
        partition: v1::Partition::Config.into(),
        digest: row.digest.to_string(),
        base_digest: row.base_digest.map(|digest| digest.to_string()).unwrap_or_default(),
        change_class: change_class.into(),
        author: row.author.clone(),
        message: row.message.clone(),
        created_at: time(row.created_at_ms),
        state: "queued".to_owned(),
        config_bytes: row.config_bytes,
        file: row.file.clone(),
        config_yaml: String::new(),
        plan: Some(plan.into()),
        content_of: row.content_of.unwrap_or(0),
        signed_by: signed_by.into_iter().map(|id| id.0).collect(),
        signatures_min,
        ..Default::default()
    }
}

/// What differs, in the config's own words; `before` is `None` where nothing was published. A text that this version
/// does not read any more counts as nothing.
pub(crate) async fn changes(before: Option<String>, after: String) -> Vec<v1::ConfigChange> {
    let work = tokio::task::spawn_blocking(move || {
        let read = |text: &str| parse("config", text, Reader::Fleet).ok().map(|(config, _)| config);
        let Some(new) = read(&after) else { return Vec::new() };
        let old = before.as_deref().and_then(|text| Some((text, read(text)?)));
        changes::changes(old.as_ref().map(|(text, config)| (*text, config)), (&after, &new))
    });
    let found = work.await.unwrap_or_default();
    let wire = |change: Change| v1::ConfigChange {
        kind: change.kind,
        what: change.what,
        id: change.id,
        path: change.path,
        before: change.before,
        after: change.after,
        line_before: change.line_before,
        line: change.line,
    };
    found.into_iter().map(wire).collect()
}

/// Unified diff; empty: no difference. Runs beside the async tasks: large files take a while.
pub(crate) async fn diff(before: (String, String), after: (String, String)) -> String {
    let work = tokio::task::spawn_blocking(move || {
        let ((before_name, before), (after_name, after)) = (before, after);
        if before == after {
            return String::new();
        }
        TextDiff::configure()
            .algorithm(Algorithm::Myers)
            .timeout(DIFF_TIME)
            .diff_lines(&before, &after)
            .unified_diff()
            .context_radius(CONTEXT_LINES)
            .header(&before_name, &after_name)
            .to_string()
    });
    work.await.unwrap_or_default()
}
