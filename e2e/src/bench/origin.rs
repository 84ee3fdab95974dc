//! An origin that costs next to nothing: whatever comes, `/s` gets 100 bytes, `/m` 10 KiB, `/l` 1 MiB.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::place::Place;

/// Starts an origin on a thread of its own; it ends with the process.
///
/// # Errors
/// No socket or no thread.
pub fn start(place: &Place) -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let place = place.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("origin".to_owned()).spawn(move || {
        place.enter();
        runtime.block_on(serve(listener));
    })?;
    Ok(address)
}

async fn serve(listener: std::net::TcpListener) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let answers = Arc::new([answer(100), answer(10 << 10), answer(1 << 20)]);
    while let Ok((stream, _)) = listener.accept().await {
        // Only latency gets worse without it.
        let _ = stream.set_nodelay(true);
        tokio::spawn(answer_all(stream, Arc::clone(&answers)));
    }
}

fn answer(length: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + length, b'x');
    bytes
}

async fn answer_all(mut stream: TcpStream, answers: Arc<[Vec<u8>; 3]>) {
    let mut buffer = vec![0; 16 << 10];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await {
            Ok(0) | Err(_) => return,
            Ok(read) => filled += read,
        }
        while let Some(end) = memmem::find(&buffer[..filled], b"\r\n\r\n") {
            let answer = match buffer[..filled].iter().position(|byte| *byte == b'/').map(|at| buffer[at + 1]) {
                Some(b'm') => &answers[1],
                Some(b'l') => &answers[2],
                _ => &answers[0],
            };
            if stream.write_all(answer).await.is_err() {
                return;
            }
            buffer.copy_within(end + 4..filled, 0);
            filled -= end + 4;
        }
        if filled == buffer.len() {
            return;
        }
    }
}
