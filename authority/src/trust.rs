//! Who may sign in this fleet, and how that changes: the next trust root is made, signed as far as the keys here go, and
//! takes effect when its root thresholds, those of today and its own, are met.
//!
//! It does not know how agents take a root in; they walk the chain. Invariant: a root that is in force is stored, and the
//! keys here are enough for its timestamp role, so that the fleet can always be told.

use sealane_model::envelope::Envelope;
use sealane_model::ids::Epoch;
use sealane_model::keys::{KeyId, PublicKey, SigningKey};
use sealane_model::trust::{PlanFloor, Role, RoleKeys, RootDocument, RootKey, TrustRoot};
use sealane_model::verify::VerifyError;
use sealane_proto::v1;
use serde_json::json;
use thiserror::Error;

use crate::app::App;
use crate::home::{self, HomeError};
use crate::store::StoreError;
use crate::store::audit::AuditEntry;

mod carry;

use carry::{Carried, carry};
pub(crate) use carry::{Lacking, is_offered, lacking};

/// Longest comment of a key, in characters.
const COMMENT_MAX: usize = 200;

/// What is to change.
#[derive(Clone, Debug, Default)]
pub(crate) struct RotateOrder {
    pub(crate) replace_held_keys: bool,
    pub(crate) add: Vec<(PublicKey, Vec<Role>, String)>,
    pub(crate) remove: Vec<KeyId>,
    pub(crate) thresholds: Vec<(Role, u32)>,
    pub(crate) plan_floor: Option<PlanFloor>,
    pub(crate) epoch_max: Option<Epoch>,
    /// In force although it does not vouch for what the fleet serves.
    pub(crate) even_if_unsigned: bool,
    pub(crate) dry_run: bool,
}

/// A next root.
#[derive(Clone, Debug)]
pub(crate) struct Rotated {
    pub(crate) version: u32,
    pub(crate) envelope: Envelope,
    pub(crate) applied: bool,
    /// Why not.
    pub(crate) missing: Vec<String>,
}

/// Why the trust root stays as it is.
#[derive(Debug, Error)]
pub(crate) enum TrustError {
    #[error("`{field}` {why}")]
    BadField { field: &'static str, why: String },
    #[error("nothing would change")]
    Nothing,
    #[error("no key of the trust root has the id `{0}`")]
    NoSuchKey(String),
    #[error("the new trust root would not be sound")]
    Unsound(#[source] VerifyError),
    #[error(
        "the keys here would not be enough for the timestamp role, so the fleet could not be told any more: leave that \
         role to the authority's own key"
    )]
    NoTimestampKey,
    #[error(
        "trust root version {version} would not vouch for what the fleet is offered, so agents that start anew could \
         take nothing in: {}",
        sentences(lacking)
    )]
    Stranded { version: u32, lacking: Vec<Lacking> },
    #[error(
        "the fleet has sandbox routes, and with more than one release key asked for nobody could change or end them any \
         more: remove them first (`sealane sandbox list`)"
    )]
    SandboxRoutes,
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes the next root, and puts it in force when the keys here are enough.
pub(crate) async fn rotate(app: &App, order: RotateOrder, actor: &str) -> Result<Rotated, TrustError> {
    let _one_at_a_time = app.trust_change.lock().await;
    let newest = app.signer.root();
    let now_ms = app.clock.now_ms();
    let (document, fresh) = next_document(&newest, &app.signer.held(), &order, now_ms)?;
    let envelope = app.signer.sign_root(&document, &fresh);
    let rotated =
        |applied, missing| Rotated { version: document.version, envelope: envelope.clone(), applied, missing };
    RootDocument::claimed(&envelope).map_err(TrustError::Unsound)?;
    let mut held: Vec<KeyId> = app.signer.held();
    held.extend(fresh.iter().map(|key| key.public().id()));
    check_timestamp_role(&document, &held)?;
    let here = home::keys(&app.folder)?;
    let root = match newest.next(&envelope) {
        Ok(root) => root,
        Err(VerifyError::ThresholdNotMet { .. } | VerifyError::Unsigned { .. }) => {
            if !order.dry_run {
                home::write_keys(&app.folder, &fresh)?; // the private halves must be there when the root comes back
            }
            let mut missing = missing_signatures(&newest, &document, &envelope);
            let keys: Vec<&SigningKey> = here.iter().chain(&fresh).collect();
            missing.extend(carry(app, &document, &keys).await?.lacking.iter().map(ToString::to_string));
            return Ok(rotated(false, missing));
        }
        Err(error) => return Err(TrustError::Unsound(error)),
    };
    let keys: Vec<&SigningKey> = here.iter().chain(&fresh).collect();
    let carried = take_along(app, root.document(), &keys, order.even_if_unsigned).await?;
    if !order.dry_run {
        home::write_keys(&app.folder, &fresh)?;
        put_in_force(app, root, carried, actor, now_ms).await?;
    }
    Ok(rotated(!order.dry_run, Vec::new()))
}

/// Takes in a next root that was signed elsewhere. The one in force may come again.
pub(crate) async fn put(
    app: &App,
    envelope: &Envelope,
    even_if_unsigned: bool,
    actor: &str,
) -> Result<u32, TrustError> {
    let _one_at_a_time = app.trust_change.lock().await;
    let newest = app.signer.root();
    if newest.envelope().payload == envelope.payload {
        return Ok(newest.document().version);
    }
    let root = newest.next(envelope).map_err(TrustError::Unsound)?;
    let keys = home::keys(&app.folder)?;
    let held: Vec<KeyId> = keys.iter().map(|key| key.public().id()).collect();
    check_timestamp_role(root.document(), &held)?;
    let carried = take_along(app, root.document(), &keys.iter().collect::<Vec<_>>(), even_if_unsigned).await?;
    put_in_force(app, root, carried, actor, app.clock.now_ms()).await
}

/// What the fleet is offered must be good under the next root, unless a person says that it cannot wait.
async fn take_along(
    app: &App,
    next: &RootDocument,
    keys: &[&SigningKey],
    even_if_unsigned: bool,
) -> Result<Carried, TrustError> {
    let carried = carry(app, next, keys).await?;
    if even_if_unsigned {
        return Ok(carried);
    }
    if !carried.lacking.is_empty() {
        return Err(TrustError::Stranded { version: next.version, lacking: carried.lacking });
    }
    if !alone(next, keys, Role::Release) && !app.sandboxes.is_empty().await {
        return Err(TrustError::SandboxRoutes);
    }
    Ok(carried)
}

/// Whether `keys` are enough for a role.
fn alone(document: &RootDocument, keys: &[&SigningKey], role: Role) -> bool {
    let role = document.roles.iter().find(|one| one.role == role);
    let held = |role: &RoleKeys| keys.iter().filter(|key| role.key_ids.contains(&key.public().id())).count();
    role.is_some_and(|role| held(role) >= role.threshold as usize)
}

fn sentences(lacking: &[Lacking]) -> String {
    lacking.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

async fn put_in_force(
    app: &App,
    root: TrustRoot,
    carried: Carried,
    actor: &str,
    now_ms: u64,
) -> Result<u32, TrustError> {
    let document = root.document();
    let version = document.version;
    let entry = AuditEntry {
        at_ms: now_ms,
        actor: actor.to_owned(),
        action: "root_rotate",
        subject: format!("root {version}"),
        digest: Some(sealane_model::ids::Digest::of(&root.envelope().payload)),
        detail: json!({
            "keys": document.keys.iter().map(|one| one.key.id().0).collect::<Vec<_>>(),
            "roles": document.roles.iter().map(|one| json!({
                "role": one.role.as_str(), "threshold": one.threshold,
                "keys": one.key_ids.iter().map(|id| id.0.clone()).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "signed_by": app.signer.root().signers(root.envelope(), Role::Root).0.iter().map(|id| id.0.clone()).collect::<Vec<_>>(),
            "carried": carried.signatures.iter().map(|(revision, signature)| json!({
                "revision": revision, "signed_by": signature.key_id.0,
            })).collect::<Vec<_>>(),
            "lacking": carried.lacking.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }),
    };
    let mut write = app.store.write().await?;
    app.store.add_root(&mut write, version, root.envelope()).await?;
    for (revision, signature) in &carried.signatures {
        app.store.add_signature(&mut write, *revision, signature, actor, now_ms).await?;
    }
    app.store.add_audit(&mut write, &entry).await?;
    app.store.commit(write).await?;
    // Those of the root before stay in memory until agents have been told of the next.
    let keys = home::keys(&app.folder)?;
    app.signer.rotate(keys, root.clone());
    home::write_trust(&app.folder, &root)?;
    home::retire_keys(&app.folder, &root)?;
    app.rollouts.refresh().await;
    app.sandboxes.sign_again().await;
    tracing::info!(version, "a new trust root is in force");
    Ok(version)
}

/// What the fleet trusts now, for people.
pub(crate) async fn facts(app: &App) -> Result<v1::GetTrustResponse, StoreError> {
    let (root, held) = (app.signer.root(), app.signer.held());
    let document = root.document();
    let key = |one: &RootKey| {
        let id = one.key.id();
        let roles = document.roles.iter().filter(|role| role.key_ids.contains(&id));
        v1::TrustedKey {
            public_key: one.key.to_bytes().to_vec(),
            roles: roles.map(|role| role.role.as_str().to_owned()).collect(),
            offline: one.offline,
            comment: one.comment.clone(),
            held: held.contains(&id),
            key_id: id.0,
        }
    };
    Ok(v1::GetTrustResponse {
        fleet_id: root.fleet().0.clone(),
        version: document.version,
        keys: document.keys.iter().map(key).collect(),
        roles: document
            .roles
            .iter()
            .map(|one| v1::TrustRole {
                name: one.role.as_str().to_owned(),
                key_ids: one.key_ids.iter().map(|id| id.0.clone()).collect(),
                threshold: one.threshold,
            })
            .collect(),
        plan_floor: Some(wire_floor(&document.plan_floor)),
        epoch_max: document.epoch_max.map_or(0, |epoch| epoch.0),
        roots: app.signer.roots().iter().map(|root| root.envelope().into()).collect(),
        unprotected: unprotected(document, &held, app.approvals_min),
        approvals_min: app.approvals_min,
        lacking: lacking(app).await?.iter().map(ToString::to_string).collect(),
    })
}

/// What a set-up does not protect from: one sentence each.
pub(crate) fn unprotected(document: &RootDocument, held: &[KeyId], approvals_min: u32) -> Vec<String> {
    let alone = |role: Role| {
        let keys = document.roles.iter().find(|one| one.role == role);
        keys.is_some_and(|keys| keys.key_ids.iter().filter(|id| held.contains(id)).count() >= keys.threshold as usize)
    };
    let mut sentences = Vec::new();
    if alone(Role::Root) {
        sentences.push(
            "the root key lies in the authority's data directory: whoever copies that directory can replace every key \
             (`sealane key generate`, then `sealane key rotate --add-root FILE --remove ID` keeps it elsewhere)",
        );
    }
    if alone(Role::Release) {
        sentences.push(
            "the authority alone can sign a release: whoever takes it over can publish any config (`sealane key rotate \
             --add-release FILE --threshold release=2` asks a person's signature for each revision)",
        );
    }
    if document.plan_floor == PlanFloor::default() {
        sentences.push(
            "the trust root has no plan floor: whoever takes the authority over can skip the canary (`sealane key rotate \
             --plan-floor stages=2,bake=5m,first=5`)",
        );
    }
    if approvals_min == 0 {
        sentences.push(
            "one person with a publisher's token can publish alone (`sealane authority --require-approvals 1` asks a \
             second one)",
        );
    }
    sentences.into_iter().map(str::to_owned).collect()
}

/// The document that follows `newest`, and the keys that were made for it.
pub(crate) fn next_document(
    newest: &TrustRoot,
    held: &[KeyId],
    order: &RotateOrder,
    now_ms: u64,
) -> Result<(RootDocument, Vec<SigningKey>), TrustError> {
    let mut document = newest.document().clone();
    document.version += 1;
    document.created_at_unix_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
    let mut fresh = Vec::new();
    if order.replace_held_keys {
        for one in document.keys.iter_mut().filter(|one| held.contains(&one.key.id())) {
            let key = home::new_key()?;
            let (before, after) = (one.key.id(), key.public().id());
            one.key = key.public();
            let ids = document.roles.iter_mut().flat_map(|role| &mut role.key_ids);
            ids.filter(|id| **id == before).for_each(|id| id.clone_from(&after));
            fresh.push(key);
        }
    }
    for (key, roles, comment) in &order.add {
        if comment.chars().count() > COMMENT_MAX {
            let why = format!("has more than {COMMENT_MAX} characters");
            return Err(TrustError::BadField { field: "comment", why });
        }
        let id = key.id();
        if !document.keys.iter().any(|one| one.key == *key) {
            document.keys.push(RootKey { key: key.clone(), offline: true, comment: comment.clone() });
        }
        for role in document.roles.iter_mut().filter(|one| roles.contains(&one.role)) {
            if !role.key_ids.contains(&id) {
                role.key_ids.push(id.clone());
            }
        }
    }
    for id in &order.remove {
        remove_key(&mut document, id)?;
    }
    for (role, threshold) in &order.thresholds {
        document.roles.iter_mut().filter(|one| one.role == *role).for_each(|one| one.threshold = *threshold);
    }
    if let Some(floor) = &order.plan_floor {
        document.plan_floor = floor.clone();
    }
    if let Some(epoch) = order.epoch_max {
        document.epoch_max = Some(epoch);
    }
    let same = RootDocument {
        version: newest.document().version,
        created_at_unix_ms: newest.document().created_at_unix_ms,
        ..document.clone()
    };
    if same == *newest.document() {
        return Err(TrustError::Nothing);
    }
    Ok((document, fresh))
}

/// A key goes out of every role; one whose id begins so is meant too, as long as there is only one.
fn remove_key(document: &mut RootDocument, id: &KeyId) -> Result<(), TrustError> {
    let matching = |one: &&RootKey| id.0.len() >= 8 && one.key.id().0.starts_with(&id.0);
    let mut found = document.keys.iter().filter(matching).map(|one| one.key.id());
    let (Some(id), None) = (found.next(), found.next()) else { return Err(TrustError::NoSuchKey(id.0.clone())) };
    document.keys.retain(|one| one.key.id() != id);
    document.roles.iter_mut().for_each(|role| role.key_ids.retain(|one| *one != id));
    Ok(())
}

/// The fleet must be told something every few seconds: that role cannot wait for people.
fn check_timestamp_role(document: &RootDocument, held: &[KeyId]) -> Result<(), TrustError> {
    let role = document.roles.iter().find(|one| one.role == Role::Timestamp);
    let enough =
        role.is_some_and(|role| role.key_ids.iter().filter(|id| held.contains(id)).count() >= role.threshold as usize);
    if enough { Ok(()) } else { Err(TrustError::NoTimestampKey) }
}

fn missing_signatures(newest: &TrustRoot, document: &RootDocument, envelope: &Envelope) -> Vec<String> {
    let (signed, due) = newest.signers(envelope, Role::Root);
    let mut missing = Vec::new();
    if signed.len() < due as usize {
        let before = newest.document().version;
        missing.push(format!("{} of {due} root keys of version {before} have signed", signed.len()));
    }
    let own = document.roles.iter().find(|one| one.role == Role::Root);
    if let Some(own) = own {
        let signed = envelope.signatures.iter().filter(|one| own.key_ids.contains(&one.key_id)).count();
        if signed < own.threshold as usize {
            missing
                .push(format!("{signed} of {} root keys of version {} have signed", own.threshold, document.version));
        }
    }
    missing
}

/// The floor on the wire.
pub(crate) fn wire_floor(floor: &PlanFloor) -> v1::PlanFloor {
    v1::PlanFloor {
        stages_min: floor.stages_min,
        bake_ms_min: u64::try_from(floor.bake_min.as_millis()).unwrap_or(u64::MAX),
        first_percent_max: floor.first_share_max_bp.map_or(0.0, |bp| f64::from(bp) / 100.0),
        change_classes: floor.change_classes.iter().map(|class| v1::ChangeClass::from(*class).into()).collect(),
    }
}
