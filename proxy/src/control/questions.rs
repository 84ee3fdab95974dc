//! Answers what the fleet asks: the cache, recent requests, an explanation, requests as they end.
//!
//! A question comes on the stream that carries commands and costs nothing of what serves: few are answered at a time, the
//! rest waits in a short line, and one too many is left unanswered. A tail goes on while it is asked for again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sealane_proto::v1;
use sealane_proto::v1::answer::About as Said;
use sealane_proto::v1::question::About;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::uplink::AgentLink;
use crate::cache::Purge;
use crate::explain::Explained;
use crate::proxy::Proxy;
use crate::tap::Filter;

/// Questions that wait.
pub(crate) const WAITING_MAX: usize = 16;
/// Answered at a time, tails not counted.
const AT_ONCE: usize = 4;
/// Of one call that carries an answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// A question may not be open for longer, whatever it says.
const OPEN_MAX: Duration = Duration::from_secs(60);
/// Requests of one answer, and the bytes of their texts.
const SAMPLE_MAX: usize = 2_000;
const SAMPLE_BYTES_MAX: usize = 512 << 10;

/// Answers questions.
#[derive(Clone, Debug)]
pub(crate) struct Questions {
    pub(crate) proxy: Proxy,
    pub(crate) link: Arc<AgentLink>,
    pub(crate) id: String,
    pub(crate) instance: String,
    /// Until when each tail goes on.
    pub(crate) tails: Arc<Mutex<HashMap<u64, Instant>>>,
}

impl Questions {
    /// Answers until `cancel`.
    pub(crate) async fn run(self, mut asked: mpsc::Receiver<v1::Question>, cancel: CancellationToken) {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let question = tokio::select! {
                () = cancel.cancelled() => return,
                question = asked.recv() => match question {
                    Some(question) => question,
                    None => return,
                },
            };
            let until = Instant::now() + OPEN_MAX.min(Duration::from_millis(question.timeout_ms.into()));
            let this = self.clone();
            let cancelled = cancel.clone();
            match question.about {
                Some(About::Tail(filter)) => {
                    if this.lock_tails().insert(question.id, until).is_none() {
                        tokio::spawn(async move {
                            tokio::select! {
                                () = cancelled.cancelled() => {}
                                () = this.follow(question.id, filter) => {}
                            }
                            this.lock_tails().remove(&question.id);
                        });
                    }
                }
                Some(about) => {
                    let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
                    tokio::spawn(async move {
                        let _turn = turn;
                        let said = tokio::time::timeout_at(until, this.answer(about)).await;
                        if let Ok(said) = said {
                            this.say(question.id, said).await;
                        }
                    });
                }
                None => {
                    this.say(question.id, Err("this proxy is of a version that does not know the question".to_owned()))
                        .await;
                }
            }
        }
    }

    async fn answer(&self, about: About) -> Result<Said, String> {
        let proxy = self.proxy.clone();
        // Looks at every stored answer, or copies a sample: not on the threads that keep the stream.
        let work = tokio::task::spawn_blocking(move || match about {
            About::CachePurge(purge) => {
                let purge = purge_of(purge).ok_or("the question does not say what to purge")?;
                let purged = proxy.purge_cache(&purge).map_err(|error| error.to_string())?;
                Ok(Said::CachePurged(v1::CachePurged { purged }))
            }
            About::CacheStats(_) => {
                let stats = proxy.cache_stats();
                Ok(Said::CacheStats(v1::CacheStats {
                    entries: stats.entries,
                    max_entries: stats.entries_max,
                    total_bytes: stats.bytes,
                    max_total_bytes: stats.bytes_max,
                    hits: stats.hits,
                    misses: stats.misses,
                    evictions: stats.evictions,
                    purged: stats.purged,
                }))
            }
            About::Sample(asked) => Ok(Said::Sample(sample(&proxy, asked.requests_max as usize))),
            About::Explain(question) => {
                let past = question.request_id.clone();
                let explained = match past.as_str() {
                    "" => proxy.explain(&question.into()),
                    id => proxy.explain_past(id),
                };
                let Explained { account, config, then } = explained.map_err(|error| error.to_string())?;
                let revision = proxy.active().map_or(0, |tag| tag.number);
                Ok(Said::Explained(v1::ExplainResponse {
                    revision,
                    file: config.to_string(),
                    then_config: then.as_ref().map(|then| then.config.clone()).unwrap_or_default(),
                    then_route: then.and_then(|then| then.route).unwrap_or_default(),
                    ..account.into()
                }))
            }
            About::Drain(_) => Ok(Said::DrainBegun(v1::DrainBegun { connections: proxy.ask_to_drain() })),
            About::Tail(_) => Err("a tail is no single answer".to_owned()),
        });
        work.await.unwrap_or_else(|_| Err("answering it failed".to_owned()))
    }

    /// Sends requests as they end, while the tail is asked for.
    async fn follow(&self, id: u64, filter: v1::TailFilter) {
        let Some(mut tail) = self.proxy.tail(filter_of(filter)) else {
            self.say(id, Err("so many watch this proxy already".to_owned())).await;
            return;
        };
        loop {
            let Some(until) = self.lock_tails().get(&id).copied() else { return };
            tokio::select! {
                batch = tail.next() => {
                    let text = String::from_utf8_lossy(&batch.text).into_owned();
                    let lines = v1::TailLines { text, lines: batch.lines, dropped: batch.dropped };
                    match self.say(id, Ok(Said::Tail(lines))).await {
                        Some(true) => return,
                        Some(false) => {}
                        None => tail.lost(batch.lines + batch.dropped),
                    }
                }
                () = tokio::time::sleep_until(until) => {
                    if self.lock_tails().get(&id).is_none_or(|until| *until <= Instant::now()) {
                        return;
                    }
                }
            }
        }
    }

    /// Tells the agent; whether nobody waits for more. `None`: it did not hear it.
    async fn say(&self, id: u64, said: Result<Said, String>) -> Option<bool> {
        let (about, error) = match said {
            Ok(said) => (Some(said), String::new()),
            Err(error) => (None, error),
        };
        let answer = v1::Answer { id, node: self.id.clone(), error, about };
        let request =
            v1::AnswerRequest { proxy_id: self.id.clone(), instance: self.instance.clone(), answer: Some(answer) };
        let mut client = self.link.client();
        match timeout(CALL_TIMEOUT, client.answer(request)).await {
            Ok(Ok(answer)) => Some(answer.into_inner().done),
            Ok(Err(status)) => {
                tracing::debug!(reason = status.message(), "an answer did not arrive");
                None
            }
            Err(_) => None,
        }
    }

    fn lock_tails(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Instant>> {
        self.tails.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn purge_of(purge: v1::CachePurge) -> Option<Purge> {
    use v1::cache_purge::What;
    match purge.what? {
        What::Url(url) => Some(Purge::Url(url)),
        What::Prefix(prefix) => Some(Purge::Prefix(prefix)),
        What::Host(host) => Some(Purge::Host(host)),
        What::All(true) => Some(Purge::All),
        What::All(false) => None,
    }
}

fn filter_of(filter: v1::TailFilter) -> Filter {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let bound = |status: u32, none: u16| match status {
        0 => none,
        status => u16::try_from(status).unwrap_or(u16::MAX),
    };
    let has_status = filter.status_from > 0 || filter.status_to > 0;
    Filter {
        route: some(filter.route),
        pool: some(filter.pool),
        status: has_status.then(|| (bound(filter.status_from, 0), bound(filter.status_to, u16::MAX))),
        host: some(filter.host),
        path_prefix: some(filter.path_prefix),
        min_duration: Duration::from_millis(filter.min_duration_ms.into()),
    }
}

/// A part of what is remembered, spread over all of it, that is not too large for one call.
fn sample(proxy: &Proxy, wanted: usize) -> v1::Sample {
    let shapes = proxy.samples();
    let wanted = wanted.clamp(1, SAMPLE_MAX);
    let step = shapes.len().div_ceil(wanted).max(1);
    let mut bytes = 0;
    let requests = shapes.into_iter().step_by(step).map(v1::RequestShape::from).take_while(|shape| {
        bytes += 64 + shape.request_id.len() + shape.host.len() + shape.path.len();
        bytes += shape.headers.iter().chain(&shape.query).map(|part| 16 + part.name.len()).sum::<usize>();
        bytes <= SAMPLE_BYTES_MAX
    });
    v1::Sample { requests: requests.collect() }
}
