//! Starts the demo's fleet, bottom up, and waits until it serves its first revision.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use sealane_model::config::{AccessSink, ListenAddress};
use sealane_model::plan::{GatePlan, Plan, StagePlan};
use sealane_proto::v1;
use sealane_proxy::control::{self, AgentAddress, ControlSettings, Enrolment, Source};
use sealane_proxy::proxy::Proxy;
use sealane_proxy::settings::ListenFlag;
use tokio::time::{Duration, Instant};

use super::{BACKENDS, Backend, BackendOptions, Fleet, LOOK, PROXIES_PER_AGENT, REGIONS, SOON};
use super::{files, ports, publish, start_backend};
use crate::client::{ClientArgs, Server};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::run::failed;

/// Canary, half, all; short enough to watch.
fn plan() -> Plan {
    let stage = |name: &str, fleet_percent, bake_seconds| StagePlan {
        name: name.into(),
        fleet_percent,
        bake: Duration::from_secs(bake_seconds),
    };
    Plan {
        stages: vec![stage("canary", 10.0, 3), stage("half", 50.0, 3), stage("all", 100.0, 3)],
        gates: vec![
            GatePlan::ErrorRate(0.01),
            GatePlan::Latency { percentile: 95, max: Duration::from_millis(500) },
            GatePlan::RejectedNodes(0),
        ],
        requests_min: 30,
        final_bake: Duration::from_secs(3),
        ..Plan::default()
    }
}

pub(super) async fn fleet(directory: &Path, printer: &Printer) -> Result<Fleet, Failure> {
    let cannot = |what: &'static str| move |error: io::Error| failed(what, error);
    std::fs::create_dir_all(directory).map_err(cannot("cannot make the directory"))?;
    let directory = directory.canonicalize().map_err(cannot("cannot find the directory"))?;

    printer.talk("starting backends");
    let mut backends: Vec<Backend> = Vec::new();
    for id in 1..=BACKENDS {
        let listen = ports::free(8080 + 100 + id).map_err(cannot("cannot find a port"))?;
        let options = BackendOptions { id, listen, ..BackendOptions::default() };
        backends.push(start_backend(options).await.map_err(cannot("cannot start a backend"))?);
    }
    let addresses: Vec<SocketAddr> = backends.iter().map(Backend::address).collect();
    let dead = ports::dead().map_err(cannot("cannot find a port"))?;
    let configs = files::write(&directory, &addresses, dead.address).map_err(cannot("cannot write the configs"))?;

    printer.talk("starting the authority");
    let authority = sealane_authority::start(sealane_authority::Settings {
        grpc_addr: ports::free(7443).map_err(cannot("cannot find a port"))?,
        http_addr: ports::free(7480).map_err(cannot("cannot find a port"))?,
        default_plan: Some(plan()),
        ..sealane_authority::Settings::loopback(directory.join("authority"))
    })
    .await
    .map_err(|error| failed("cannot start the authority", error))?;
    let url = format!("http://{}", authority.grpc_addr());
    let token = directory.join("admin.token");
    std::fs::copy(directory.join("authority/admin.token"), &token).map_err(cannot("cannot copy the token"))?;
    let file = directory.join("client.yaml");
    let quoted = serde_json::Value::String(token.display().to_string());
    std::fs::write(&file, format!("server: {url}\ntoken_file: {quoted}\n"))
        .map_err(cannot("cannot write the client file"))?;
    let client = ClientArgs { client: Some(file), ..ClientArgs::default() };
    let server = client.connect(printer).await?;

    let mut agents = Vec::new();
    let mut proxies = Vec::new();
    let mut data = Vec::new();
    for (index, region) in REGIONS.iter().enumerate() {
        printer.talk(&format!("starting the agent and the proxies of region {region}"));
        let token_file = agent_token(&server, region, &directory).await?;
        let number = u16::try_from(index).unwrap_or_default();
        let agent = sealane_agent::start(sealane_agent::Settings {
            id: Some(format!("agent-{region}")),
            token_file: Some(token_file),
            grpc_addr: ports::free(7444 + 100 * number).map_err(cannot("cannot find a port"))?,
            http_addr: ports::free(7481 + 100 * number).map_err(cannot("cannot find a port"))?,
            ..sealane_agent::Settings::new(
                region,
                &url,
                directory.join("authority/trust.json"),
                directory.join(format!("agent-{region}")),
            )
        })
        .await
        .map_err(|error| failed("cannot start an agent", error))?;
        for _ in 0..PROXIES_PER_AGENT {
            let place = u16::try_from(proxies.len()).unwrap_or_default();
            let address = ports::free(8080 + place).map_err(cannot("cannot find a port"))?;
            let admin = ports::free(9090 + place).map_err(cannot("cannot find a port"))?;
            let id = format!("{region}-{}", 1 + usize::from(place) % PROXIES_PER_AGENT);
            let settings = ControlSettings {
                id: Some(id.clone()),
                source: Source::Agent(AgentAddress::Http(agent.grpc_addr().to_string())),
                enrolment: Enrolment::default(),
                trust: directory.join("authority/trust.json"),
                data: directory.join(format!("proxy-{id}")),
            };
            proxies.push(proxy(address, admin, authority.sandbox_api(), settings).await?);
            data.push(address);
        }
        agents.push(agent);
    }

    let fleet = Fleet { directory, configs, authority, agents, proxies, data, backends, _dead: dead.socket, client };
    printer.talk("publishing fleet.yaml");
    wait("the proxies at the authority", async || Ok(nodes(&server).await?.len() == fleet.data.len())).await?;
    let first = publish(&server, &fleet.configs.fleet, "fleet.yaml").await?;
    wait("the first revision on every proxy", async || {
        Ok(nodes(&server).await?.iter().all(|node| node.revision >= first && node.health == "healthy"))
    })
    .await?;
    Ok(fleet)
}

async fn proxy(
    address: SocketAddr,
    admin: SocketAddr,
    sandbox_api: axum::Router,
    settings: ControlSettings,
) -> Result<(Proxy, control::Control), Failure> {
    let address = ListenAddress { ip: Some(address.ip()), port: address.port() };
    let mut own = crate::run::proxy_settings(Some(1), Some(admin), "the demo", false);
    if let Some(admin) = &mut own.admin {
        admin.extra = Some(sandbox_api);
    }
    own.node = settings.id.clone().unwrap_or_default();
    own.http_listen = Some(ListenFlag { address, flag: "the demo" });
    // Six proxies' access logs would drown what the demo has to say.
    own.access_log = Some(AccessSink::Off);
    let proxy = Proxy::start(own).await.map_err(|error| failed("cannot start a proxy", error))?;
    let control =
        control::attach(proxy.clone(), settings).await.map_err(|error| failed("cannot start a proxy", error))?;
    Ok((proxy, control))
}

/// A token for the agent of a region, in a file of its own.
async fn agent_token(server: &Server, region: &str, directory: &Path) -> Result<std::path::PathBuf, Failure> {
    let request =
        v1::CreateTokenRequest { role: "agent".into(), region: region.into(), comment: "demo".into(), ttl: None };
    let answer = server.call(server.fleet().create_token(request)).await?;
    let path = directory.join(format!("agent-{region}.token"));
    files::write_secret(&path, &answer.text).map_err(|error| failed("cannot write a token", error))?;
    Ok(path)
}

async fn nodes(server: &Server) -> Result<Vec<v1::Node>, Failure> {
    Ok(server.call(server.fleet().get_fleet(v1::GetFleetRequest {})).await?.nodes)
}

async fn wait(what: &str, mut look: impl AsyncFnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let end = Instant::now() + SOON;
    while !look().await? {
        if Instant::now() > end {
            return Err(Failure::new(Exit::Failed, format!("waited {}s for {what}", SOON.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
