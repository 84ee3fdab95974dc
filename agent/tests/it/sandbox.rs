//! The sandbox partition: a line of its own, straight to every proxy, and nothing but sandbox routes in it.

use sealane_agent::{Agent, start};
use sealane_model::bundle::Resource;
use sealane_proto::v1;

use crate::fake::{Authority, Fleet, Proxy, Signed, as_sandbox, files, settings, wait};

const ROUTE: &str = r#"{"id":1,"sandbox_id":"s","pattern":"^/a","target_url":"http://a","priority":100}"#;

struct Bench {
    directory: tempfile::TempDir,
    fleet: Fleet,
    authority: Authority,
    agent: Agent,
    stable: Signed,
    proxy: Proxy,
    version: u64,
}

impl Bench {
    /// A fleet on r5 with sandbox revision 3.
    async fn new() -> Self {
        let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
        let mut authority = Authority::start().await;
        let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
        let stable = fleet.release(5, "# five\n", |_| {});
        authority.hold(&stable);
        authority.offer(fleet.desired(Some(&stable), None));
        authority.report("r5", |report| report.state_version == 5).await;
        let proxy = Proxy::attach(&agent, &fleet, "p1", "i1").await.unwrap();
        let mut bench = Self { directory, fleet, authority, agent, stable, proxy, version: 5 };
        let third = bench.fleet.sandbox(3, ROUTE);
        bench.offer(&third);
        bench.is_offered(&third).await;
        bench
    }

    fn desired(&mut self, sandbox: &Signed) -> v1::DesiredState {
        self.version += 1;
        v1::DesiredState {
            state_version: self.version,
            sandbox: Some((&sandbox.envelope).into()),
            ..self.fleet.desired(Some(&self.stable), None)
        }
    }

    fn offer(&mut self, sandbox: &Signed) {
        self.authority.hold(sandbox);
        let desired = self.desired(sandbox);
        self.authority.offer(desired);
    }

    async fn is_offered(&mut self, sandbox: &Signed) {
        let envelope = v1::Envelope::from(&sandbox.envelope);
        wait(&mut self.proxy.sandbox, "the sandbox revision", |offered| offered.as_ref() == Some(&envelope)).await;
    }

    /// What is offered is refused with `code`, and the proxy is told nothing of it.
    async fn refuses(mut self, sandbox: &Signed, code: &str) {
        let before = self.proxy.sandbox.borrow().clone();
        self.offer(sandbox);
        let report = self.authority.report("a refusal", |report| !report.refused.is_empty()).await;
        assert_eq!(report.refused[0].code, code, "{}", report.alarm);
        assert_eq!(*self.proxy.sandbox.borrow(), before);
        self.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_revision_goes_straight_to_every_proxy_and_outlives_a_restart() {
    let mut bench = Bench::new().await;
    let held = files(&bench.directory.path().join("agent"));
    assert!(!held.is_empty());
    let fourth = bench.fleet.sandbox(4, "");
    bench.offer(&fourth);
    bench.is_offered(&fourth).await;
    bench.agent.stop().await;
    // Alone: the authority is away.
    bench.authority.stop();
    let nobody = Authority::start().await.stop();
    let agent = start(settings(bench.directory.path(), &bench.fleet, nobody)).await.unwrap();
    let mut proxy = Proxy::attach(&agent, &bench.fleet, "p1", "i2").await.unwrap();
    let envelope = v1::Envelope::from(&fourth.envelope);
    wait(&mut proxy.sandbox, "the sandbox revision", |offered| offered.as_ref() == Some(&envelope)).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_as_a_sandbox_revision() {
    let bench = Bench::new().await;
    let config = bench.fleet.release(9, "# nine\n", |_| {});
    bench.refuses(&config, "malformed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_smuggled_into_the_sandbox_partition() {
    let bench = Bench::new().await;
    let resource = Resource { kind: "config".into(), name: "fleet.yaml".into(), content: b"# nine\n".to_vec() };
    let smuggled = bench.fleet.release_of(9, resource, as_sandbox);
    bench.refuses(&smuggled, "malformed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_route_that_cannot_be_served() {
    let bench = Bench::new().await;
    let bad = bench.fleet.sandbox(9, &ROUTE.replace("^/a", "("));
    bench.refuses(&bad, "malformed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_sandbox_revision() {
    let bench = Bench::new().await;
    let old = bench.fleet.sandbox(2, "");
    bench.refuses(&old, "revision_too_old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_revision_of_another_class() {
    let bench = Bench::new().await;
    let resource = Resource { kind: "sandbox".into(), name: "routes.json".into(), content: ROUTE.into() };
    let standard = bench.fleet.release_of(9, resource, |release| {
        release.partition = sealane_model::release::Partition::Sandbox;
    });
    bench.refuses(&standard, "malformed").await;
}
