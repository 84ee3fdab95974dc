//! Sandbox routes of a fleet: a change becomes the next signed revision of the sandbox partition, told to every agent.
//!
//! There are no stages and no gates: a revision of this partition holds sandbox routes and nothing else, and agents and
//! proxies see to that themselves. Route, revision, content and audit entry are one transaction.

use std::sync::Arc;
use std::time::Duration;

use sealane_model::bundle::{Resource, SANDBOX_KIND, pack};
use sealane_model::ids::Revision;
use sealane_model::plan::{Plan, StagePlan};
use sealane_model::release::{CAPABILITIES, ChangeClass, Partition, Release, SCHEMA};
use sealane_model::sandbox::{SandboxRoute, encode};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Actor, Change, Changed, Desk, NewRoute, SandboxBook, SandboxError, in_order};
use crate::clock::Clock;
use crate::home;
use crate::rollout::board::{Board, SandboxHead};
use crate::signer::Signer;
use crate::store::audit::AuditEntry;
use crate::store::sandbox::SandboxReleaseRow;
use crate::store::{Store, StoreError};

/// The one who changes the fleet's sandbox routes.
#[derive(Debug)]
pub(crate) struct FleetDesk {
    /// Held through a change: one at a time, in the order of revisions.
    book: Mutex<SandboxBook>,
    store: Store,
    signer: Arc<Signer>,
    board: Arc<Board>,
    clock: Clock,
}

/// Between two looks at what expires, unless something does before.
const EXPIRY_LOOK: Duration = Duration::from_secs(1);

impl FleetDesk {
    /// Reads the routes and tells the agents of the newest revision.
    pub(crate) async fn open(
        store: Store,
        signer: Arc<Signer>,
        board: Arc<Board>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let book = SandboxBook::of_fleet(store.clone(), clock).await?;
        let newest = store.newest_sandbox_release().await?;
        let epoch = home::epoch(&store).await?;
        let is_current = newest.as_ref().is_none_or(|row| row.epoch == epoch.0);
        let desk = Self { book: Mutex::new(book), store, signer, board, clock };
        match newest {
            Some(row) if is_current => desk.tell(&row),
            None => {}
            // After a restore the fleet counts afresh: what agents saw in the epoch before is above what is known here.
            Some(_) => desk.publish_again().await,
        }
        Ok(desk)
    }

    /// The trust root changed: what is offered is signed by the keys of today.
    pub(crate) async fn sign_again(&self) {
        let offered = self.board.desired().sandbox.clone();
        if offered.is_some_and(|head| !self.signer.vouches(&head.release)) {
            self.publish_again().await;
        }
    }

    /// Whether there are no routes.
    pub(crate) async fn is_empty(&self) -> bool {
        self.book.lock().await.len() == 0
    }

    /// The same routes as a new revision.
    async fn publish_again(&self) {
        let mut book = self.book.lock().await;
        let by = Actor("authority".to_owned());
        let again = match book.change().await {
            Ok(change) => self.publish(&mut book, change, &by, "sandbox_again", "sandboxes", Value::Null).await,
            Err(error) => Err(error),
        };
        if let Err(error) = again {
            error!(error = crate::error::chain(&error), "sandbox routes not signed anew");
        }
    }

    /// Ends routes whose time is over, until `stop`.
    pub(crate) async fn expire(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EXPIRY_LOOK) => {}
            }
            let mut book = self.book.lock().await;
            if book.next_expiry() != Some(Duration::ZERO) {
                continue;
            }
            let expired = match book.expire().await {
                Ok((count, Some(change))) => {
                    let by = Actor("authority".to_owned());
                    let detail = json!({ "count": count });
                    self.publish(&mut book, change, &by, "sandbox_expired", "sandboxes", detail).await
                }
                Ok((_, None)) => continue,
                Err(error) => Err(error),
            };
            if let Err(error) = expired {
                error!(error = crate::error::chain(&error), "sandbox routes not expired");
            }
        }
    }

    /// A route by id.
    pub(crate) async fn route(&self, id: u64) -> Option<SandboxRoute> {
        self.book.lock().await.route(id).cloned()
    }

    /// Signs what the routes will be, makes both durable, tells the agents. The revision.
    async fn publish(
        &self,
        book: &mut SandboxBook,
        mut change: Change,
        by: &Actor,
        action: &'static str,
        subject: &str,
        detail: Value,
    ) -> Result<u64, SandboxError> {
        let content = encode(book.after(&change));
        let routes = book.after(&change).count();
        let resource = Resource { kind: SANDBOX_KIND.to_owned(), name: "routes.json".to_owned(), content };
        let packed = tokio::task::spawn_blocking(move || pack(vec![resource])).await;
        let packed = match packed {
            Ok(packed) => packed.map_err(|error| SandboxError::Unservable(error.to_string()))?,
            Err(_) => return Err(SandboxError::Stopping),
        };
        let newest = self.store.newest_sandbox_release().await?;
        let epoch = home::epoch(&self.store).await?;
        let revision = newest.map_or(0, |row| row.revision) + 1;
        let now_ms = self.clock.now_ms();
        let statement = Release {
            fleet: self.signer.fleet().clone(),
            epoch,
            revision: Revision(revision),
            partition: Partition::Sandbox,
            manifest_digest: packed.manifest_digest,
            manifest_bytes: packed.manifest.len() as u64,
            base: None,
            capabilities: CAPABILITIES.iter().map(|one| (*one).to_owned()).collect(),
            schema_min: SCHEMA,
            schema_max: SCHEMA,
            plan: at_once(),
            change_class: ChangeClass::Sandbox,
            author: by.0.clone(),
            message: action.to_owned(),
            created_at_unix_ms: i64::try_from(now_ms).unwrap_or(i64::MAX),
            producer: concat!("sealane ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let not_signed = |error: sealane_model::verify::VerifyError| SandboxError::NotSigned(error.to_string());
        self.signer.plan_floor().admit(&statement).map_err(not_signed)?;
        let drawn = self.signer.release(&statement).map_err(not_signed)?;
        // A person cannot sign each route of a sandbox: with a second key asked for, there are no sandbox routes.
        let release = drawn.verified.ok_or_else(|| {
            let why = "releases of this fleet need signatures of people, and sandbox routes cannot wait for them";
            SandboxError::NotSigned(why.to_owned())
        })?;
        let row = SandboxReleaseRow {
            revision,
            epoch: epoch.0,
            digest: release.digest(),
            envelope: release.envelope().clone(),
        };
        self.store.add_sandbox_release(&mut change.write, &row, &packed).await?;
        let entry = AuditEntry {
            at_ms: now_ms,
            actor: by.0.clone(),
            action,
            subject: subject.to_owned(),
            digest: Some(row.digest),
            detail: json!({ "sandbox_revision": revision, "routes": routes, "change": detail }),
        };
        self.store.add_audit(&mut change.write, &entry).await?;
        book.commit(change).await?;
        self.tell(&row);
        info!(revision, action, subject, "sandbox revision published");
        Ok(revision)
    }

    fn tell(&self, row: &SandboxReleaseRow) {
        self.board.desire_sandbox(SandboxHead {
            revision: Revision(row.revision),
            digest: row.digest,
            release: row.envelope.clone(),
        });
    }
}

impl Desk for FleetDesk {
    async fn add(&self, route: NewRoute, by: Actor) -> Result<Changed<u64>, SandboxError> {
        let mut book = self.book.lock().await;
        let detail = json!({
            "sandbox_id": route.sandbox_id, "pattern": route.pattern, "target_url": route.target_url,
        });
        let (id, change) = book.add(route).await?;
        let subject = format!("sandbox route {id}");
        let revision = self.publish(&mut book, change, &by, "sandbox_add", &subject, detail).await?;
        Ok(Changed { value: id, revision: Some(revision) })
    }

    async fn list(&self) -> Result<Vec<SandboxRoute>, SandboxError> {
        Ok(in_order(self.book.lock().await.routes()))
    }

    async fn delete(&self, id: u64, by: Actor) -> Result<Changed<()>, SandboxError> {
        let mut book = self.book.lock().await;
        let (_, change) = book.delete(&[id]).await?;
        let change = change.ok_or(SandboxError::NotFound)?;
        let subject = format!("sandbox route {id}");
        let revision = self.publish(&mut book, change, &by, "sandbox_delete", &subject, Value::Null).await?;
        Ok(Changed { value: (), revision: Some(revision) })
    }

    async fn delete_sandbox(&self, sandbox_id: String, by: Actor) -> Result<Changed<u64>, SandboxError> {
        let mut book = self.book.lock().await;
        let (count, change) = book.delete(&book.of_sandbox(&sandbox_id)).await?;
        let Some(change) = change else { return Ok(Changed { value: 0, revision: None }) };
        let subject = format!("sandbox {sandbox_id}");
        let detail = json!({ "count": count });
        let revision = self.publish(&mut book, change, &by, "sandbox_delete_all", &subject, detail).await?;
        Ok(Changed { value: count, revision: Some(revision) })
    }

    async fn reload(&self, by: Actor) -> Result<Changed<()>, SandboxError> {
        let mut book = self.book.lock().await;
        book.reload().await?;
        let change = book.change().await?;
        let revision = self.publish(&mut book, change, &by, "sandbox_reload", "sandboxes", Value::Null).await?;
        Ok(Changed { value: (), revision: Some(revision) })
    }
}

/// Straight to all.
fn at_once() -> Plan {
    Plan {
        stages: vec![StagePlan { name: "all".to_owned(), fleet_percent: 100.0, bake: Duration::ZERO }],
        gates: Vec::new(),
        final_bake: Duration::ZERO,
        ..Plan::default()
    }
}
