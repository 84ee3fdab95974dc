//! Whether the tables say what the audit log says: a token that was given more than it was made with, a revision that
//! nobody published, a revoked token that is good again. The chain itself is [`crate::store::audit`]'s; that its end was
//! cut off is what agents know, who have seen it.

use std::collections::{BTreeMap, BTreeSet};

use sealane_model::ids::Revision;
use sealane_model::verify::VerifyError;
use serde_json::Value;

use crate::app::App;
use crate::fleet::Agent;
use crate::home::ADMIN_TOKEN_ID;
use crate::store::StoreError;
use crate::store::audit::AuditRow;

/// Entries, and revisions, that are read at a time.
const PAGE: u32 = 1000;
/// Sentences in one answer.
const PROBLEMS_MAX: usize = 100;

/// What the log says that there should be.
#[derive(Default)]
struct Told {
    /// Role and region by token.
    tokens: BTreeMap<String, (String, String)>,
    revoked: BTreeSet<String>,
    /// Digest of each revision that was published.
    published: BTreeMap<String, Vec<u8>>,
}

impl Told {
    fn hear(&mut self, row: AuditRow) {
        match row.action.as_str() {
            "token_create" => {
                let detail: Value = serde_json::from_str(&row.detail).unwrap_or_default();
                let word = |name: &str| detail[name].as_str().unwrap_or_default().to_owned();
                self.tokens.insert(row.subject, (word("role"), word("region")));
            }
            "token_revoke" => {
                self.revoked.insert(row.subject);
            }
            "publish" | "rollback" => {
                self.published.insert(row.subject, row.digest.unwrap_or_default());
            }
            _ => {}
        }
    }
}

/// One sentence for each thing that the log does not know, or knows otherwise.
pub(crate) async fn inspect(app: &App) -> Result<Vec<String>, StoreError> {
    // What is in a table now is in the log by the time that this is read: both are written in one transaction.
    let tokens = app.store.tokens().await?;
    let revisions = revisions(app).await?;
    let told = told(app).await?;
    let mut problems = Vec::new();
    for token in &tokens {
        let (id, role) = (&token.id, &token.role);
        match told.tokens.get(id) {
            None => problems.push(format!("token {id} ({role}) is in no entry: nobody made it by a call")),
            Some((made, region)) if (made, region) != (role, &token.region) => {
                problems.push(format!("token {id} was made with role {made}, and has role {role} now"));
            }
            Some(_) => {}
        }
    }
    // And the other way round.
    let again = app.store.tokens().await?.into_iter();
    let again = again.filter(|token| token.revoked_at_ms.is_none() && told.revoked.contains(&token.id));
    problems.extend(again.map(|token| format!("token {} was revoked, and is good again", token.id)));
    for (name, digest) in &revisions {
        match told.published.get(name) {
            None => problems.push(format!("{name} is in no entry: nobody published it by a call")),
            Some(published) if published != digest => {
                problems.push(format!("{name} is another one than was published"));
            }
            Some(_) => {}
        }
    }
    let cut = VerifyError::AuditRewritten.code();
    let live = app.live();
    let has_seen_more = |agent: &Agent| agent.refused.iter().any(|(code, count)| code.as_str() == cut && *count > 0);
    let witnesses = live.agents().filter(|(_, agent)| has_seen_more(agent));
    problems.extend(witnesses.map(|(id, _)| format!("agent `{id}` has seen entries that are not in the log any more")));
    problems.truncate(PROBLEMS_MAX);
    Ok(problems)
}

/// Name and digest of every revision.
async fn revisions(app: &App) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let rows = app.store.releases_before(before, PAGE).await?;
        all.extend(rows.iter().map(|row| (Revision(row.revision).to_string(), row.digest.to_vec())));
        before = rows.last().map(|row| row.revision);
        if rows.len() < PAGE as usize {
            return Ok(all);
        }
    }
}

/// The whole log.
async fn told(app: &App) -> Result<Told, StoreError> {
    let mut told = Told::default();
    told.tokens.insert(ADMIN_TOKEN_ID.to_owned(), ("admin".to_owned(), String::new()));
    let mut after = 0;
    loop {
        let rows = app.store.audit_after(after, PAGE).await?;
        let is_last = rows.len() < PAGE as usize;
        after = rows.last().map_or(after, |row| u64::try_from(row.sequence).unwrap_or(u64::MAX));
        rows.into_iter().for_each(|row| told.hear(row));
        if is_last {
            return Ok(told);
        }
    }
}
