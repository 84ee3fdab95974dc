//! Members that are to be trusted no more, and two that claim one name, with real processes over mutual TLS: whoever is
//! turned away is named, counted, and costs nobody a request.

use std::time::Duration;

use sealane_e2e::fleet::free_address;
use sealane_e2e::load::{self, Load};
use sealane_e2e::origin::Origin;
use sealane_e2e::wait;
use serde_json::Value;

use crate::distribution::{ENROL, Fleet, Proxy, SOON, answers, cli};

/// Its HTTP address wants a certificate of the fleet; the first of each code is in its log too.
async fn turned_away(fleet: &Fleet, code: &str) {
    wait::until(&format!("`{code}` in the agent's log"), SOON, async || {
        fleet.agent.log_text().contains(code).then_some(())
    })
    .await;
}

async fn says(proxy: &Proxy, words: &str) {
    wait::until(&format!("`{words}` in the proxy's log"), SOON, async || {
        proxy.process.log_text().contains(words).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_proxy_is_turned_away_on_every_way_serves_on_and_comes_back_only_with_a_token() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let control = free_address().port();
    let fleet = Fleet::start(&[format!("https://127.0.0.1:{control}")]).await;
    let mut attached = fleet.proxy("attached", &format!("--agent=https://127.0.0.1:{}", fleet.grpc), ENROL);
    let pushed = fleet.proxy("pushed", &format!("--control-addr=0.0.0.0:{control}"), ENROL);
    let polls = fleet.proxy("polls", &format!("--pull-url=https://127.0.0.1:{}", fleet.http), ENROL);
    let stays = fleet.proxy("stays", &format!("--agent=https://127.0.0.1:{}", fleet.grpc), ENROL);
    fleet.nodes(4).await;
    let published = fleet.publish("one.yaml", &one).await;
    assert_eq!(published.code, 0, "{published:?}\n{}", fleet.logs());
    let gone = [&attached, &pushed, &polls];
    for proxy in gone.iter().copied().chain([&stays]) {
        answers(proxy, "one").await;
    }
    let load =
        Load::start(&[attached.address, pushed.address, polls.address, stays.address], Duration::from_millis(20));

    let unknown = cli(fleet.path(), &["fleet", "revoke", "nobody"]).await;
    assert_ne!(unknown.code, 0, "{unknown:?}");
    assert!(unknown.stderr.contains("no certificate that still holds was issued to `nobody`"), "{unknown:?}");
    let dry = cli(fleet.path(), &["fleet", "revoke", "polls", "--dry-run"]).await;
    assert!(dry.stdout.contains("1 of its certificates would be revoked"), "{dry:?}");
    fleet.nodes(4).await;
    for id in ["attached", "pushed", "polls"] {
        let revoked = cli(fleet.path(), &["fleet", "revoke", id]).await;
        assert_eq!(revoked.code, 0, "{revoked:?}");
        assert!(revoked.stdout.contains("revoked, nobody accepts them any more"), "{revoked:?}");
        assert!(revoked.stdout.contains("sealane token revoke t-"), "it says what still lets it in: {revoked:?}");
    }
    // They leave the fleet, as if they had said goodbye: no rollout waits for them.
    fleet.nodes(1).await;
    for proxy in gone {
        says(proxy, "certificate was revoked").await;
    }
    turned_away(&fleet, "certificate_revoked").await;
    let published = fleet.publish("two.yaml", &two).await;
    assert_eq!(published.code, 0, "{published:?}\n{}", fleet.logs());
    answers(&stays, "two").await;
    for proxy in gone {
        answers(proxy, "one").await;
    }
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
    drop(load);
    let audit = cli(fleet.path(), &["audit", "list", "-o", "json"]).await;
    assert!(audit.stdout.contains("\"revoke\""), "{audit:?}");

    // A restart of either side changes nothing; its old identity gone, a token lets it in again.
    attached.process.kill().await;
    attached.process.restart();
    answers(&attached, "one").await;
    says(&attached, "certificate was revoked").await;
    fleet.nodes(1).await;
    attached.process.kill().await;
    std::fs::remove_dir_all(fleet.path().join("attached/identity")).expect("the identity that is of no use");
    attached.process.restart();
    fleet.nodes(2).await;
    answers(&attached, "two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_is_turned_away_by_its_authority_and_by_its_proxies() {
    let one = Origin::start("one").await;
    let mut fleet = Fleet::start(&[]).await;
    let proxy = fleet.proxy("p", &format!("--agent=https://127.0.0.1:{}", fleet.grpc), ENROL);
    fleet.nodes(1).await;
    assert_eq!(fleet.publish("one.yaml", &one).await.code, 0);
    answers(&proxy, "one").await;
    let revoked = cli(fleet.path(), &["fleet", "revoke", "agent-eu"]).await;
    assert_eq!(revoked.code, 0, "{revoked:?}");
    wait::until("the refusal of the authority", SOON, async || {
        fleet.agent.log_text().contains("this agent's certificate was revoked").then_some(())
    })
    .await;
    wait::until("the alarm", SOON, async || {
        let status = cli(fleet.path(), &["fleet", "status", "-o", "json"]).await;
        let value: Value = serde_json::from_str(&status.stdout).unwrap_or_default();
        value["alarms"].to_string().contains("agent-eu").then_some(())
    })
    .await;
    answers(&proxy, "one").await;
    // A thief of its key starts it again: the authority does not speak to it, and it knows nothing newer.
    fleet.agent.kill().await;
    fleet.agent.restart();
    wait::until("the refusal after a restart", SOON, async || {
        (fleet.agent.log_text().matches("this agent's certificate was revoked").count() >= 2).then_some(())
    })
    .await;
    fleet.agent.kill().await;
    std::fs::remove_dir_all(fleet.path().join("agent/identity")).expect("the identity that is of no use");
    fleet.agent.restart();
    let two = Origin::start("two").await;
    fleet.nodes(1).await;
    let load = Load::start(&[proxy.address], Duration::from_millis(20));
    let published = fleet.publish("two.yaml", &two).await;
    assert_eq!(published.code, 0, "{published:?}\n{}\n{}", fleet.logs(), proxy.process.log_text());
    answers(&proxy, "two").await;
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_live_nodes_with_one_id_the_second_gets_nothing_over_mutual_tls_whether_it_attaches_or_polls() {
    let one = Origin::start("one").await;
    let fleet = Fleet::start(&[]).await;
    let ways = [
        ("attached", format!("--agent=https://127.0.0.1:{}", fleet.grpc)),
        ("polls", format!("--pull-url=https://127.0.0.1:{}", fleet.http)),
    ];
    let first: Vec<Proxy> = ways.iter().map(|(id, way)| fleet.proxy(id, way, ENROL)).collect();
    fleet.nodes(2).await;
    assert_eq!(fleet.publish("one.yaml", &one).await.code, 0);
    for ((id, way), first) in ways.iter().zip(&first) {
        answers(first, "one").await;
        // The token lets anybody of the region enrol, also by a name that is taken.
        let second = fleet.proxy_in(&format!("{id}-again"), id, way, ENROL);
        says(&second, &format!("another live proxy is called `{id}`")).await;
        says(&second, "give each its own --id").await;
        let got = load::get(&load::client(), &format!("http://{}/", second.address)).await;
        assert_ne!(got.map(|(status, _)| status), Ok(200), "the second serves nothing");
        answers(first, "one").await;
    }
    fleet.nodes(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_fleet_opens_nothing_on_any_way() {
    let control = free_address().port();
    let ours = Fleet::start(&[format!("https://127.0.0.1:{control}")]).await;
    let theirs = Fleet::start(&[]).await;
    let known = theirs.proxy("thief", &format!("--agent=https://127.0.0.1:{}", theirs.grpc), ENROL);
    theirs.nodes(1).await;
    drop(known);
    let stolen = theirs.path().join("thief/identity/proxy.pem");
    let mut thieves = Vec::new();
    for (id, way) in [
        ("attaches", format!("--agent=https://127.0.0.1:{}", ours.grpc)),
        ("pushed", format!("--control-addr=0.0.0.0:{control}")),
        ("polls", format!("--pull-url=https://127.0.0.1:{}", ours.http)),
    ] {
        let identity = ours.path().join(id).join("identity");
        std::fs::create_dir_all(&identity).expect("a directory");
        std::fs::copy(&stolen, identity.join("proxy.pem")).expect("the certificate of another fleet");
        thieves.push(ours.proxy(id, &way, &["--ca-file=authority/ca.pem"]));
    }
    for thief in &thieves {
        says(thief, "not of this fleet's CA").await;
    }
    turned_away(&ours, "certificate_untrusted").await;
    ours.nodes(0).await;
    // And an agent of theirs at our authority.
    std::fs::copy(theirs.path().join("agent/identity/agent.pem"), ours.path().join("agent/identity/agent.pem"))
        .expect("the certificate of another fleet");
    let mut ours = ours;
    ours.agent.kill().await;
    std::fs::remove_file(ours.path().join("agent.token")).expect("no token to enrol with");
    ours.agent.restart();
    wait::until("the agent to be without its authority", SOON, async || {
        ours.agent.log_text().contains("the authority is away").then_some(())
    })
    .await;
    ours.nodes(0).await;
}
