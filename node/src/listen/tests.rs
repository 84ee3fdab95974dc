//! Who gets through, on the connections of which every hop between members is made: a server that lets strangers stand so
//! that they can enrol (an agent's listeners), one that ends their handshake (a proxy's control listener), and a client.

use std::sync::Mutex;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use sealane_model::ids::Digest;

use super::*;
use crate::identity::Identity;

/// A CA, as a fleet's authority has one.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A member's identity that is good in these years.
    fn identity(&self, name: &str, years: (i32, i32)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("identity.pem");
        std::fs::write(&file, format!("{}{}{}", key.serialize_pem(), certificate.pem(), self.pem)).unwrap();
        Identity::load(&file).unwrap().unwrap()
    }

    /// What a member of fleet `f` that trusts this CA has.
    fn keyring(&self, identity: Option<&Identity>) -> Keyring {
        let keyring = Keyring::new("f");
        keyring.trust(&self.pem).unwrap();
        if let Some(identity) = identity {
            keyring.show(identity).unwrap();
        }
        keyring
    }
}

const GOOD: (i32, i32) = (2020, 2090);
const AGENT: &str = "sealane://f/region/eu/agent/a";
const PROXY: &str = "sealane://f/region/eu/proxy/p";

/// One connection. What the dialler got, whom the server saw, and what the server counted.
async fn meet(
    server: &Keyring,
    let_in: Peers,
    client: &Keyring,
    wants: Peers,
) -> (io::Result<Link>, Option<Peer>, Vec<&'static str>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let counted = Arc::new(Mutex::new(Vec::new()));
    let count = Arc::clone(&counted);
    let (told, mut refused) = mpsc::channel(1);
    let turned_away = move |code, _: &str| {
        count.lock().unwrap().push(code);
        let _ = told.try_send(());
    };
    let mut links = accept(listener, Guard::Tls(server.clone(), let_in, b"h2"), turned_away).unwrap();
    let dialled = dial(&address, &Guard::Tls(client.clone(), wants, b"h2")).await;
    let seen = tokio::select! {
        link = links.recv() => link.map(|link| link.peer().clone()),
        _ = refused.recv() => None,
    };
    let counted = counted.lock().unwrap().clone();
    (dialled, seen, counted)
}

/// What a door says of a proxy `p` of region `eu`.
fn door(peer: &Peer, revoked: &Revoked) -> Result<(), &'static str> {
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap() * 1000;
    peer.speaks_for(Role::Proxy, "eu", "p", revoked, now).map_err(|(code, _)| code)
}

#[tokio::test]
async fn at_an_agents_listeners_every_certificate_but_the_right_one_is_a_stranger_with_a_code() {
    let (ca, other) = (Ca::new(), Ca::new());
    let agent = ca.keyring(Some(&ca.identity(AGENT, GOOD)));
    let revoked = ca.identity(PROXY, GOOD);
    agent.revoked().add([(Digest::of(&revoked.certificate_der()), i64::MAX)], 0).unwrap();
    for (code, identity) in [
        (None, Some(ca.identity(PROXY, GOOD))),
        (Some("no_certificate"), None),
        (Some("certificate_expired"), Some(ca.identity(PROXY, (2020, 2021)))),
        (Some("certificate_untrusted"), Some(ca.identity(PROXY, (2080, 2090)))),
        (Some("certificate_untrusted"), Some(other.identity(PROXY, GOOD))),
        (Some("certificate_other_fleet"), Some(ca.identity("sealane://g/region/eu/proxy/p", GOOD))),
        (Some("certificate_nameless"), Some(ca.identity("https://f/proxy/p", GOOD))),
        (Some("certificate_other_role"), Some(ca.identity(AGENT, GOOD))),
        (Some("certificate_other_region"), Some(ca.identity("sealane://f/region/us/proxy/p", GOOD))),
        (Some("certificate_other_id"), Some(ca.identity("sealane://f/region/eu/proxy/q", GOOD))),
        (Some("certificate_revoked"), Some(revoked)),
    ] {
        let client = ca.keyring(identity.as_ref());
        let (_, seen, _) = meet(&agent, Peers::Judged, &client, Peers::Only(Role::Agent)).await;
        let seen = seen.expect("strangers stand, so that they can enrol");
        assert_eq!(door(&seen, agent.revoked()).err(), code);
    }
}

#[tokio::test]
async fn at_a_proxys_control_listener_every_certificate_but_an_agents_ends_the_handshake_with_a_code() {
    let (ca, other) = (Ca::new(), Ca::new());
    let proxy = ca.keyring(Some(&ca.identity(PROXY, GOOD)));
    let revoked = ca.identity(AGENT, GOOD);
    proxy.revoked().add([(Digest::of(&revoked.certificate_der()), i64::MAX)], 0).unwrap();
    let good = ca.keyring(Some(&ca.identity(AGENT, GOOD)));
    let (dialled, seen, counted) = meet(&proxy, Peers::Only(Role::Agent), &good, Peers::Judged).await;
    assert!(dialled.is_ok() && seen.is_some() && counted.is_empty());
    for (code, identity) in [
        ("certificate_expired", ca.identity(AGENT, (2020, 2021))),
        ("certificate_untrusted", other.identity(AGENT, GOOD)),
        ("certificate_other_fleet", ca.identity("sealane://g/region/eu/agent/a", GOOD)),
        ("certificate_other_role", ca.identity(PROXY, GOOD)),
        ("certificate_revoked", revoked),
    ] {
        let client = ca.keyring(Some(&identity));
        let (_, seen, counted) = meet(&proxy, Peers::Only(Role::Agent), &client, Peers::Judged).await;
        assert!(seen.is_none(), "{code}");
        assert_eq!(counted, [code]);
    }
    let (_, seen, counted) = meet(&proxy, Peers::Only(Role::Agent), &ca.keyring(None), Peers::Judged).await;
    assert!(seen.is_none() && counted == ["handshake"], "{counted:?}");
}

#[tokio::test]
async fn a_proxy_that_dials_gives_up_on_every_agent_but_one_of_its_fleet() {
    let (ca, other) = (Ca::new(), Ca::new());
    let proxy = ca.keyring(Some(&ca.identity(PROXY, GOOD)));
    let revoked = ca.identity(AGENT, GOOD);
    proxy.revoked().add([(Digest::of(&revoked.certificate_der()), i64::MAX)], 0).unwrap();
    for (code, identity) in [
        (None, ca.identity(AGENT, GOOD)),
        (Some("certificate_expired"), ca.identity(AGENT, (2020, 2021))),
        (Some("certificate_untrusted"), other.identity(AGENT, GOOD)),
        (Some("certificate_other_fleet"), ca.identity("sealane://g/region/eu/agent/a", GOOD)),
        (Some("certificate_other_role"), ca.identity(PROXY, GOOD)),
        (Some("certificate_revoked"), revoked),
    ] {
        let server = ca.keyring(Some(&identity));
        let (dialled, ..) = meet(&server, Peers::Judged, &proxy, Peers::Only(Role::Agent)).await;
        let stranger = dialled.err().map(|error| Stranger::behind(&error).expect("it says who was there").code());
        assert_eq!(stranger, code);
    }
}

#[tokio::test]
async fn a_certificate_that_ends_or_is_revoked_while_its_connection_stands_opens_nothing_more() {
    let ca = Ca::new();
    let agent = ca.keyring(Some(&ca.identity(AGENT, GOOD)));
    let identity = ca.identity(PROXY, GOOD);
    let client = ca.keyring(Some(&identity));
    let (_, seen, _) = meet(&agent, Peers::Judged, &client, Peers::Only(Role::Agent)).await;
    let peer = seen.unwrap();
    assert_eq!(door(&peer, agent.revoked()), Ok(()));
    let end = identity.not_after_unix_ms();
    let later = peer.speaks_for(Role::Proxy, "eu", "p", agent.revoked(), end).unwrap_err();
    assert_eq!(later.0, "certificate_expired");
    agent.revoked().add([(Digest::of(&identity.certificate_der()), end)], 0).unwrap();
    assert_eq!(door(&peer, agent.revoked()), Err("certificate_revoked"));
}
