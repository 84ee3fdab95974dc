//! Taking a member's certificates back: every one that was issued to its name until now. They are listed to the agents,
//! who tell their proxies; who shows one is turned away, and its open streams end.
//!
//! A member that is to come back enrols again with a token. It does not revoke tokens: it says which ones would let it.

use sealane_node::member::Role;
use sealane_node::revoked::LIST_MAX;
use sealane_proto::v1;
use serde_json::json;
use tonic::{Code, Status};
use tracing::warn;

use crate::app::App;
use crate::pki;
use crate::service::status::status;
use crate::store::StoreError;
use crate::store::audit::AuditEntry;
use crate::store::revoked::IssuedCertificate;
use crate::store::token::TokenRow;

/// What is to be taken back.
struct Target {
    role: Role,
    node: String,
    certificates: Vec<IssuedCertificate>,
}

/// Takes back what was issued to a name.
pub(crate) async fn revoke(
    app: &App,
    actor: String,
    request: v1::FleetServiceRevokeRequest,
) -> Result<v1::FleetServiceRevokeResponse, Status> {
    let now_ms = app.clock.now_ms();
    let target = find(app, &request, now_ms).await?;
    let region = target.certificates.last().map(|last| last.region.clone()).unwrap_or_default();
    let known = app.auth.revoked();
    let new: Vec<&IssuedCertificate> =
        target.certificates.iter().filter(|one| !known.contains_key(&one.fingerprint)).collect();
    if known.len() + new.len() > LIST_MAX {
        let message = format!("{LIST_MAX} certificates are revoked already; the oldest go as they end");
        return Err(status(Code::ResourceExhausted, "TOO_MANY", message));
    }
    if !request.dry_run && !new.is_empty() {
        let end_of = |one: &IssuedCertificate| pki::end_at_latest_ms(target.role, one.issued_at_ms);
        let mut change = app.store.write().await?;
        for one in &new {
            let (whose, by) = ((target.role, target.node.as_str()), (now_ms, actor.as_str()));
            app.store.revoke_certificate(&mut change, one.fingerprint, whose, end_of(one), by).await?;
        }
        let fingerprints: Vec<String> = new.iter().map(|one| one.fingerprint.to_string()).collect();
        let entry = AuditEntry {
            at_ms: now_ms,
            actor,
            action: "revoke",
            subject: target.node.clone(),
            digest: None,
            detail: json!({ "role": target.role.as_str(), "region": region, "certificates": fingerprints }),
        };
        app.store.add_audit(&mut change, &entry).await?;
        app.store.commit(change).await?;
        enforce(app).await?;
        if target.role == Role::Proxy {
            app.live().send_away(&target.node);
        }
        app.rollouts.wake();
        warn!(node = target.node, role = target.role.as_str(), certificates = new.len(), "certificates revoked");
    }
    let opens = |row: &&TokenRow| {
        let lives = row.revoked_at_ms.is_none() && row.expires_at_ms.is_none_or(|end| end > now_ms.cast_signed());
        lives && row.role == target.role.as_str() && row.region == region
    };
    let tokens = app.store.tokens().await?;
    Ok(v1::FleetServiceRevokeResponse {
        role: target.role.as_str().to_owned(),
        certificates: u32::try_from(new.len()).unwrap_or(u32::MAX),
        tokens: tokens.iter().filter(opens).map(crate::service::fleet::token).collect(),
        region,
    })
}

/// Reads what is revoked and has it kept to: here, and by every agent.
pub(crate) async fn enforce(app: &App) -> Result<(), StoreError> {
    let list = app.store.revoked_certificates(app.clock.now_ms()).await?;
    app.auth.set_revoked(list.clone());
    app.board.desire_revoked(list);
    Ok(())
}

async fn find(app: &App, request: &v1::FleetServiceRevokeRequest, now_ms: u64) -> Result<Target, Status> {
    let bad = |message: String| status(Code::InvalidArgument, "BAD_FIELD", message);
    let roles = [Role::Agent, Role::Proxy];
    let asked = roles.into_iter().filter(|role| request.role.is_empty() || role.as_str() == request.role);
    let mut found = Vec::new();
    for role in asked {
        let since_ms = now_ms.saturating_sub(pki::end_at_latest_ms(role, 0));
        let certificates = app.store.issued_certificates(role, &request.node, since_ms).await?;
        found.push(Target { role, node: request.node.clone(), certificates });
    }
    if found.is_empty() {
        return Err(bad(format!("there is no role `{}`; there are agent and proxy", request.role)));
    }
    found.retain(|target| !target.certificates.is_empty());
    let node = &request.node;
    match (found.pop(), found.pop()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(bad(format!("`{node}` is an agent and a proxy: say which by `role`"))),
        (None, _) => {
            let message = format!(
                "no certificate that still holds was issued to `{node}`: nodes on their authority's or agent's own machine have none"
            );
            Err(status(Code::NotFound, "NO_CERTIFICATE", message))
        }
    }
}
