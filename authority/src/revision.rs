//! Reading revisions: their text, their view, the difference between two.

use std::collections::HashMap;
use std::time::Duration;

use sealane_model::ids::Revision;
use sealane_model::plan::Plan;
use sealane_model::verify::VerifyError;
use sealane_proto::v1;
use similar::{Algorithm, TextDiff};
use thiserror::Error;

use crate::app::App;
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
    let release = app.signer.verify_release(&row.envelope).map_err(refused)?;
    let gone = || StoreError::Damaged { what: format!("content of revision {revision} is missing") };
    let manifest = app.store.blob(&row.manifest_digest).await?.ok_or_else(gone)?;
    let manifest = release.open_manifest(&manifest).map_err(refused)?;
    let mut chunks = HashMap::new();
    for digest in manifest.chunks() {
        chunks.insert(digest, app.store.blob(&digest).await?.ok_or_else(gone)?);
    }
    let bundle = manifest.open(|digest| chunks.remove(digest)).map_err(refused)?;
    let (_, text) = bundle.config().map_err(refused)?;
    Ok(text.to_owned())
}

/// What operators see of a revision.
pub(crate) async fn view(app: &App, row: &ReleaseRow, with_config: bool) -> Result<v1::Revision, ReadError> {
    let state = match app.board.rollout(row.revision) {
        Some(rollout) => Some(rollout.state()),
        None => stored_view(&app.store, &app.signer, row.revision).await?.map(|rollout| rollout.state()),
    };
    let config_yaml = if with_config { text(app, row).await? } else { String::new() };
    let revision = row.revision;
    let release = app.signer.verify_release(&row.envelope).map_err(|source| ReadError::Content { revision, source })?;
    Ok(v1::Revision {
        state: state.map(state_name).unwrap_or_default(),
        config_yaml,
        ..fresh_view(row, &release.release().plan)
    })
}

/// The view of a revision that was published this moment.
pub(crate) fn fresh_view(row: &ReleaseRow, plan: &Plan) -> v1::Revision {
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
    }
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
