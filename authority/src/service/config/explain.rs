//! Which route takes a request, in a revision, on a node or in a text that was sent.

use std::sync::Arc;

use sealane_model::account::{Asked, account};
use sealane_model::ids::ProxyId;
use sealane_model::parse::{Reader, parse};
use sealane_proto::v1;
use tonic::{Code, Status};

use crate::app::App;
use crate::revision;
use crate::service::question;
use crate::service::status::status;

/// Headers of an asked request at most.
const HEADERS_MAX: usize = 200;

pub(super) async fn explain(app: &Arc<App>, request: v1::ExplainRequest) -> Result<v1::ExplainResponse, Status> {
    let bad = |message: String| status(Code::InvalidArgument, "BAD_FIELD", message);
    if request.headers.len() > HEADERS_MAX {
        return Err(bad(format!("at most {HEADERS_MAX} headers")));
    }
    if !request.request_id.is_empty() {
        let asked = v1::ExplainQuestion { request_id: request.request_id, ..v1::ExplainQuestion::default() };
        let explained = question::explain(app, &request.node, asked).await?;
        return explained.map_err(|why| status(Code::NotFound, "NOT_REMEMBERED", why));
    }
    if !request.node.is_empty() && request.revision == 0 && request.config_yaml.is_empty() {
        let asked = v1::ExplainQuestion {
            url: request.url.clone(),
            method: request.method.clone(),
            headers: request.headers.clone(),
            request_id: String::new(),
        };
        // It knows best what it serves, sandbox routes among it. When it does not answer, its revision's text does.
        match question::explain(app, &request.node, asked).await? {
            Ok(explained) => return Ok(explained),
            Err(why) => tracing::debug!(node = request.node, why, "explained by the text of its revision"),
        }
    }
    let (file, text, number) = if request.config_yaml.is_empty() {
        let number = if request.revision == 0 && !request.node.is_empty() {
            serves(app, &request.node)?
        } else {
            request.revision
        };
        let row = revision::find(app, number).await?;
        (row.file.clone(), revision::text(app, &row).await?, row.revision)
    } else {
        ("config.yaml".to_owned(), request.config_yaml, 0)
    };
    let asked = Asked {
        method: if request.method.is_empty() { "GET".to_owned() } else { request.method.to_ascii_uppercase() },
        url: request.url,
        headers: request.headers.into_iter().map(|h| (h.name.to_ascii_lowercase(), h.value)).collect(),
    };
    let name = file.clone();
    let work = tokio::task::spawn_blocking(move || {
        let (config, _) = parse(&name, &text, Reader::Fleet).map_err(|_| "the config is not valid".to_owned())?;
        account(&config, &asked).map_err(|error| error.to_string())
    });
    let told = work.await.map_err(|_| Status::internal("the explanation failed"))?.map_err(bad)?;
    Ok(v1::ExplainResponse { revision: number, file, ..told.into() })
}

/// The revision that a node serves.
fn serves(app: &App, node: &str) -> Result<u64, Status> {
    let live = app.live();
    let found = live.proxies().find(|(id, _)| **id == ProxyId(node.to_owned()));
    match found {
        Some((_, proxy)) if proxy.active_revision > 0 => Ok(proxy.active_revision),
        Some(_) => Err(status(Code::FailedPrecondition, "NOTHING_YET", format!("`{node}` serves no revision yet"))),
        None => Err(status(Code::NotFound, "UNKNOWN_NODE", format!("there is no node `{node}`"))),
    }
}
