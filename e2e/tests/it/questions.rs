//! What an operator asks of a fleet through its authority: each node answers for itself, and one that is away costs its own
//! answer only.

use std::time::Duration;

use rustix::process::Signal;
use sealane_e2e::fleet::Fleet;
use sealane_e2e::load;
use sealane_e2e::origin::Origin;
use sealane_e2e::wait;
use serde_json::{Value, json};

use crate::program;

const SOON: Duration = Duration::from_secs(30);

fn text(upstream: &Origin, more: &str) -> String {
    format!(
        "listen: 127.0.0.1:8080\nlogging: {{ access: off }}\nroutes:\n{more}  - id: all\n    path_prefix: /\n    to: http://{}\n\
         cache: [{{ path_prefix: /, ttl: 1h }}]\n",
        upstream.address()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_answers_what_it_is_asked_and_a_node_that_is_away_costs_its_own_answer() {
    let mut fleet = Fleet::start(program(), &["eu", "us"], 2).await;
    let origin = Origin::start("one").await;
    let file = fleet.config_text("fleet.yaml", &text(&origin, ""));
    assert_eq!(fleet.publish(&file).await.code, 0);
    fleet.wait_for_body("one").await;
    let client = load::client();
    for proxy in &fleet.proxies {
        for path in ["a/1", "a/2", "b"] {
            load::get(&client, &format!("http://{}/{path}?secret=hunter2", proxy.address)).await.expect("an answer");
        }
    }

    // Purged everywhere, each node by its name.
    let stats = fleet.json(&["cache", "stats"]).await;
    assert_eq!((&stats["asked"], &stats["answered"]), (&json!(4), &json!(4)), "{stats}");
    assert!(
        stats["nodes"].as_array().expect("nodes").iter().all(|node| node["stats"]["entries"].as_u64() >= Some(3)),
        "{stats}"
    );
    let host = format!("127.0.0.1:{}", fleet.proxies[0].address.port());
    let dry = fleet.json(&["cache", "purge", "--all", "--dry-run"]).await;
    assert_eq!((&dry["asked"], &dry["answered"]), (&json!(4), &json!(0)), "{dry}");
    let prefix =
        fleet.json(&["cache", "purge", "--prefix", &format!("{host}/a/"), "--node", &fleet.proxies[0].id]).await;
    assert_eq!((&prefix["asked"], &prefix["purged"]), (&json!(1), &json!(2)), "{prefix}");
    let purged = fleet.json(&["cache", "purge", "--all"]).await;
    assert_eq!((&purged["asked"], &purged["answered"]), (&json!(4), &json!(4)), "{purged}");
    let stats = fleet.json(&["cache", "stats"]).await;
    assert!(stats["nodes"].as_array().expect("nodes").iter().all(|node| node["stats"]["entries"] == 0), "{stats}");
    let audit = fleet.json(&["audit", "list"]).await;
    assert!(audit.to_string().contains("cache_purge"), "{audit}");

    // What a change would do to the requests of the nodes.
    let other = fleet.config_text(
        "other.yaml",
        &text(&origin, &format!("  - id: a\n    path_prefix: /a/\n    to: http://{}\n", origin.address())),
    );
    let plan = fleet.json(&["plan", &other]).await;
    let impact = &plan["impact"];
    assert_eq!((&impact["nodes_asked"], &impact["nodes_answered"]), (&json!(4), &json!(4)), "{plan}");
    assert_eq!(impact["different"], 8, "two of each node: {impact}");
    assert!(impact["moves"][0]["to"].as_str().is_some_and(|to| to.starts_with("a ")), "{impact}");
    assert!(!plan.to_string().contains("hunter2"), "no values of requests travel");
    assert_eq!(fleet.json(&["plan", &other, "--no-sample"]).await["impact"], Value::Null);

    // Requests as they end, by status, from every node.
    let args = ["tail", "--path-prefix", "/tailed", "-n", "40", "-o", "json"];
    let tail = fleet.cli_within(SOON, &args);
    let load = async {
        loop {
            for proxy in &fleet.proxies {
                for path in ["tailed?secret=hunter2", "other"] {
                    let _ = load::get(&client, &format!("http://{}/{path}", proxy.address)).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let tailed = tokio::select! {
        tailed = tail => tailed,
        () = load => unreachable!(),
    };
    assert_eq!(tailed.code, 0, "{tailed:?}");
    let lines: Vec<Value> = tailed.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 40);
    assert!(lines.iter().all(|line| line["path"] == "/tailed?<redacted>" && line["route"] == "all"), "{lines:?}");
    let nodes: std::collections::BTreeSet<&str> = lines.iter().filter_map(|line| line["node"].as_str()).collect();
    assert_eq!(nodes.len(), 4, "lines of every node: {nodes:?}");

    // A request of the past, by its id, wherever it was.
    let id = lines[39]["request_id"].as_str().expect("an id");
    let explained = fleet.json(&["explain", "--request-id", id, "--fleet"]).await;
    assert_eq!(explained["route"], "all", "{explained}");
    let unknown = fleet.cli(&["explain", "--request-id", "nobody", "--fleet"]).await;
    assert_eq!(unknown.code, 4, "{unknown:?}");
    let on_node = fleet.json(&["explain", "http://127.0.0.1/x", "--node", &fleet.proxies[1].id]).await;
    assert_eq!(on_node["route"], "all", "{on_node}");

    // One node is taken out of service, and nothing else.
    let leaver = &fleet.proxies[3];
    let dry = fleet.cli(&["fleet", "drain", &leaver.id, "--dry-run"]).await;
    assert_eq!(dry.code, 0, "{dry:?}");
    load::get(&client, &format!("http://{}/still", leaver.address)).await.expect("an answer");
    let drain = fleet.cli(&["fleet", "drain", &leaver.id]).await;
    assert_eq!(drain.code, 0, "{drain:?}");
    wait::until("the node to take no connections", SOON, async || {
        let fresh = load::client();
        load::get(&fresh, &format!("http://{}/gone", leaver.address)).await.is_err().then_some(())
    })
    .await;
    assert_eq!(fleet.cli(&["fleet", "drain", "nobody"]).await.code, 4);
    load::get(&client, &format!("http://{}/still", fleet.proxies[2].address)).await.expect("an answer");
    let audit = fleet.json(&["audit", "list"]).await;
    assert!(audit.to_string().contains("\"drain\""), "{audit}");

    // A node that hangs, and an agent that is away.
    fleet.proxies[0].process.signal(Signal::STOP);
    fleet.agents[1].process.kill().await;
    wait::until("the agent to be seen away", SOON, async || {
        let status = fleet.json(&["fleet", "status"]).await;
        let agents = status["agents"].as_array().expect("agents");
        agents.iter().any(|agent| agent["connected"] == false).then_some(())
    })
    .await;
    let partial = fleet.cli(&["cache", "purge", "--all", "--wait", "2s", "-o", "json"]).await;
    assert_eq!(partial.code, 1, "{partial:?}");
    let answer: Value = serde_json::from_str(&partial.stdout).expect("JSON");
    assert_eq!((&answer["asked"], &answer["answered"]), (&json!(4), &json!(1)), "{answer}");
    let why = |id: &str| {
        let nodes = answer["nodes"].as_array().expect("nodes");
        nodes.iter().find(|node| node["node"] == id).and_then(|node| node["error"].as_str()).expect("a node").to_owned()
    };
    assert!(why("proxy-eu-0").contains("did not answer within"), "{answer}");
    assert!(why("proxy-us-0").contains("its agent `agent-us` is away"), "{answer}");
    assert_eq!(why("proxy-eu-1"), "");
    fleet.proxies[0].process.signal(Signal::CONT);
    // Whoever is called reads this.
    let check = fleet.cli(&["check"]).await;
    assert_eq!(check.code, 1, "{check:?}");
    assert!(check.stdout.contains("agent-us (us, 2 proxies) is away"), "{check:?}");
    assert!(check.stdout.contains("journalctl -u sealane-agent"), "{check:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_a_fleet_refuses_a_config_unless_the_glass_is_broken_and_that_shows() {
    let fleet = Fleet::start(program(), &["eu"], 1).await;
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let file = fleet.config("fleet.yaml", one.address());
    assert_eq!(fleet.publish(&file).await.code, 0);
    fleet.wait_for_body("one").await;
    let local = format!("listen: 127.0.0.1:8080\nroutes: [{{ id: all, to: 'http://{}' }}]\n", two.address());
    let admin = fleet.proxies[0].admin;
    let (status, refused) =
        load::post(&format!("http://{admin}/api/v2/config/apply"), &local).await.expect("an answer");
    assert_eq!(status, 409, "{refused}");
    assert!(refused.contains("managed_by_agent") && refused.contains("sealane publish"), "{refused}");
    fleet.wait_for_body("one").await;
    let url = format!("http://{admin}/api/v2/config/apply?break_glass=true");
    let (status, applied) = load::post(&url, &local).await.expect("an answer");
    assert_eq!(status, 200, "{applied}");
    fleet.wait_for_body("two").await;
    wait::until("drift, half a minute after the last thing that was asked for", Duration::from_secs(120), async || {
        let nodes = fleet.nodes().await;
        (nodes.first()?["health"] == "drift").then_some(())
    })
    .await;
    let check = fleet.cli(&["check"]).await;
    assert!(check.stdout.contains("proxy-eu-0 drifts: it serves a config that somebody applied"), "{check:?}");
    // The next publish ends it.
    let next = fleet.config("next.yaml", one.address());
    std::fs::write(&next, format!("# next\n{}", std::fs::read_to_string(&next).expect("the config")))
        .expect("the config");
    assert_eq!(fleet.cli(&["publish", &next, "-m", "test"]).await.code, 0);
    fleet.wait_for_body("one").await;
    wait::until("the end of the drift", SOON, async || {
        let nodes = fleet.nodes().await;
        (nodes.first()?["health"] == "healthy").then_some(())
    })
    .await;
}
