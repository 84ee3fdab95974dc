//! Questions of the fleet on their way to proxies, and answers on their way back.
//!
//! It understands neither. A question goes to the proxies that are attached; of every other one that is asked it says that it
//! is not here. Each proxy has a short line of questions, so a slow one holds up nobody; answers are passed on while the
//! proxy waits for it, so nothing piles up here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sealane_model::ids::ProxyId;
use sealane_proto::v1;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tonic::Status;

use crate::authority::AuthorityLink;

/// Questions that wait for one proxy.
const WAITING_MAX: usize = 16;
/// Answers that are passed on at a time.
const AT_ONCE: usize = 64;
/// Of one call to the authority.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// The way of questions and answers. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Questions {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    link: AuthorityLink,
    agent: String,
    instance: String,
    proxies: Mutex<HashMap<ProxyId, Line>>,
    turns: Semaphore,
}

#[derive(Debug)]
struct Line {
    session: u64,
    instance: String,
    questions: mpsc::Sender<v1::Question>,
}

impl Questions {
    pub(crate) fn new(link: AuthorityLink, agent: &str, instance: &str) -> Self {
        let (agent, instance) = (agent.to_owned(), instance.to_owned());
        let shared = Shared { link, agent, instance, proxies: Mutex::default(), turns: Semaphore::new(AT_ONCE) };
        Self { shared: Arc::new(shared) }
    }

    /// A proxy opened its stream: what it is asked from now on.
    pub(crate) fn connect(&self, proxy: &ProxyId, session: u64, instance: &str) -> mpsc::Receiver<v1::Question> {
        let (questions, asked) = mpsc::channel(WAITING_MAX);
        let line = Line { session, instance: instance.to_owned(), questions };
        self.proxies().insert(proxy.clone(), line);
        asked
    }

    /// That stream ended.
    pub(crate) fn disconnect(&self, proxy: &ProxyId, session: u64) {
        let mut proxies = self.proxies();
        if proxies.get(proxy).is_some_and(|line| line.session == session) {
            proxies.remove(proxy);
        }
    }

    /// Asks the proxies that are named. Does not wait for any.
    pub(crate) fn ask(&self, question: &v1::Question) {
        let mut missing = Vec::new();
        {
            let proxies = self.proxies();
            for node in &question.nodes {
                let one = v1::Question { nodes: vec![node.clone()], ..question.clone() };
                match proxies.get(&ProxyId(node.clone())).map(|line| line.questions.try_send(one)) {
                    Some(Ok(())) => {}
                    Some(Err(_)) => missing.push((node.clone(), "it has as many questions as it takes at a time")),
                    None => missing.push((node.clone(), "it is not attached to its agent")),
                }
            }
        }
        if missing.is_empty() {
            return;
        }
        let (this, id) = (self.clone(), question.id);
        tokio::spawn(async move {
            for (node, why) in missing {
                let answer = v1::Answer { id, node, error: why.to_owned(), about: None };
                match this.pass(answer).await {
                    Ok(false) => {}
                    // Nobody listens, or nobody can be told.
                    Ok(true) | Err(_) => return,
                }
            }
        });
    }

    /// Passes on what a proxy says; whether nobody waits for more.
    ///
    /// # Errors
    /// It is not attached, or the authority cannot be told.
    pub(crate) async fn answer(&self, request: v1::AnswerRequest) -> Result<bool, Status> {
        let proxy = ProxyId(request.proxy_id);
        let is_here = self.proxies().get(&proxy).is_some_and(|line| line.instance == request.instance);
        if !is_here {
            return Err(Status::failed_precondition("this proxy is not attached"));
        }
        let answer = request.answer.ok_or_else(|| Status::invalid_argument("it has no answer"))?;
        // A proxy speaks for itself alone.
        self.pass(v1::Answer { node: proxy.0, ..answer }).await
    }

    async fn pass(&self, answer: v1::Answer) -> Result<bool, Status> {
        let shared = &self.shared;
        let Ok(_turn) = shared.turns.acquire().await else { return Err(Status::unavailable("the agent is stopping")) };
        let (agent_id, instance) = (shared.agent.clone(), shared.instance.clone());
        let request = v1::PassAnswerRequest { agent_id, instance, answer: Some(answer) };
        match timeout(CALL_TIMEOUT, shared.link.client().pass_answer(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().done),
            Ok(Err(status)) => Err(Status::new(status.code(), status.message())),
            Err(_) => Err(Status::deadline_exceeded("the authority did not take the answer in time")),
        }
    }

    fn proxies(&self) -> MutexGuard<'_, HashMap<ProxyId, Line>> {
        self.shared.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
