//! Clients of HTTP/2: one that follows the rules, and one that writes frames by hand.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{TestProxy, patiently};

/// A client's connection.
pub(crate) struct Http2 {
    pub(crate) send: SendRequest<Bytes>,
    pub(crate) driver: JoinHandle<Result<(), h2::Error>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Whole {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn category(&self) -> String {
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        json["category"].as_str().unwrap().to_owned()
    }
}

impl Http2 {
    pub(crate) async fn to(proxy: &TestProxy) -> Self {
        let tcp = TcpStream::connect(proxy.address()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        Self::over(tcp).await
    }

    pub(crate) async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 23)
            .handshake::<_, Bytes>(io)
            .await
            .unwrap();
        Self { send, driver: tokio::spawn(connection) }
    }

    pub(crate) async fn start(&self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut send = patiently("room for a stream", self.send.clone().ready()).await.unwrap();
        send.send_request(request, end).unwrap()
    }

    pub(crate) async fn ask(&self, request: Request<()>) -> Whole {
        let (response, _) = self.start(request, true).await;
        whole(response).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Whole {
        self.ask(get(path)).await
    }
}

pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://test{path}")).body(()).unwrap()
}

pub(crate) async fn whole(response: ResponseFuture) -> Result<Whole, h2::Error> {
    let response = patiently("an answer", response).await?;
    let (head, body) = response.into_parts();
    let (body, trailers) = read(body).await?;
    Ok(Whole { status: head.status, headers: head.headers, body, trailers })
}

pub(crate) async fn read(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = patiently("a body", body.data()).await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes, patiently("trailers", body.trailers()).await?))
}

pub(crate) async fn send_all(stream: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len().min(64 << 10));
        let room = patiently("room", std::future::poll_fn(|cx| stream.poll_capacity(cx))).await.unwrap().unwrap();
        let piece = bytes.split_to(room.min(bytes.len()));
        let last = bytes.is_empty() && end;
        stream.send_data(piece, last).unwrap();
    }
}

/// Frames by hand, for what no library sends.
pub(crate) struct Raw(TcpStream);

impl Raw {
    pub(crate) async fn to(proxy: &TestProxy) -> Self {
        let mut raw = Self::without_settings(proxy).await;
        assert!(raw.frame(4, 0, 0, &[]).await);
        raw
    }

    /// Only the preface was sent.
    pub(crate) async fn without_settings(proxy: &TestProxy) -> Self {
        let mut tcp = TcpStream::connect(proxy.address()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        Self(tcp)
    }

    /// Whether the connection ends, whatever still comes.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        // A reset is an end.
        let _ = patiently("the end", self.0.read_to_end(&mut rest)).await;
        true
    }

    pub(crate) async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.0.write_all(&bytes).await.is_ok()
    }

    /// A head without compression.
    pub(crate) async fn head(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) -> bool {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                assert!(text.len() < 127);
                block.push(text.len() as u8);
                block.extend(text.bytes());
            }
        }
        self.frame(1, flags, stream, &block).await
    }

    /// The next frame of this type: its stream and payload.
    pub(crate) async fn next(&mut self, wanted: u8) -> Option<(u32, Vec<u8>)> {
        self.next_of(&[wanted]).await
    }

    pub(crate) async fn next_of(&mut self, wanted: &[u8]) -> Option<(u32, Vec<u8>)> {
        loop {
            let (kind, _, stream, payload) = self.any().await?;
            if wanted.contains(&kind) {
                return Some((stream, payload));
            }
        }
    }

    /// Kind, flags, stream and payload.
    async fn any(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut header = [0; 9];
        patiently("a frame", self.0.read_exact(&mut header)).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        patiently("a payload", self.0.read_exact(&mut payload)).await.ok()?;
        Some((kind, flags, u32::from_be_bytes(stream), payload))
    }

    /// The flags of the next frame of this type.
    pub(crate) async fn flags_of_next(&mut self, wanted: u8) -> Option<u8> {
        loop {
            let (kind, flags, ..) = self.any().await?;
            if kind == wanted {
                return Some(flags);
            }
        }
    }

    /// The error code of the GOAWAY that is not a polite one.
    pub(crate) async fn goaway(&mut self) -> Option<u32> {
        loop {
            let (_, payload) = self.next(7).await?;
            let code = u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]);
            if code != 0 {
                return Some(code);
            }
        }
    }
}

pub(crate) const END: u8 = 1 | 4;
pub(crate) const PSEUDO: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/")];
