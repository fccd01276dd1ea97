//! Memory that ends.

use std::{io, os::unix::process::ExitStatusExt as _};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    hostile::wire::Alice,
    restoring::{stalled, with_ten_megabytes},
};

/// What the kernel and the shell call it.
const SIGABRT: i32 = 6;

/// Starts the server anew with so much memory for what it allocates, stacks of threads included.
async fn restart_with(alice: &mut Alice, bytes: u64) {
    alice.server.kill();
    alice.server.set_launcher(vec!["prlimit".into(), format!("--data={bytes}").into()]);
    alice.server.start().await;
}

/// A reader who takes the first byte of everything, if the server lives to send it.
async fn taster(alice: &Alice) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(alice.server.address()).await?;
    stream.write_all(alice.request("GET", &alice.keys(""), "").as_bytes()).await?;
    stream.read_u8().await?;
    Ok(stream)
}

#[tokio::test]
async fn a_hundred_restores_that_stall_fit_into_128_megabytes() {
    let (mut alice, rooms) = with_ten_megabytes(&[]).await;
    restart_with(&mut alice, 128 * 1024 * 1024).await;
    let mut readers = Vec::new();
    for _ in 0..100 {
        readers.push(stalled(&alice, "HTTP/1.1").await);
    }
    alice.is_served().await;
    let mut restored = alice.restored().await;
    restored.as_object_mut().expect("rooms").remove("!honest:x");
    assert!(restored == rooms, "it is not what was put");
}

#[tokio::test]
async fn where_memory_ends_the_process_does_and_keeps_every_key() {
    let (mut alice, rooms) = with_ten_megabytes(&[]).await;
    restart_with(&mut alice, 32 * 1024 * 1024).await;
    let mut readers = Vec::new();
    while let Ok(reader) = taster(&alice).await {
        readers.push(reader);
        assert!(readers.len() < 1000, "there is no end to its memory");
    }
    let status = alice.server.wait().await;
    assert_eq!(status.signal(), Some(SIGABRT), "{status}");
    // Rust says the one, and the C library, where a thread begins, the other.
    let output = alice.server.output();
    let says_why = ["memory allocation of ", "out of memory"].iter().any(|it| output.contains(it));
    assert!(says_why, "{output}");

    alice.server.set_launcher(Vec::new());
    alice.server.start().await;
    assert!(alice.restored().await == rooms, "it is not what was put");
    alice.is_served().await;
}
