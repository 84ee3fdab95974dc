//! TLS on both sides.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sealane_model::config::{Config, Mtls, Position};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::http2::Http2;
use crate::support::{Client, Origin, TestProxy, complete, noise, to};

/// A CA and what it issued, as PEM files.
struct Authority {
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { directory: tempfile::tempdir().unwrap(), issuer };
        std::fs::write(authority.path("ca.crt"), authority.issuer.pem()).unwrap();
        authority
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn issue(&self, file: &str, names: &[&str]) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{file}.crt")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    fn chain(&self, file: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_file_iter(self.path(&format!("{file}.crt"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{file}.key"))).unwrap();
        (chain.collect::<Result<_, _>>().unwrap(), key)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.crt")).unwrap()).unwrap();
        roots
    }

    fn client_config(&self, certificate: Option<&str>) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(self.roots());
        match certificate {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let (chain, key) = self.chain(file);
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }

    fn yaml(&self, certificates: &[&str], routes: &str) -> String {
        let directory = self.directory.path().display();
        let certificates: Vec<_> = certificates
            .iter()
            .map(|file| format!("{{ cert_file: {directory}/{file}.crt, key_file: {directory}/{file}.key }}"))
            .collect();
        complete(&format!(
            "listeners: [{{ name: https, address: '127.0.0.1:0', tls: true }}]\ntls: {{ certificates: [{}] }}\n{routes}",
            certificates.join(", ")
        ))
    }
}

async fn connect(proxy: &TestProxy, config: ClientConfig, name: &str) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    let tcp = TcpStream::connect(proxy.address()).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    Ok(Client::over(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?))
}

fn served_names(client: &Client<TlsStream<TcpStream>>) -> Vec<u8> {
    client.stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn requests_over_tls_are_served_with_the_certificate_of_their_name() {
    let authority = Authority::new();
    authority.issue("default", &["default.test"]);
    authority.issue("exact", &["exact.test"]);
    authority.issue("wild", &["*.wild.test"]);
    let origin = Origin::fixed("secure").await;
    let yaml = authority.yaml(&["default", "exact", "wild"], &to(&[origin.address]));
    let proxy = TestProxy::start(&yaml).await;
    for (name, file) in
        [("exact.test", "exact"), ("EXACT.test", "exact"), ("a.wild.test", "wild"), ("default.test", "default")]
    {
        let mut client = connect(&proxy, authority.client_config(None), name).await.unwrap();
        assert_eq!(served_names(&client), authority.chain(file).0[0].to_vec(), "{name}");
        for _ in 0..2 {
            assert_eq!(client.get("/").await.text(), "secure");
        }
    }
    let unknown = connect(&proxy, authority.client_config(None), "other.test").await;
    assert!(unknown.is_err(), "the default certificate does not name it");
    let seen = &origin.requests()[0];
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert!(proxy.proxy.metrics().contains("proxy_certificate_expiry_timestamp_seconds{name=\"*.wild.test\"}"));
}

#[tokio::test]
async fn large_bodies_go_through_tls_byte_for_byte() {
    let authority = Authority::new();
    authority.issue("a", &["a.test"]);
    let origin = Origin::start(|request| {
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()).into_bytes();
        answer.extend(&request.body);
        answer
    })
    .await;
    let proxy = TestProxy::start(&authority.yaml(&["a"], &to(&[origin.address]))).await;
    let client = connect(&proxy, authority.client_config(None), "a.test").await.unwrap();
    let body = noise(3_000_000, 5);
    let mut request = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend(&body);
    let (reading, mut writing) = tokio::io::split(client.stream);
    let sending = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut writing, &request).await.unwrap();
        tokio::io::AsyncWriteExt::flush(&mut writing).await.unwrap();
        writing
    });
    let mut client = Client::over(tokio::io::join(reading, tokio::io::sink()));
    assert!(client.response().await.body == body);
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn endpoints_are_spoken_to_over_tls_and_verified() {
    let authority = Authority::new();
    authority.issue("inner", &["inner.test"]);
    let (chain, key) = authority.chain("inner");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server.with_no_client_auth().with_single_cert(chain, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(tcp).await else { continue };
            tokio::spawn(async move {
                let mut client = Client::over(stream);
                while !client.read_exact(1).await.is_empty() {
                    client.read_until(b"\r\n\r\n").await;
                    client.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ninner").await;
                }
            });
        }
    });
    let ca = authority.path("ca.crt");
    let yaml = |tls: &str| {
        format!("routes: [{{ pool: p }}]\npools: [{{ id: p, endpoints: ['https://{address}'], tls: {{ {tls} }} }}]")
    };
    let proxy = TestProxy::start(&yaml(&format!("ca_file: {}, sni: inner.test", ca.display()))).await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "inner");
    }
    for (tls, status) in [
        (format!("ca_file: {}, sni: other.test", ca.display()), 502),
        (format!("ca_file: {}", ca.display()), 502),
        ("insecure_skip_verify: true".to_owned(), 200),
    ] {
        proxy.serve(&yaml(&tls)).await;
        assert_eq!(client.get("/").await.status, status, "{tls}: connections of other settings are not used");
    }
    let problems = proxy.try_serve(&yaml("ca_file: /no/such.crt")).await.unwrap_err();
    assert_eq!(problems[0].code, "ca_unreadable");
}

#[tokio::test]
async fn a_route_may_need_a_client_certificate_for_its_own_host() {
    let authority = Authority::new();
    authority.issue("a", &["open.test", "closed.test"]);
    authority.issue("client", &["client"]);
    let origin = Origin::fixed("in").await;
    let routes = format!(
        "routes: [{{ host: closed.test, to: 'http://{0}' }}, {{ host: open.test, to: 'http://{0}' }}]",
        origin.address
    );
    let yaml = authority.yaml(&["a"], &routes);
    let ca_file = authority.path("ca.crt").display().to_string();
    let edit = |required: bool| {
        let ca_file = ca_file.clone();
        move |config: &mut Config| {
            Arc::make_mut(&mut config.routes[0]).require_mtls = true;
            let mtls = Mtls { ca_file, require_client_cert: required, at: Position::default() };
            config.tls.as_mut().unwrap().mtls = Some(mtls);
        }
    };
    let proxy = TestProxy::start(&yaml).await;
    proxy.serve_edited(&yaml, edit(false)).await.unwrap();
    let get = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let with = || authority.client_config(Some("client"));
    let without = || authority.client_config(None);

    let mut client = connect(&proxy, with(), "closed.test").await.unwrap();
    assert_eq!(client.ask(get("closed.test")).await.text(), "in");
    let mut client = connect(&proxy, without(), "closed.test").await.unwrap();
    assert_eq!(client.ask(get("closed.test")).await.category(), "mtls_required");
    assert_eq!(client.ask(get("open.test")).await.text(), "in", "others are not asked");
    // It could not have shown one for this host.
    let mut client = connect(&proxy, without(), "open.test").await.unwrap();
    assert_eq!(client.ask(get("closed.test")).await.category(), "misdirected");
    let mut client = connect(&proxy, with(), "open.test").await.unwrap();
    let response = client.ask(get("closed.test")).await;
    assert_eq!((response.status, response.category()), (421, "misdirected".to_owned()));

    let mut kept = connect(&proxy, with(), "closed.test").await.unwrap();
    assert_eq!(kept.ask(get("closed.test")).await.text(), "in");
    proxy.serve_edited(&yaml, edit(true)).await.unwrap();
    assert_eq!(kept.ask(get("closed.test")).await.category(), "mtls_required", "shown under other rules");
    let refused = match connect(&proxy, without(), "open.test").await {
        // In TLS 1.3 the client hears of it with its first read.
        Ok(mut client) => {
            client.stream.get_mut();
            tokio::io::AsyncWriteExt::write_all(&mut client.stream, get("open.test").as_bytes()).await.ok();
            client.is_closed().await
        }
        Err(_) => true,
    };
    assert!(refused);
}

#[tokio::test]
async fn certificates_reload_without_dropping_connections() {
    let authority = Authority::new();
    authority.issue("a", &["a.test"]);
    let origin = Origin::fixed("in").await;
    let yaml = authority.yaml(&["a"], &to(&[origin.address]));
    let proxy = TestProxy::start(&yaml).await;
    let mut old = connect(&proxy, authority.client_config(None), "a.test").await.unwrap();
    assert_eq!(old.get("/").await.text(), "in");
    let before = served_names(&old);
    authority.issue("a", &["a.test"]);
    proxy.serve(&yaml).await;
    assert_eq!(old.get("/").await.text(), "in");
    let new = connect(&proxy, authority.client_config(None), "a.test").await.unwrap();
    assert_ne!(served_names(&new), before);
}

#[tokio::test]
async fn plain_text_on_a_tls_listener_is_closed() {
    let authority = Authority::new();
    authority.issue("a", &["a.test"]);
    let proxy = TestProxy::start(&authority.yaml(&["a"], "routes: [{ to: 'http://127.0.0.1:1' }]")).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    // An alert, and the end.
    let mut bytes = Vec::new();
    crate::support::patiently("the end", tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut bytes))
        .await
        .ok();
    assert!(!bytes.starts_with(b"HTTP"));
}

/// With these protocols on offer.
fn offering(mut config: ClientConfig, protocols: &[&str]) -> ClientConfig {
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

#[tokio::test]
async fn the_handshake_settles_the_version() {
    let authority = Authority::new();
    authority.issue("a", &["test"]);
    let origin = Origin::fixed("secure").await;
    let proxy = TestProxy::start(&authority.yaml(&["a"], &to(&[origin.address]))).await;
    let config = |protocols: &[&str]| offering(authority.client_config(None), protocols);
    let client = connect(&proxy, config(&["h2", "http/1.1"]), "test").await.unwrap();
    assert_eq!(client.stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let client = Http2::over(client.stream).await;
    let answer = client.ask(http::Request::get("https://test/").body(()).unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "secure"));
    let seen = origin.requests().pop().unwrap();
    assert_eq!((seen.header("x-forwarded-proto"), seen.header("via")), (Some("https"), Some("2.0 sealane")));
    for protocols in [&["http/1.1"][..], &[]] {
        let mut client = connect(&proxy, config(protocols), "test").await.unwrap();
        assert_eq!(client.get("/").await.text(), "secure");
    }
}

/// RFC 7301 §3.2; whoever speaks something else is not led to believe that it is understood.
#[tokio::test]
async fn a_client_that_offers_other_protocols_only_is_refused() {
    let authority = Authority::new();
    authority.issue("a", &["test"]);
    let origin = Origin::fixed("secure").await;
    let proxy = TestProxy::start(&authority.yaml(&["a"], &to(&[origin.address]))).await;
    let refused = connect(&proxy, offering(authority.client_config(None), &["smtp", "h3"]), "test").await;
    let error = refused.map(drop).unwrap_err();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol);
    assert_eq!(inner, Some(&alert), "{error:?}");
    proxy.until_metric("proxy_tls_handshake_failures_total", 1.0).await;
    let mut client =
        connect(&proxy, offering(authority.client_config(None), &["h3", "http/1.1"]), "test").await.unwrap();
    assert_eq!(client.get("/").await.text(), "secure");
}

#[tokio::test]
async fn a_connection_of_http2_does_not_carry_a_certificate_to_another_host() {
    let authority = Authority::new();
    authority.issue("a", &["open.test", "closed.test"]);
    authority.issue("client", &["client"]);
    let origin = Origin::fixed("in").await;
    let routes = format!(
        "routes: [{{ host: closed.test, to: 'http://{0}' }}, {{ host: open.test, to: 'http://{0}' }}]",
        origin.address
    );
    let yaml = authority.yaml(&["a"], &routes);
    let proxy = TestProxy::start(&yaml).await;
    let ca_file = authority.path("ca.crt").display().to_string();
    let edit = move |config: &mut Config| {
        Arc::make_mut(&mut config.routes[0]).require_mtls = true;
        let mtls = Mtls { ca_file, require_client_cert: false, at: Position::default() };
        config.tls.as_mut().unwrap().mtls = Some(mtls);
    };
    proxy.serve_edited(&yaml, edit).await.unwrap();
    let config = offering(authority.client_config(Some("client")), &["h2"]);
    let client = Http2::over(connect(&proxy, config, "open.test").await.unwrap().stream).await;
    let get = |host: &str| http::Request::get(format!("https://{host}/")).body(()).unwrap();
    assert_eq!(client.ask(get("open.test")).await.text(), "in");
    let answer = client.ask(get("closed.test")).await;
    assert_eq!((answer.status.as_u16(), answer.category()), (421, "misdirected".to_owned()));
    assert_eq!(client.ask(get("open.test")).await.text(), "in", "the connection goes on");
}

#[tokio::test]
async fn endpoints_choose_the_version_in_the_handshake() {
    let authority = Authority::new();
    authority.issue("inner", &["inner.test"]);
    let (chain, key) = authority.chain("inner");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut server = server.with_no_client_auth().with_single_cert(chain, key).unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(tcp).await else { continue };
            tokio::spawn(async move {
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        assert_eq!(request.uri().scheme_str(), Some("https"));
                        let answer = http::Response::builder().header("x-version", "2").body(()).unwrap();
                        respond.send_response(answer, true).unwrap();
                    }
                    return;
                }
                let mut client = Client::over(stream);
                loop {
                    client.read_until(b"\r\n\r\n").await;
                    client.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Version: 1\r\n\r\n").await;
                }
            });
        }
    });
    let ca = authority.path("ca.crt");
    let yaml = |http2: &str| {
        format!(
            "routes: [{{ pool: p }}]\npools: [{{ id: p, endpoints: ['https://{address}'], connections: {{ http2: {http2} }}, \
             tls: {{ ca_file: {}, sni: inner.test }} }}]",
            ca.display()
        )
    };
    let proxy = TestProxy::start(&yaml("auto")).await;
    let mut client = proxy.client().await;
    let upgrade = "GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (http2, version, upgraded) in [("auto", "2", "1"), ("never", "1", "1"), ("always", "2", "")] {
        proxy.serve(&yaml(http2)).await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.header("x-version"), Some(version), "{http2}");
        }
        // An upgrade is HTTP/1.1's.
        if !upgraded.is_empty() {
            assert_eq!(client.ask(upgrade).await.header("x-version"), Some(upgraded), "{http2}");
        }
    }
}
