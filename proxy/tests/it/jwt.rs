//! Authentication by JWT, as an attacker would try it, and keys that come, change and fail to come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use aws_lc_rs::{hmac, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

use crate::middleware::chain;
use crate::support::{Origin, Response, TestProxy, to, until};

/// Somebody who signs tokens.
enum Signer {
    Es256(EcdsaKeyPair),
    Rs256(Box<rsa::KeyPair>),
    EdDsa(Box<Ed25519KeyPair>),
    Hs256(Vec<u8>),
}

impl Signer {
    fn es256() -> Self {
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        Self::Es256(EcdsaKeyPair::generate(algorithm).unwrap())
    }

    fn rs256() -> Self {
        Self::Rs256(Box::new(rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap()))
    }

    fn ed25519() -> Self {
        Self::EdDsa(Box::new(Ed25519KeyPair::generate().unwrap()))
    }

    fn alg(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Rs256(_) => "RS256",
            Self::EdDsa(_) => "EdDSA",
            Self::Hs256(_) => "HS256",
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        let mut jwk = match self {
            Self::Es256(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..]) })
            }
            Self::Rs256(pair) => {
                let public = pair.public_key();
                let n = public.modulus().big_endian_without_leading_zero();
                let e = public.exponent().big_endian_without_leading_zero();
                json!({ "kty": "RSA", "n": BASE64.encode(n), "e": BASE64.encode(e) })
            }
            Self::EdDsa(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(pair.public_key().as_ref()) })
            }
            Self::Hs256(secret) => json!({ "kty": "oct", "alg": "HS256", "k": BASE64.encode(secret) }),
        };
        jwk["kid"] = kid.into();
        jwk
    }

    fn token(&self, header: Value, claims: &Value) -> String {
        let message = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Es256(pair) => pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
            Self::EdDsa(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Self::Hs256(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes()).as_ref().to_vec()
            }
        };
        format!("{message}.{}", BASE64.encode(signature))
    }

    /// A token that is good, with the key id `kid`.
    fn good(&self, kid: &str) -> String {
        self.token(json!({ "alg": self.alg(), "kid": kid, "typ": "JWT" }), &claims())
    }
}

fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap()
}

fn claims() -> Value {
    json!({ "iss": "https://auth.test", "aud": "api", "sub": "alice", "exp": now() + 3600, "roles": ["a", "b"] })
}

/// The claims with one of them changed; null takes it out.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

async fn ask(proxy: &TestProxy, authorization: &str) -> Response {
    let line = if authorization.is_empty() { String::new() } else { format!("Authorization: {authorization}\r\n") };
    proxy.client().await.ask(format!("GET / HTTP/1.1\r\nHost: test\r\n{line}\r\n")).await
}

async fn status(proxy: &TestProxy, token: &str) -> u16 {
    ask(proxy, &format!("Bearer {token}")).await.status
}

fn stage(keys: &str) -> String {
    format!("{{ type: auth, config: {{ jwt: {{ issuer: 'https://auth.test', audience: api, {keys} }} }} }}")
}

/// A key file; kept as long as the directory.
fn key_file(keys: &[Value]) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
    let path = path.display().to_string();
    (directory, path)
}

#[tokio::test]
async fn good_tokens_of_every_kind_of_key_pass() {
    let origin = Origin::fixed("in").await;
    let signers =
        [("e", Signer::es256()), ("r", Signer::rs256()), ("d", Signer::ed25519()), ("h", Signer::Hs256(vec![7; 32]))];
    let keys: Vec<_> = signers.iter().map(|(kid, signer)| signer.jwk(kid)).collect();
    let (_directory, path) = key_file(&keys);
    let proxy = TestProxy::start(&chain(&origin, &[&stage(&format!("jwks_file: '{path}'"))])).await;
    for (kid, signer) in &signers {
        let token = signer.good(kid);
        for _ in 0..2 {
            assert_eq!(status(&proxy, &token).await, 200, "{}", signer.alg());
        }
        let unnamed = signer.token(json!({ "alg": signer.alg() }), &claims());
        assert_eq!(status(&proxy, &unnamed).await, 200, "{} without key id", signer.alg());
        assert_eq!(ask(&proxy, &format!("bEARER  {token}")).await.status, 200);
    }
    // By default the endpoint gets the token too.
    assert!(origin.requests()[0].header("authorization").unwrap().starts_with("Bearer "));
}

#[tokio::test]
async fn attacks_on_tokens_are_refused() {
    let origin = Origin::fixed("in").await;
    let (trusted, other) = (Signer::es256(), Signer::es256());
    let rsa = Signer::rs256();
    let (_directory, path) = key_file(&[trusted.jwk("k"), rsa.jwk("r")]);
    let proxy = TestProxy::start(&chain(&origin, &[&stage(&format!("jwks_file: '{path}'"))])).await;
    let header = json!({ "alg": "ES256", "kid": "k" });
    let good = trusted.good("k");
    assert_eq!(status(&proxy, &good).await, 200);

    let body = |claims: &Value| BASE64.encode(claims.to_string());
    let none = |alg: &str, signature: &str| {
        format!("{}.{}.{signature}", BASE64.encode(json!({ "alg": alg, "kid": "k" }).to_string()), body(&claims()))
    };
    let parts: Vec<&str> = good.split('.').collect();
    let public = BASE64.decode(rsa.jwk("r")["n"].as_str().unwrap()).unwrap();
    let point = [
        &[4][..],
        &BASE64.decode(trusted.jwk("k")["x"].as_str().unwrap()).unwrap(),
        &BASE64.decode(trusted.jwk("k")["y"].as_str().unwrap()).unwrap(),
    ]
    .concat();
    let confused =
        |secret: Vec<u8>, kid: &str| Signer::Hs256(secret).token(json!({ "alg": "HS256", "kid": kid }), &claims());
    let own_jwk = json!({ "alg": "ES256", "kid": "k", "jwk": other.jwk("k"), "jku": "http://evil.test/", "x5u": "http://evil.test/" });
    let attacks: Vec<(&str, String)> = vec![
        ("alg none", none("none", "")),
        ("alg None", none("None", "")),
        ("alg nOnE with a signature", none("nOnE", parts[2])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{good}.x")),
        ("HS256 with the RSA modulus", confused(public, "r")),
        ("HS256 with the EC point", confused(point, "k")),
        ("HS256 with nothing", confused(vec![0; 32], "k")),
        ("an algorithm of another key", rsa.token(json!({ "alg": "RS256", "kid": "k" }), &claims())),
        ("signed by somebody else", other.good("k")),
        ("an embedded key", other.token(own_jwk, &claims())),
        ("an unknown key id", other.good("new")),
        ("a key id that climbs", other.good("../../../dev/null")),
        ("a key id that injects", other.good("k' OR 1=1 --")),
        (
            "other claims under the signature",
            format!("{}.{}.{}", parts[0], body(&with("sub", "root".into())), parts[2]),
        ),
        ("expired", trusted.token(header.clone(), &with("exp", (now() - 120).into()))),
        ("no expiry", trusted.token(header.clone(), &with("exp", Value::Null))),
        ("expiry as text", trusted.token(header.clone(), &with("exp", (now() + 60).to_string().into()))),
        ("negative expiry", trusted.token(header.clone(), &with("exp", (-1).into()))),
        ("not yet valid", trusted.token(header.clone(), &with("nbf", (now() + 120).into()))),
        ("another issuer", trusted.token(header.clone(), &with("iss", "https://auth.test.evil".into()))),
        ("an issuer with a slash", trusted.token(header.clone(), &with("iss", "https://auth.test/".into()))),
        ("no issuer", trusted.token(header.clone(), &with("iss", Value::Null))),
        ("another audience", trusted.token(header.clone(), &with("aud", "other".into()))),
        ("no audience", trusted.token(header.clone(), &with("aud", Value::Null))),
        ("audiences without ours", trusted.token(header.clone(), &with("aud", json!(["x", "apix"])))),
        (
            "a critical extension",
            trusted.token(json!({ "alg": "ES256", "kid": "k", "crit": ["x"], "x": 1 }), &claims()),
        ),
        ("an unencoded payload", trusted.token(json!({ "alg": "ES256", "kid": "k", "b64": false }), &claims())),
        ("a huge token", trusted.token(header.clone(), &with("pad", "x".repeat(30_000).into()))),
        ("padding", format!("{good}=")),
        ("another alphabet", format!("{}+/", &good[..good.len() - 2])),
        ("nothing", String::new()),
        ("dots", "..".to_owned()),
        ("no JSON", format!("{}.{}.{}", BASE64.encode("no"), parts[1], parts[2])),
        ("deep JSON", format!("{}.{}.{}", BASE64.encode("[".repeat(5000)), parts[1], parts[2])),
    ];
    let before = origin.requests().len();
    for (name, token) in attacks {
        let response = ask(&proxy, &format!("Bearer {token}")).await;
        assert_eq!((response.status, response.category()), (401, "unauthorized".to_owned()), "{name}");
        assert!(response.header("www-authenticate").unwrap().starts_with("Bearer"), "{name}");
        assert!(token.len() < 20 || !response.text().contains(&token), "{name}");
    }
    for (name, lines) in [
        ("none at all", String::new()),
        ("another scheme", format!("Authorization: Basic {good}\r\n")),
        ("no scheme", format!("Authorization: {good}\r\n")),
        ("two", format!("Authorization: Bearer {good}\r\nAuthorization: Bearer {good}\r\n")),
        ("a list", format!("Authorization: Bearer {good}, Bearer {good}\r\n")),
        ("in the query", String::new()),
    ] {
        let request = format!("GET /?access_token={good} HTTP/1.1\r\nHost: test\r\n{lines}\r\n");
        assert_eq!(proxy.client().await.ask(request).await.status, 401, "{name}");
    }
    assert_eq!(ask(&proxy, "").await.header("www-authenticate"), Some("Bearer"));
    assert_eq!(origin.requests().len(), before, "nothing passed");
    assert!(proxy.metric("proxy_auth_tokens_total{result=\"signature\"}").unwrap() >= 2.0);
    assert!(proxy.metric("proxy_auth_tokens_total{result=\"missing\"}").unwrap() >= 3.0);
    assert_eq!(proxy.metric("proxy_auth_tokens_total{result=\"no_keys\"}"), Some(0.0));
}

#[tokio::test]
async fn leeway_audiences_and_algorithms_are_as_configured() {
    let origin = Origin::fixed("in").await;
    let signer = Signer::es256();
    let (_directory, path) = key_file(&[signer.jwk("k")]);
    let yaml = |more: &str| {
        chain(
            &origin,
            &[&format!(
                "{{ type: auth, config: {{ jwt: {{ issuer: 'https://auth.test', jwks_file: '{path}', {more} }} }} }}"
            )],
        )
    };
    let token = |claims: &Value| signer.token(json!({ "alg": "ES256", "kid": "k" }), claims);
    let proxy = TestProxy::start(&yaml("leeway: 0s")).await;
    assert_eq!(status(&proxy, &token(&with("exp", (now() - 1).into()))).await, 401);
    assert_eq!(status(&proxy, &token(&with("aud", "whatever".into()))).await, 200, "no audience is asked for");
    proxy.serve(&yaml("leeway: 60s, audience: [a, b]")).await;
    assert_eq!(status(&proxy, &token(&with("aud", "whatever".into()))).await, 401, "a new config verifies anew");
    assert_eq!(status(&proxy, &token(&with("aud", json!(["x", "b"])))).await, 200);
    let mut late = with("exp", (now() - 30).into());
    late["aud"] = "a".into();
    assert_eq!(status(&proxy, &token(&late)).await, 200);
    proxy.serve(&yaml("algorithms: [RS256]")).await;
    assert_eq!(status(&proxy, &token(&claims())).await, 401);
}

#[tokio::test]
async fn claims_are_passed_on_and_nobody_else_can_claim_them() {
    let origin = Origin::fixed("in").await;
    let signer = Signer::es256();
    let (_directory, path) = key_file(&[signer.jwk("k")]);
    let more = format!(
        "jwks_file: '{path}', forward_token: false, claims_to_headers: {{ sub: X-User, roles: X-Roles, \
                        realm.id: X-Realm, evil: X-Evil, absent: X-Absent }}"
    );
    let stages = [
        stage(&more),
        "{ type: rate_limit, config: { requests_per_second: 0.001, burst: 2, key: 'claim:sub' } }".to_owned(),
    ];
    let proxy = TestProxy::start(&chain(&origin, &stages.each_ref().map(String::as_str))).await;
    let mut claims = with("realm", json!({ "id": 7 }));
    claims["evil"] = "a\r\nX-Injected: 1".into();
    let token = signer.token(json!({ "alg": "ES256", "kid": "k" }), &claims);
    let request = format!(
        "GET / HTTP/1.1\r\nHost: test\r\nX-User: root\r\nx_user: root\r\nX-ROLES: admin\r\nX-Absent: me\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    for _ in 0..2 {
        assert_eq!(proxy.client().await.ask(&request).await.status, 200);
    }
    assert_eq!(proxy.client().await.ask(&request).await.status, 429, "by claim");
    for seen in origin.requests() {
        assert_eq!((seen.header("x-user"), seen.header("x_user")), (Some("alice"), None));
        assert_eq!((seen.header("x-roles"), seen.header("x-realm")), (Some("a,b"), Some("7")));
        assert_eq!((seen.header("x-absent"), seen.header("x-evil"), seen.header("x-injected")), (None, None, None));
        assert_eq!(seen.header("authorization"), None);
    }
}

/// Serves what it is told to, and counts how often it was asked.
async fn key_server(keys: Arc<std::sync::Mutex<Option<Value>>>) -> Origin {
    Origin::start(move |request| match &*keys.lock().unwrap() {
        None => b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
        Some(body) => {
            let body = if request.line().contains("openid") {
                body["discovery"].to_string()
            } else {
                body["jwks"].to_string()
            };
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
        }
    })
    .await
}

#[tokio::test]
async fn keys_from_a_url_are_fetched_again_when_a_token_names_an_unknown_one_but_not_at_will() {
    let origin = Origin::fixed("in").await;
    let (old, new) = (Signer::es256(), Signer::es256());
    let keys = Arc::new(std::sync::Mutex::new(Some(json!({ "jwks": { "keys": [old.jwk("old")] } }))));
    let server = key_server(Arc::clone(&keys)).await;
    let yaml = chain(&origin, &[&stage(&format!("jwks_url: 'http://{}/keys'", server.address))]);
    let proxy = TestProxy::start(&yaml).await;
    assert_eq!(server.requests().len(), 1, "fetched before the config was served");
    assert_eq!(status(&proxy, &old.good("old")).await, 200);
    *keys.lock().unwrap() = Some(json!({ "jwks": { "keys": [new.jwk("new")] } }));
    assert_eq!(status(&proxy, &new.good("new")).await, 200, "waits for the keys, then passes");
    assert_eq!(server.requests().len(), 2);
    assert_eq!(status(&proxy, &old.good("old")).await, 401, "a key that is gone verifies nothing, remembered or not");
    for number in 0..20 {
        assert_eq!(status(&proxy, &new.good(&format!("random-{number}"))).await, 401);
    }
    assert_eq!(server.requests().len(), 2, "unknown keys do not make the proxy hammer the server");
    // Keys stay through a swap, also when their server is gone.
    *keys.lock().unwrap() = None;
    proxy.serve(&yaml).await;
    assert_eq!(status(&proxy, &new.good("new")).await, 200);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn without_keys_nothing_passes_and_they_are_looked_for_until_they_are_there() {
    let origin = Origin::fixed("in").await;
    let signer = Signer::ed25519();
    let keys = Arc::new(std::sync::Mutex::new(None));
    let server = key_server(Arc::clone(&keys)).await;
    let issuer = format!("http://{}/realm", server.address);
    let yaml = chain(&origin, &[&format!("{{ type: auth, config: {{ jwt: {{ issuer: '{issuer}' }} }} }}")]);
    let proxy = TestProxy::start(&yaml).await;
    let token = signer.token(json!({ "alg": "EdDSA", "kid": "k" }), &with("iss", issuer.clone().into()));
    let response = ask(&proxy, &format!("Bearer {token}")).await;
    assert_eq!((response.status, response.category()), (500, "internal".to_owned()));
    assert_eq!(ask(&proxy, "").await.status, 401, "without a token there is nothing to verify");
    let jwks = json!({ "keys": [signer.jwk("k")] });
    let discovery = json!({ "issuer": issuer, "jwks_uri": format!("http://{}/keys", server.address) });
    *keys.lock().unwrap() = Some(json!({ "discovery": discovery, "jwks": jwks }));
    until("keys", async || (status(&proxy, &token).await == 200).then_some(())).await;
    assert!(
        server
            .requests()
            .iter()
            .any(|request| request.line().starts_with("GET /realm/.well-known/openid-configuration"))
    );
    let source = format!("proxy_jwks_keys{{source=\"{issuer}\"}}");
    assert_eq!(proxy.metric(&source), Some(1.0));

    let other = json!({ "issuer": "https://evil.test", "jwks_uri": format!("http://{}/keys", server.address) });
    *keys.lock().unwrap() = Some(json!({ "discovery": other, "jwks": { "keys": [signer.jwk("k")] } }));
    let fresh = TestProxy::start(&yaml).await;
    assert_eq!(status(&fresh, &token).await, 500, "a discovery document of somebody else names no keys");
}

#[tokio::test]
async fn a_key_file_is_read_again_when_it_changes_and_must_be_good_at_first() {
    let origin = Origin::fixed("in").await;
    let (old, new) = (Signer::es256(), Signer::es256());
    let (directory, path) = key_file(&[old.jwk("old")]);
    let yaml = chain(&origin, &[&stage(&format!("jwks_file: '{path}'"))]);
    let proxy = TestProxy::start(&yaml).await;
    assert_eq!(status(&proxy, &old.good("old")).await, 200);
    let replace = |text: String| {
        let fresh = directory.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
    };
    replace("{ broken".to_owned());
    until("a failed look", async || {
        let series = format!("proxy_jwks_refreshes_total{{source=\"{path}\",result=\"failure\"}}");
        proxy.metric(&series).filter(|failures| *failures > 0.0)
    })
    .await;
    assert_eq!(status(&proxy, &old.good("old")).await, 200, "the last good keys stay");
    let other = TestProxy::start(&to(&[origin.address])).await;
    let problems = other.try_serve(&yaml).await.unwrap_err();
    assert_eq!(problems[0].code, "keys_unreadable");
    replace(json!({ "keys": [new.jwk("new")] }).to_string());
    until("the new keys", async || (status(&proxy, &new.good("new")).await == 200).then_some(())).await;
    assert_eq!(status(&proxy, &old.good("old")).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_never_switches_a_security_stage_off() {
    let origin = Origin::fixed("in").await;
    let signer = Signer::es256();
    let (_directory, path) = key_file(&[signer.jwk("k")]);
    let stages = |version: usize| {
        let edit = format!("{{ type: header_transform, config: {{ set: {{ X-Version: '{version}' }} }} }}");
        let auth = stage(&format!("jwks_file: '{path}', leeway: {}s", 10 + version % 2));
        format!("listen: 127.0.0.1:0\nlogging: {{ access: off }}\n{}", chain(&origin, &[&edit, &auth]))
    };
    let configs: Vec<_> = (0..4).map(|version| crate::support::config(&stages(version))).collect();
    let proxy = Arc::new(TestProxy::start(&stages(0)).await);
    let running = Arc::new(AtomicBool::new(true));
    let (refused, passed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let good = signer.good("k");
    let forged = Signer::es256().good("k");
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (proxy, running) = (Arc::clone(&proxy), Arc::clone(&running));
            let (refused, passed) = (Arc::clone(&refused), Arc::clone(&passed));
            let token = if number == 0 { good.clone() } else { forged.clone() };
            tokio::spawn(async move {
                let mut client = proxy.client().await;
                while running.load(Ordering::Relaxed) {
                    let line = if number == 1 { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
                    let response = client.ask(format!("GET / HTTP/1.1\r\nHost: test\r\n{line}\r\n")).await;
                    let expected = if number == 0 { 200 } else { 401 };
                    assert_eq!(response.status, expected);
                    if number == 0 { &passed } else { &refused }.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for number in 0..600u64 {
        let config = Arc::clone(&configs[number as usize % configs.len()]);
        let prepared = proxy.proxy.prepare(crate::support::tag(number + 10), config).await.unwrap();
        proxy.proxy.activate(prepared).await.unwrap();
    }
    running.store(false, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let passed = passed.load(Ordering::Relaxed);
    assert!(passed > 50 && refused.load(Ordering::Relaxed) > 100);
    assert_eq!(origin.requests().len(), passed, "nobody else reached the endpoint");
}
