//! Bodies in both directions: sizes, codings, interim answers, ends that come too early.

use crate::support::{Origin, OriginConnection, TestProxy, noise, ok, patiently, to};

fn with_length(body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend(body);
    bytes
}

fn chunked(body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = body;
    for size in sizes.iter().cycle() {
        let (chunk, after) = rest.split_at((*size).min(rest.len()));
        if chunk.is_empty() {
            break;
        }
        bytes.extend(format!("{:X};ext=\"a b\"\r\n", chunk.len()).as_bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
        rest = after;
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

#[tokio::test]
async fn bodies_of_any_size_arrive_byte_for_byte_in_both_directions() {
    let origin = Origin::start(|request| with_length(&request.body)).await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for size in [0, 1, 100, 16_000, 16_384, 32_768, 65_535, 65_536, 70_000, 1 << 20, 20_000_000] {
        let body = noise(size, size as u64);
        let mut request = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n").into_bytes();
        request.extend(&body);
        let response = client.ask(request).await;
        assert_eq!(response.body.len(), size);
        assert!(response.body == body, "{size}");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn chunked_bodies_are_decoded_and_chunked_anew() {
    let origin = Origin::start(|request| {
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        bytes.extend(chunked(&request.body, &[1, 2000, 70_000]));
        bytes
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for size in [0, 1, 5000, 300_000] {
        let body = noise(size, 7);
        let mut request = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: Chunked\r\n\r\n".to_vec();
        request.extend(chunked(&body, &[3, 1, 40_000]));
        let response = client.ask(request).await;
        assert!(response.body == body && !response.truncated, "{size}");
    }
    let seen = &origin.requests()[0];
    assert_eq!((seen.header("transfer-encoding"), seen.header("content-length")), (Some("chunked"), None));
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn trailers_pass_and_those_that_matter_to_framing_or_hops_do_not() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        let head = connection.head().await.unwrap();
        assert!(head.contains("\r\nTE: trailers") && head.contains("\r\nConnection: TE"), "{head}");
        let mut trailers = Vec::new();
        assert_eq!(connection.line().await.unwrap(), "3");
        connection.read_exact(5).await.unwrap();
        assert_eq!(connection.line().await.unwrap(), "0");
        loop {
            let line = connection.line().await.unwrap();
            if line.is_empty() {
                break;
            }
            trailers.push(line);
        }
        let body = trailers.join("|");
        connection
            .send(
                format!(
                    "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\
                     X-Sum:  1 \r\nConnection: close\r\nX-Request-Id: 1\r\n\r\n",
                    body.len()
                )
                .as_bytes(),
            )
            .await;
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let response = proxy
        .client()
        .await
        .ask(
            "POST / HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\
             X-A: 1\r\nX-Forwarded-For: 6.6.6.6\r\nX-B:2\r\nTE: x\r\n\r\n",
        )
        .await;
    assert_eq!(response.text(), "X-A: 1|X-B: 2");
    assert_eq!(response.trailers, ["X-Sum: 1"]);
    assert_eq!(response.header("trailer"), Some("X-Sum"));
}

#[tokio::test]
async fn answers_that_have_no_body_have_none() {
    let origin = Origin::start(|request| match request.line().split(' ').collect::<Vec<_>>()[..2] {
        ["HEAD", "/length"] => b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".to_vec(),
        ["HEAD", "/chunked"] => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        ["HEAD", "/close"] => b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        ["GET", "/204"] => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        ["GET", "/304"] => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 17\r\nETag: \"a\"\r\n\r\n".to_vec(),
        ["GET", "/empty"] => b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => ok("x"),
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for (path, length) in [("/length", Some("1000000")), ("/chunked", None), ("/close", None)] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        let response = client.head_response().await;
        assert_eq!((response.status, response.header("content-length")), (200, length), "{path}");
        assert_eq!(response.header("transfer-encoding"), None);
    }
    for (path, status, length) in [("/204", 204, None), ("/304", 304, Some("17")), ("/empty", 200, Some("0"))] {
        let response = client.get(path).await;
        assert_eq!((response.status, response.header("content-length")), (status, length), "{path}");
    }
    assert_eq!(client.get("/").await.text(), "x");
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_chunked_for_http_1_1() {
    let origin = Origin::start(|_| b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end".to_vec()).await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for _ in 0..2 {
        let response = client.get("/").await;
        assert_eq!((response.text(), response.header("transfer-encoding")), ("to the end", Some("chunked")));
    }
    let response = proxy.client().await.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!((response.text(), response.truncated), ("to the end", false));
}

#[tokio::test]
async fn a_truncated_body_is_never_a_complete_answer() {
    let origin = Origin::start(|request| {
        let body = match request.line().split(' ').nth(1).unwrap() {
            "/length" => "Content-Length: 10\r\nConnection: close\r\n\r\nabc".to_owned(),
            "/large" => format!("Content-Length: 900000\r\nConnection: close\r\n\r\n{}", "x".repeat(800_000)),
            "/chunk" => "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nabc".to_owned(),
            "/chunks" => "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n".to_owned(),
            _ => "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n".to_owned(),
        };
        format!("HTTP/1.1 200 OK\r\n{body}").into_bytes()
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    for path in ["/length", "/large", "/chunk", "/chunks", "/last"] {
        let response = proxy.get(path).await;
        assert!(response.truncated, "{path}");
        // A client of HTTP/1.0 can only tell by a reset.
        let response = proxy.client().await.ask(format!("GET {path} HTTP/1.0\r\n\r\n")).await;
        assert!(response.truncated, "{path} in 1.0");
    }
}

#[tokio::test]
async fn interim_answers_go_to_those_who_understand_them() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        while let Some(head) = connection.head().await {
            if head.contains("Expect: 100-continue") {
                connection.send(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                connection.read_exact(5).await.unwrap();
            }
            connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
            connection.send(&ok("done")).await;
        }
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(client.response().await.status, 100);
    client.send("12345").await;
    let hints = client.response().await;
    assert_eq!((hints.status, hints.header("link")), (103, Some("</a>")));
    assert_eq!(client.response().await.status, 100);
    assert_eq!(client.response().await.text(), "done");

    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.response().await.status, 103);
    assert_eq!(client.response().await.text(), "done", "nobody waited for 100");

    let response = proxy.client().await.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!((response.status, response.text()), (200, "done"));
}

#[tokio::test]
async fn an_endless_stream_of_interim_answers_is_a_502() {
    let origin = Origin::start(|_| "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000).into_bytes()).await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let response = proxy.client().await.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!((response.status, response.category()), (502, "upstream_reset".to_owned()));
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        connection.head().await.unwrap();
        connection.send(b"HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 4\r\n\r\nstop").await;
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\nstart").await;
    let response = client.response().await;
    assert_eq!((response.status, response.text(), response.header("connection")), (413, "stop", Some("close")));
}

#[tokio::test]
async fn both_bodies_may_be_under_way_at_once() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        connection.head().await.unwrap();
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        loop {
            let length = usize::from_str_radix(&connection.line().await.unwrap(), 16).unwrap();
            let chunk = connection.read_exact(length + 2).await.unwrap();
            if length == 0 {
                connection.send(b"0\r\n\r\n").await;
                break;
            }
            connection.send(format!("{length:x}\r\n").as_bytes()).await;
            connection.send(&chunk).await;
        }
        connection.head().await;
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n").await;
    client.read_until(b"4\r\nping\r\n").await;
    for _ in 0..3 {
        client.send("4\r\npong\r\n").await;
        assert_eq!(client.read_exact(9).await, b"4\r\npong\r\n");
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.read_exact(5).await, b"0\r\n\r\n");
}

#[tokio::test]
async fn a_body_that_the_client_does_not_finish_ends_the_request_at_the_endpoint() {
    let (told, mut hear) = tokio::sync::mpsc::channel(1);
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let told = told.clone();
        async move {
            connection.head().await.unwrap();
            let complete = connection.read_exact(10).await.is_some();
            told.send(complete).await.unwrap();
        }
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nabc").await;
    drop(client);
    assert_eq!(patiently("the endpoint", hear.recv()).await, Some(false));
}

#[tokio::test]
async fn a_client_that_reads_slowly_holds_up_nobody_and_gets_everything() {
    let body = noise(8 << 20, 3);
    let answer = with_length(&body);
    let origin = Origin::start(move |_| answer.clone()).await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut slow = proxy.client().await;
    slow.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    // The other transfers run while this one is stuck.
    for _ in 0..3 {
        assert!(proxy.get("/").await.body == body);
    }
    assert!(slow.response().await.body == body);
}
