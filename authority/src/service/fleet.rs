//! The nodes of a fleet, and its tokens.

use std::sync::Arc;
use std::time::Duration;

use sealane_model::ids::{Digest, ProxyId};
use sealane_proto::convert::duration;
use sealane_proto::v1;
use sealane_proto::v1::fleet_service_server::FleetService;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::status::status;
use super::{caller, page_size, question};
use crate::app::App;
use crate::auth::{Role, TOKENS_MAX};
use crate::fleet::is_name;
use crate::home::new_secret;
use crate::overview::{self, Expected};
use crate::revoke;
use crate::rollout::view::time;
use crate::store::audit::AuditEntry;
use crate::store::token::TokenRow;

/// Longest comment of a token, in characters.
const COMMENT_MAX: usize = 200;
/// Between two looks of a watch.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Fleet(pub(crate) Arc<App>);

#[tonic::async_trait]
impl FleetService for Fleet {
    async fn get_fleet(&self, _: Request<v1::GetFleetRequest>) -> Result<Response<v1::GetFleetResponse>, Status> {
        Ok(Response::new(overview::fleet(&self.0).await?))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size, 1000, 10_000) as usize;
        let expected = Expected::of(&self.0).await?;
        let now_ms = self.0.clock.now_ms();
        let live = self.0.live();
        let nodes: Vec<v1::Node> = live
            .proxies()
            .filter(|(id, _)| id.0 > request.page_token)
            .take(size)
            .map(|(id, proxy)| overview::node(now_ms, id, proxy, live.is_cordoned(id), &expected))
            .collect();
        let next_page_token = match nodes.last() {
            Some(last) if nodes.len() == size => last.id.clone(),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListNodesResponse { nodes, next_page_token }))
    }

    type WatchStream = ReceiverStream<Result<v1::FleetServiceWatchResponse, Status>>;

    async fn watch(&self, _: Request<v1::FleetServiceWatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(follow(Arc::clone(&self.0), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn cordon(
        &self,
        request: Request<v1::FleetServiceCordonRequest>,
    ) -> Result<Response<v1::FleetServiceCordonResponse>, Status> {
        let app = &self.0;
        let actor = caller(&request)?.name;
        let request = request.into_inner();
        let id = ProxyId(request.node);
        if app.live().proxy(&id).is_none() {
            return Err(status(Code::NotFound, "NO_SUCH_NODE", format!("there is no node `{id}`")));
        }
        let now_ms = app.clock.now_ms();
        let mut change = app.store.write().await?;
        app.store.set_cordon(&mut change, &id, request.cordoned, &actor, now_ms).await?;
        let action = if request.cordoned { "cordon" } else { "uncordon" };
        let entry = AuditEntry { at_ms: now_ms, actor, action, subject: id.0.clone(), digest: None, detail: json!({}) };
        app.store.add_audit(&mut change, &entry).await?;
        app.store.commit(change).await?;
        let cordoned = app.store.cordoned().await?;
        app.live().set_cordoned(cordoned);
        app.rollouts.refresh().await;
        let expected = Expected::of(app).await?;
        let live = app.live();
        let node = live.proxy(&id).map(|one| overview::node(now_ms, &id, one, live.is_cordoned(&id), &expected));
        Ok(Response::new(v1::FleetServiceCordonResponse { node }))
    }

    async fn drain(
        &self,
        request: Request<v1::FleetServiceDrainRequest>,
    ) -> Result<Response<v1::FleetServiceDrainResponse>, Status> {
        let app = &self.0;
        let actor = caller(&request)?.name;
        let request = request.into_inner();
        let id = ProxyId(request.node.clone());
        let (now_ms, expected) = (app.clock.now_ms(), Expected::of(app).await?);
        let node = {
            let live = app.live();
            live.proxy(&id).map(|one| overview::node(now_ms, &id, one, live.is_cordoned(&id), &expected))
        };
        // An empty name is nobody's, and is not every node either.
        let node = node.ok_or_else(|| status(Code::NotFound, "NO_SUCH_NODE", format!("there is no node `{id}`")))?;
        let connections = question::drain(app, actor, &request).await?;
        Ok(Response::new(v1::FleetServiceDrainResponse { node: Some(node), connections }))
    }

    async fn revoke(
        &self,
        request: Request<v1::FleetServiceRevokeRequest>,
    ) -> Result<Response<v1::FleetServiceRevokeResponse>, Status> {
        let actor = caller(&request)?.name;
        Ok(Response::new(revoke::revoke(&self.0, actor, request.into_inner()).await?))
    }

    async fn purge_cache(
        &self,
        request: Request<v1::PurgeCacheRequest>,
    ) -> Result<Response<v1::PurgeCacheResponse>, Status> {
        let actor = caller(&request)?.name;
        Ok(Response::new(question::purge(&self.0, actor, request.into_inner()).await?))
    }

    async fn get_cache_stats(
        &self,
        request: Request<v1::GetCacheStatsRequest>,
    ) -> Result<Response<v1::GetCacheStatsResponse>, Status> {
        Ok(Response::new(question::cache_stats(&self.0, request.into_inner()).await?))
    }

    type TailStream = ReceiverStream<Result<v1::TailResponse, Status>>;

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        Ok(Response::new(ReceiverStream::new(question::tail(&self.0, request.into_inner())?)))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let app = &self.0;
        let actor = caller(&request)?.name;
        let request = request.into_inner();
        let bad = |message: String| status(Code::InvalidArgument, "BAD_FIELD", message);
        let role = Role::parse(&request.role).ok_or_else(|| {
            let known = Role::ALL.map(Role::as_str).join(", ");
            bad(format!("there is no role `{}`; there are {known}", request.role.chars().take(40).collect::<String>()))
        })?;
        match (role, request.region.is_empty()) {
            (Role::Agent | Role::Proxy, true) => {
                return Err(bad(format!("a token of role {} needs the `region` that it enrols in", role.as_str())));
            }
            (Role::Agent | Role::Proxy, false) if !is_name(&request.region) => {
                return Err(bad("`region` is not a valid name: 1 to 128 of A-Z a-z 0-9 . _ : -".into()));
            }
            (Role::Agent | Role::Proxy, false) | (_, true) => {}
            (_, false) => return Err(bad("only tokens of agents and proxies have a `region`".into())),
        }
        if request.comment.chars().count() > COMMENT_MAX {
            return Err(bad(format!("`comment` has more than {COMMENT_MAX} characters")));
        }
        let ttl = request.ttl.as_ref().map(duration).transpose();
        let ttl = ttl.map_err(|error| bad(format!("`ttl`: {error}")))?.filter(|ttl| !ttl.is_zero());
        if app.store.tokens().await?.len() >= TOKENS_MAX {
            let message = format!("there are {TOKENS_MAX} tokens already");
            return Err(status(Code::ResourceExhausted, "TOO_MANY", message));
        }
        let text = new_secret()?;
        let now_ms = app.clock.now_ms();
        let secret = Digest::of(text.as_bytes());
        let millis = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let row = TokenRow {
            // Says nothing about the secret: a hash of its hash.
            id: format!("t-{}", &Digest::of(&secret.0).short()[..8]),
            secret_sha256: secret.to_vec(),
            role: role.as_str().to_owned(),
            region: request.region,
            comment: request.comment,
            created_at_ms: millis(now_ms),
            expires_at_ms: ttl
                .map(|ttl| millis(now_ms.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)))),
            revoked_at_ms: None,
        };
        let mut change = app.store.write().await?;
        app.store.add_token(&mut change, &row).await?;
        let detail = json!({ "role": row.role, "region": row.region, "comment": row.comment });
        let entry =
            AuditEntry { at_ms: now_ms, actor, action: "token_create", subject: row.id.clone(), digest: None, detail };
        app.store.add_audit(&mut change, &entry).await?;
        app.store.commit(change).await?;
        app.auth.set_tokens(&app.store.tokens().await?);
        Ok(Response::new(v1::CreateTokenResponse { token: Some(token(&row)), text }))
    }

    async fn list_tokens(&self, _: Request<v1::ListTokensRequest>) -> Result<Response<v1::ListTokensResponse>, Status> {
        let tokens = self.0.store.tokens().await?.iter().map(token).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let app = &self.0;
        let actor = caller(&request)?.name;
        let id = request.into_inner().id;
        let now_ms = app.clock.now_ms();
        let mut change = app.store.write().await?;
        if !app.store.revoke_token(&mut change, &id, now_ms).await? {
            let message = "there is no valid token of that id";
            return Err(status(Code::NotFound, "NO_SUCH_TOKEN", message));
        }
        let entry =
            AuditEntry { at_ms: now_ms, actor, action: "token_revoke", subject: id, digest: None, detail: json!({}) };
        app.store.add_audit(&mut change, &entry).await?;
        app.store.commit(change).await?;
        app.auth.set_tokens(&app.store.tokens().await?);
        Ok(Response::new(v1::RevokeTokenResponse {}))
    }
}

pub(crate) fn token(row: &TokenRow) -> v1::Token {
    let at = |ms: i64| time(u64::try_from(ms).unwrap_or(0));
    v1::Token {
        id: row.id.clone(),
        role: row.role.clone(),
        region: row.region.clone(),
        comment: row.comment.clone(),
        created_at: at(row.created_at_ms),
        expires_at: row.expires_at_ms.and_then(at),
        revoked: row.revoked_at_ms.is_some(),
    }
}

/// The whole page first, then again when something on it changed. That a node was heard again is no change.
async fn follow(app: Arc<App>, sender: mpsc::Sender<Result<v1::FleetServiceWatchResponse, Status>>) {
    let mut changes = app.board.follow();
    let mut interval = tokio::time::interval(WATCH_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent: Option<v1::GetFleetResponse> = None;
    loop {
        changes.borrow_and_update();
        let fleet = match overview::fleet(&app).await {
            Ok(fleet) => fleet,
            Err(error) => {
                let _ = sender.send(Err(error.into())).await;
                return;
            }
        };
        let mut still = fleet.clone();
        still.nodes.iter_mut().for_each(|node| node.heard_at = None);
        still.agents.iter_mut().for_each(|agent| agent.heard_at = None);
        if sent.as_ref() != Some(&still) {
            if sender.send(Ok(v1::FleetServiceWatchResponse { fleet: Some(fleet) })).await.is_err() {
                return;
            }
            sent = Some(still);
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = interval.tick() => {}
            () = sender.closed() => return,
            () = app.stop.cancelled() => return,
        }
    }
}
