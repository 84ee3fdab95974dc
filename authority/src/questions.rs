//! Questions to nodes, and what they answer: one bounded way for all of them.
//!
//! A question goes down each agent's subscription and names its proxies; answers come up as calls. Whoever asks waits until a
//! deadline: a node that is slow, or away, costs its own answer and nothing else. So many questions are open at a time, so many
//! wait for one agent, so many answers for one asker; what is more is refused or said to be missing, never kept. It does not
//! know what is asked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sealane_model::ids::{AgentId, ProxyId};
use sealane_proto::v1;
use sealane_proto::v1::answer::About as Said;
use sealane_proto::v1::question::About;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Questions that are open at a time, in the whole fleet.
const OPEN_MAX: usize = 64;
/// Questions that wait for one agent.
const AGENT_WAITING_MAX: usize = 16;
/// Answers of a tail that wait for whoever asked.
const TAIL_WAITING_MAX: usize = 256;
/// A tail that is not asked for again ends after this.
const TAIL_LEASE: Duration = Duration::from_secs(15);

/// The way of questions and answers.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    agents: HashMap<AgentId, Line>,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Line {
    subscription: u64,
    questions: mpsc::Sender<v1::Question>,
}

#[derive(Debug)]
struct Open {
    /// Who may still answer.
    nodes: BTreeMap<ProxyId, AgentId>,
    /// Each of them more than once.
    many: bool,
    answers: mpsc::Sender<v1::Answer>,
}

/// More questions are open than are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// What one node said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Heard {
    pub(crate) node: ProxyId,
    pub(crate) agent: AgentId,
    /// Or why it said nothing.
    pub(crate) said: Result<Said, String>,
}

impl Questions {
    /// An agent opened its subscription: what it is asked from now on.
    pub(crate) fn connect(&self, agent: &AgentId, subscription: u64) -> mpsc::Receiver<v1::Question> {
        let (questions, asked) = mpsc::channel(AGENT_WAITING_MAX);
        self.state().agents.insert(agent.clone(), Line { subscription, questions });
        asked
    }

    /// That subscription ended.
    pub(crate) fn disconnect(&self, agent: &AgentId, subscription: u64) {
        let mut state = self.state();
        if state.agents.get(agent).is_some_and(|line| line.subscription == subscription) {
            state.agents.remove(agent);
        }
    }

    /// Asks each of `nodes` once and waits until all have answered, or `timeout`. In the order of `nodes`.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        nodes: Vec<(ProxyId, AgentId)>,
        about: About,
        timeout: Duration,
    ) -> Result<Vec<Heard>, TooMany> {
        let until = Instant::now() + timeout;
        let mut asked = self.open(&nodes, false, nodes.len().max(1))?;
        let mut said = asked.send(&nodes, &about, timeout);
        while said.len() < nodes.len() {
            let Ok(Some(answer)) = tokio::time::timeout_at(until, asked.answers.recv()).await else { break };
            let node = ProxyId(answer.node);
            let said_nothing =
                || if answer.error.is_empty() { "it gave no answer".to_owned() } else { answer.error.clone() };
            let about = answer.about.filter(|_| answer.error.is_empty());
            said.insert(node, about.ok_or_else(said_nothing));
        }
        let silent = || Err(format!("it did not answer within {} s", timeout.as_secs_f32()));
        let heard = nodes.into_iter().map(|(node, agent)| {
            let said = said.remove(&node).unwrap_or_else(silent);
            Heard { node, agent, said }
        });
        Ok(heard.collect())
    }

    /// Opens a tail. Nobody is asked before [`Tail::ask`].
    pub(crate) fn tail(self: &Arc<Self>, filter: v1::TailFilter) -> Result<Tail, TooMany> {
        Ok(Tail { asked: self.open(&[], true, TAIL_WAITING_MAX)?, filter, problems: BTreeMap::new() })
    }

    /// Takes in what a node of `agent` said. `Ok(true)`: nobody waits for more.
    ///
    /// # Errors
    /// Whoever asked is behind: it did not hear this.
    pub(crate) fn answer(&self, agent: &AgentId, answer: v1::Answer) -> Result<bool, TooMany> {
        let mut state = self.state();
        let Some(open) = state.open.get_mut(&answer.id) else { return Ok(true) };
        let node = ProxyId(answer.node.clone());
        // An agent speaks for its own proxies, and for those only that were asked.
        if open.nodes.get(&node) != Some(agent) {
            return Ok(true);
        }
        if !open.many {
            open.nodes.remove(&node);
        }
        match open.answers.try_send(answer) {
            Ok(()) => Ok(!open.many),
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(true),
            Err(mpsc::error::TrySendError::Full(_)) => Err(TooMany),
        }
    }

    fn open(self: &Arc<Self>, nodes: &[(ProxyId, AgentId)], many: bool, waiting: usize) -> Result<Asked, TooMany> {
        let (sender, answers) = mpsc::channel(waiting);
        let mut state = self.state();
        if state.open.len() >= OPEN_MAX {
            return Err(TooMany);
        }
        if state.last == 0 {
            // Not the numbers of the process before: an answer to one of its questions is for nobody here.
            let mut bytes = [0; 8];
            let _ = getrandom::fill(&mut bytes);
            state.last = u64::from_ne_bytes(bytes) >> 1;
        }
        state.last += 1;
        let id = state.last;
        let nodes = nodes.iter().cloned().collect();
        state.open.insert(id, Open { nodes, many, answers: sender });
        Ok(Asked { questions: Arc::clone(self), id, answers })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open question. Dropping it closes it.
#[derive(Debug)]
struct Asked {
    questions: Arc<Questions>,
    id: u64,
    answers: mpsc::Receiver<v1::Answer>,
}

impl Asked {
    /// Sends it to the agents of `nodes`. Gives the nodes that cannot be asked, and why.
    fn send(
        &self,
        nodes: &[(ProxyId, AgentId)],
        about: &About,
        timeout: Duration,
    ) -> BTreeMap<ProxyId, Result<Said, String>> {
        let mut by_agent: BTreeMap<&AgentId, Vec<&ProxyId>> = BTreeMap::new();
        for (node, agent) in nodes {
            by_agent.entry(agent).or_default().push(node);
        }
        let mut missing = BTreeMap::new();
        let mut state = self.questions.state();
        if let Some(open) = state.open.get_mut(&self.id) {
            open.nodes.extend(nodes.iter().cloned());
        }
        for (agent, nodes) in by_agent {
            let question = v1::Question {
                id: self.id,
                nodes: nodes.iter().map(|node| node.0.clone()).collect(),
                timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
                about: Some(about.clone()),
            };
            let why = match state.agents.get(agent).map(|line| line.questions.try_send(question)) {
                Some(Ok(())) => continue,
                Some(Err(mpsc::error::TrySendError::Full(_))) => format!("its agent `{agent}` is busy"),
                Some(Err(mpsc::error::TrySendError::Closed(_))) | None => format!("its agent `{agent}` is away"),
            };
            missing.extend(nodes.into_iter().map(|node| (node.clone(), Err(why.clone()))));
        }
        missing
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.questions.state().open.remove(&self.id);
    }
}

/// Requests of nodes as they end.
#[derive(Debug)]
pub(crate) struct Tail {
    asked: Asked,
    filter: v1::TailFilter,
    /// Why nothing comes from a node, as it was told last.
    problems: BTreeMap<ProxyId, String>,
}

impl Tail {
    /// Asks `nodes`, those that are asked already once more, so that they go on. Gives what is new about those that cannot
    /// be asked.
    pub(crate) fn ask(&mut self, nodes: &[(ProxyId, AgentId)]) -> Vec<(ProxyId, String)> {
        let missing = self.asked.send(nodes, &About::Tail(self.filter.clone()), TAIL_LEASE);
        let asked: BTreeSet<&ProxyId> = nodes.iter().map(|(node, _)| node).collect();
        self.problems.retain(|node, _| missing.contains_key(node) || !asked.contains(node));
        let mut news = Vec::new();
        for (node, why) in missing {
            let Err(why) = why else { continue };
            if self.problems.insert(node.clone(), why.clone()).as_ref() != Some(&why) {
                news.push((node, why));
            }
        }
        news
    }

    /// Waits for what a node says.
    pub(crate) async fn next(&mut self) -> Option<v1::Answer> {
        self.asked.answers.recv().await
    }

    /// How often to ask again.
    pub(crate) fn again() -> Duration {
        TAIL_LEASE / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    fn node(node: &str, agent: &str) -> (ProxyId, AgentId) {
        (ProxyId(node.into()), AgentId(agent.into()))
    }

    fn purged(id: u64, node: &str, purged: u64) -> v1::Answer {
        let about = Some(Said::CachePurged(v1::CachePurged { purged }));
        v1::Answer { id, node: node.into(), error: String::new(), about }
    }

    fn purge() -> About {
        About::CachePurge(v1::CachePurge { what: Some(v1::cache_purge::What::All(true)) })
    }

    #[tokio::test]
    async fn each_node_answers_for_itself_and_a_silent_one_costs_its_own_answer_only() {
        let questions = Arc::new(Questions::default());
        let mut line = questions.connect(&AgentId("a".into()), 1);
        let nodes = vec![node("p1", "a"), node("p2", "a"), node("p3", "b")];
        let answering = Arc::clone(&questions);
        let agent = async {
            let question = line.recv().await.unwrap();
            assert_eq!(question.nodes, ["p1", "p2"]);
            let a = AgentId("a".into());
            assert_eq!(
                answering.answer(&AgentId("evil".into()), purged(question.id, "p1", 9)),
                Ok(true),
                "not its proxy"
            );
            assert_eq!(answering.answer(&a, purged(question.id, "p1", 3)), Ok(true));
            assert_eq!(answering.answer(&a, purged(question.id, "p1", 4)), Ok(true), "once");
        };
        let (heard, ()) = tokio::join!(questions.ask(nodes, purge(), SOON), agent);
        let told: Vec<String> = heard
            .unwrap()
            .into_iter()
            .map(|heard| match heard.said {
                Ok(Said::CachePurged(purged)) => format!("{} {}", heard.node, purged.purged),
                Ok(other) => format!("{other:?}"),
                Err(why) => format!("{} {why}", heard.node),
            })
            .collect();
        assert_eq!(told, ["p1 3", "p2 it did not answer within 0.2 s", "p3 its agent `b` is away"]);
        assert!(questions.state().open.is_empty(), "a question that is over is forgotten");
    }

    #[tokio::test]
    async fn so_many_questions_are_open_and_so_many_wait_for_an_agent() {
        let questions = Arc::new(Questions::default());
        let tails: Vec<Tail> = (0..OPEN_MAX).map(|_| questions.tail(v1::TailFilter::default()).unwrap()).collect();
        assert!(questions.ask(vec![node("p", "a")], purge(), SOON).await.is_err());
        drop(tails);
        let _line = questions.connect(&AgentId("a".into()), 1);
        let mut tail = questions.tail(v1::TailFilter::default()).unwrap();
        for _ in 0..AGENT_WAITING_MAX {
            assert!(tail.ask(&[node("p", "a")]).is_empty());
        }
        assert_eq!(tail.ask(&[node("p", "a")]), [(ProxyId("p".into()), "its agent `a` is busy".to_owned())]);
        assert!(tail.ask(&[node("p", "a")]).is_empty(), "said once");
    }

    #[tokio::test]
    async fn an_asker_that_is_behind_is_not_waited_for() {
        let questions = Arc::new(Questions::default());
        let mut line = questions.connect(&AgentId("a".into()), 1);
        let mut tail = questions.tail(v1::TailFilter::default()).unwrap();
        tail.ask(&[node("p", "a")]);
        let id = line.recv().await.unwrap().id;
        let a = AgentId("a".into());
        for _ in 0..TAIL_WAITING_MAX {
            assert_eq!(questions.answer(&a, purged(id, "p", 1)), Ok(false));
        }
        assert_eq!(questions.answer(&a, purged(id, "p", 1)), Err(TooMany));
        assert!(tail.next().await.is_some());
        assert_eq!(questions.answer(&a, purged(id, "p", 1)), Ok(false));
        drop(tail);
        assert_eq!(questions.answer(&a, purged(id, "p", 1)), Ok(true), "nobody waits any more");
    }

    #[test]
    fn a_subscription_that_was_replaced_does_not_take_its_successor_along() {
        let questions = Questions::default();
        let agent = AgentId("a".into());
        let _old = questions.connect(&agent, 1);
        let _new = questions.connect(&agent, 2);
        questions.disconnect(&agent, 1);
        assert!(questions.state().agents.contains_key(&agent));
        questions.disconnect(&agent, 2);
        assert!(questions.state().agents.is_empty());
    }
}
