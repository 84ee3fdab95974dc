//! What operators ask of nodes: the cache, requests as they end, recent requests, an explanation.

use std::sync::Arc;
use std::time::Duration;

use sealane_model::ids::{AgentId, ProxyId};
use sealane_model::impact::{self, Shape};
use sealane_model::parse::{Reader, parse};
use sealane_proto::convert::duration;
use sealane_proto::v1;
use sealane_proto::v1::answer::About as Said;
use sealane_proto::v1::question::About;
use serde_json::json;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::status::status;
use crate::app::App;
use crate::questions::{Heard, Tail, TooMany};
use crate::store::audit::AuditEntry;

/// How long a node may take, unless asked otherwise.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// At most.
const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// How long a plan waits for recent requests.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(3);
/// Nodes that are asked for recent requests, and how many requests are wanted of all of them.
const SAMPLE_NODES_MAX: usize = 200;
const SAMPLE_REQUESTS: usize = 20_000;
/// Least and most of one node.
const SAMPLE_OF_ONE: std::ops::RangeInclusive<usize> = 50..=2_000;

type Nodes = Vec<(ProxyId, AgentId)>;

/// The nodes that are named, or all.
fn nodes(app: &App, named: &[String]) -> Result<Nodes, Status> {
    let live = app.live();
    if named.is_empty() {
        return Ok(live.proxies().map(|(id, proxy)| (id.clone(), proxy.agent.clone())).collect());
    }
    let mut found: Nodes = Vec::with_capacity(named.len());
    for name in named {
        let id = ProxyId(name.clone());
        let Some(proxy) = live.proxy(&id) else {
            let message = format!("there is no node `{}`", name.chars().take(128).collect::<String>());
            return Err(status(Code::NotFound, "NO_SUCH_NODE", message));
        };
        found.push((id, proxy.agent.clone()));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn timeout(asked: Option<&prost_types::Duration>) -> Result<Duration, Status> {
    let asked = asked.map(duration).transpose();
    let asked = asked.map_err(|error| status(Code::InvalidArgument, "BAD_FIELD", format!("`timeout`: {error}")))?;
    Ok(asked.filter(|asked| !asked.is_zero()).unwrap_or(ANSWER_TIMEOUT).min(ANSWER_TIMEOUT_MAX))
}

impl From<TooMany> for Status {
    fn from(_: TooMany) -> Self {
        status(
            Code::ResourceExhausted,
            "TOO_MANY_QUESTIONS",
            "too many questions to nodes are open: try again in a moment",
        )
    }
}

pub(super) async fn purge(
    app: &Arc<App>,
    actor: String,
    request: v1::PurgeCacheRequest,
) -> Result<v1::PurgeCacheResponse, Status> {
    let purge = request.what.filter(|purge| {
        purge.what.as_ref().is_some_and(|what| match what {
            v1::cache_purge::What::Url(text)
            | v1::cache_purge::What::Prefix(text)
            | v1::cache_purge::What::Host(text) => !text.is_empty(),
            v1::cache_purge::What::All(all) => *all,
        })
    });
    let purge = purge.ok_or_else(|| {
        status(Code::InvalidArgument, "BAD_FIELD", "say what to purge: one of `url`, `prefix`, `host` and `all`")
    })?;
    let timeout = timeout(request.timeout.as_ref())?;
    let nodes = nodes(app, &request.nodes)?;
    if request.dry_run {
        let nodes: Vec<v1::NodePurge> = nodes
            .into_iter()
            .map(|(node, agent)| v1::NodePurge { node: node.0, agent: agent.0, ..v1::NodePurge::default() })
            .collect();
        let asked = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        return Ok(v1::PurgeCacheResponse { nodes, asked, answered: 0, purged: 0 });
    }
    let subject = subject(&purge);
    let heard = app.questions.ask(nodes, About::CachePurge(purge), timeout).await?;
    let mut response =
        v1::PurgeCacheResponse { asked: u32::try_from(heard.len()).unwrap_or(u32::MAX), ..Default::default() };
    for Heard { node, agent, said } in heard {
        let (purged, error) = match said {
            Ok(Said::CachePurged(purged)) => (purged.purged, String::new()),
            Ok(_) => (0, STRANGE.to_owned()),
            Err(error) => (0, error),
        };
        response.answered += u32::from(error.is_empty());
        response.purged = response.purged.saturating_add(purged);
        response.nodes.push(v1::NodePurge { node: node.0, agent: agent.0, purged, error });
    }
    let detail = json!({ "asked": response.asked, "answered": response.answered, "purged": response.purged });
    let at_ms = app.clock.now_ms();
    app.audit(&AuditEntry { at_ms, actor, action: "cache_purge", subject, digest: None, detail }).await?;
    Ok(response)
}

/// Tells one node to leave. Returns how many connections it has; 0 where nothing is to happen.
pub(super) async fn drain(
    app: &Arc<App>,
    actor: String,
    request: &v1::FleetServiceDrainRequest,
) -> Result<u64, Status> {
    let timeout = timeout(request.timeout.as_ref())?;
    let nodes = nodes(app, std::slice::from_ref(&request.node))?;
    if request.dry_run {
        return Ok(0);
    }
    let heard = app.questions.ask(nodes, About::Drain(v1::DrainOrder {}), timeout).await?;
    let said = heard.into_iter().next().map_or_else(|| Err(STRANGE.to_owned()), |heard| heard.said);
    let begun = match said {
        Ok(Said::DrainBegun(begun)) => Ok(begun.connections),
        Ok(_) => Err(STRANGE.to_owned()),
        Err(error) => Err(error),
    };
    let (at_ms, subject) = (app.clock.now_ms(), request.node.clone());
    let detail = match &begun {
        Ok(connections) => json!({ "connections": connections }),
        Err(error) => json!({ "error": error }),
    };
    app.audit(&AuditEntry { at_ms, actor, action: "drain", subject, digest: None, detail }).await?;
    begun.map_err(|error| {
        status(Code::Unavailable, "NODE_AWAY", format!("`{}` may not have begun to drain: {error}", request.node))
    })
}

fn subject(purge: &v1::CachePurge) -> String {
    use v1::cache_purge::What;
    let text = match &purge.what {
        Some(What::Url(url)) => format!("url {url}"),
        Some(What::Prefix(prefix)) => format!("prefix {prefix}"),
        Some(What::Host(host)) => format!("host {host}"),
        Some(What::All(_)) | None => "all".to_owned(),
    };
    text.chars().take(500).collect()
}

pub(super) async fn cache_stats(
    app: &Arc<App>,
    request: v1::GetCacheStatsRequest,
) -> Result<v1::GetCacheStatsResponse, Status> {
    let timeout = timeout(request.timeout.as_ref())?;
    let nodes = nodes(app, &request.nodes)?;
    let heard = app.questions.ask(nodes, About::CacheStats(v1::CacheStatsQuestion {}), timeout).await?;
    let mut response =
        v1::GetCacheStatsResponse { asked: u32::try_from(heard.len()).unwrap_or(u32::MAX), ..Default::default() };
    for Heard { node, agent, said } in heard {
        let (stats, error) = match said {
            Ok(Said::CacheStats(stats)) => (Some(stats), String::new()),
            Ok(_) => (None, STRANGE.to_owned()),
            Err(error) => (None, error),
        };
        response.answered += u32::from(error.is_empty());
        response.nodes.push(v1::NodeCacheStats { node: node.0, agent: agent.0, stats, error });
    }
    Ok(response)
}

/// Follows requests of the nodes until whoever asked goes away.
pub(super) fn tail(
    app: &Arc<App>,
    request: v1::TailRequest,
) -> Result<mpsc::Receiver<Result<v1::TailResponse, Status>>, Status> {
    nodes(app, &request.nodes)?;
    let tail = app.questions.tail(request.filter.unwrap_or_default())?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(follow(Arc::clone(app), tail, request.nodes, sender));
    Ok(receiver)
}

async fn follow(
    app: Arc<App>,
    mut tail: Tail,
    named: Vec<String>,
    sender: mpsc::Sender<Result<v1::TailResponse, Status>>,
) {
    let mut again = tokio::time::interval(Tail::again());
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known = std::collections::BTreeSet::new();
    loop {
        let responses = tokio::select! {
            () = sender.closed() => return,
            () = app.stop.cancelled() => return,
            _ = again.tick() => {
                // A node that left the fleet meanwhile is not asked any more.
                let mut nodes = nodes(&app, &[]).unwrap_or_default();
                nodes.retain(|(node, _)| named.is_empty() || named.contains(&node.0));
                let mut responses = problems(tail.ask(&nodes));
                for (node, _) in nodes {
                    if known.insert(node.clone()) {
                        responses.push(v1::TailResponse { node: node.0, ..v1::TailResponse::default() });
                    }
                }
                responses
            }
            answer = tail.next() => {
                let Some(answer) = answer else { return };
                vec![of_answer(answer)]
            }
        };
        for response in responses {
            if sender.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }
}

fn problems(news: Vec<(ProxyId, String)>) -> Vec<v1::TailResponse> {
    let of = |(node, problem): (ProxyId, String)| v1::TailResponse { node: node.0, problem, ..Default::default() };
    news.into_iter().map(of).collect()
}

fn of_answer(answer: v1::Answer) -> v1::TailResponse {
    let mut response = v1::TailResponse { node: answer.node, problem: answer.error, ..v1::TailResponse::default() };
    match answer.about {
        Some(Said::Tail(lines)) => {
            response.lines = lines.text.lines().map(str::to_owned).collect();
            response.dropped = lines.dropped;
        }
        Some(_) => STRANGE.clone_into(&mut response.problem),
        None => {}
    }
    response
}

/// Asks nodes for recent requests, and says what another config would decide differently.
pub(super) async fn impact_of(app: &Arc<App>, before: String, after: String) -> Option<v1::Impact> {
    let mut nodes = nodes(app, &[]).unwrap_or_default();
    if nodes.is_empty() {
        return None;
    }
    let step = nodes.len().div_ceil(SAMPLE_NODES_MAX);
    nodes = nodes.into_iter().step_by(step).collect();
    let of_one = (SAMPLE_REQUESTS / nodes.len()).clamp(*SAMPLE_OF_ONE.start(), *SAMPLE_OF_ONE.end());
    let question = v1::SampleQuestion { requests_max: u32::try_from(of_one).unwrap_or(u32::MAX) };
    let nodes_asked = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    // Too many questions: a plan is worth more than its impact.
    let heard = app.questions.ask(nodes, About::Sample(question), SAMPLE_TIMEOUT).await.ok()?;
    let samples: Vec<v1::Sample> = heard
        .into_iter()
        .filter_map(|heard| match heard.said {
            Ok(Said::Sample(sample)) => Some(sample),
            Ok(_) | Err(_) => None,
        })
        .collect();
    let nodes_answered = u32::try_from(samples.len()).unwrap_or(u32::MAX);
    let work = tokio::task::spawn_blocking(move || {
        let shapes: Vec<Shape> = samples.into_iter().flat_map(|sample| sample.requests).map(Shape::from).collect();
        let read = |text: &str| parse("config", text, Reader::Fleet).ok().map(|(config, _)| config);
        Some(impact::impact(&read(&before)?, &read(&after)?, &shapes))
    });
    let found = work.await.ok()??;
    let moves = found.moves.into_iter().take(MOVES_MAX).map(|it| v1::ImpactMove {
        from: it.from,
        to: it.to,
        requests: it.requests,
        example: it.example,
    });
    Some(v1::Impact {
        requests: found.requests,
        different: found.different,
        moves: moves.collect(),
        unknown_headers: found.unknown_headers,
        nodes_asked,
        nodes_answered,
    })
}

/// Asks a node, or for a request of the past every node, for an explanation. `None`: no node has one.
pub(super) async fn explain(
    app: &Arc<App>,
    node: &str,
    question: v1::ExplainQuestion,
) -> Result<Result<v1::ExplainResponse, String>, Status> {
    let named: Vec<String> = Some(node.to_owned()).filter(|node| !node.is_empty()).into_iter().collect();
    let nodes = nodes(app, &named)?;
    if nodes.is_empty() {
        return Ok(Err("the fleet has no nodes".to_owned()));
    }
    let asked = nodes.len();
    let heard = app.questions.ask(nodes, About::Explain(question), ANSWER_TIMEOUT).await?;
    let mut problems = Vec::new();
    for Heard { node, said, .. } in heard {
        match said {
            Ok(Said::Explained(explained)) => return Ok(Ok(v1::ExplainResponse { node: node.0, ..explained })),
            Ok(_) => problems.push(format!("{node}: {STRANGE}")),
            Err(error) => problems.push(format!("{node}: {error}")),
        }
    }
    problems.dedup();
    problems.truncate(PROBLEMS_MAX);
    let of_all = if asked > problems.len() { format!("; {asked} nodes were asked") } else { String::new() };
    Ok(Err(format!("{}{of_all}", problems.join("; "))))
}

/// A node that answers something else.
const STRANGE: &str = "it answered something else: is it of another version?";
/// Moves of one impact.
const MOVES_MAX: usize = 1_000;
/// Reasons in one sentence.
const PROBLEMS_MAX: usize = 3;
