//! What the location block of our documentation makes nginx hand on.

use std::{fs, path::Path};

use strongroom_testing::{Homeserver, Nginx, Server, strongroom_binary, until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
};

/// The nginx block of `docs/reverse-proxy.md`, which the README repeats.
pub(crate) fn documented_location() -> String {
    nginx_block("docs/reverse-proxy.md")
}

/// The first one in a document.
fn nginx_block(document: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
    let text = fs::read_to_string(path).expect(document);
    let block = text.lines().skip_while(|line| *line != "```nginx").skip(1);
    let block: Vec<_> = block.take_while(|line| *line != "```").collect();
    assert!(!block.is_empty(), "no nginx block in {document}");
    block.join("\n")
}

#[test]
fn the_readme_and_the_documentation_show_the_same_location() {
    assert_eq!(nginx_block("README.md"), documented_location());
}

#[tokio::test]
async fn clients_are_told_apart_behind_nginx_whatever_they_say_of_themselves() {
    let homeserver = Homeserver::start().await;
    let environment = [
        ("STRONGROOM_LIMITS_ADDRESS_REQUESTS_PER_SECOND", "1"),
        ("STRONGROOM_LIMITS_ADDRESS_REQUESTS_BURST", "5"),
        // nginx, and none of the clients below.
        ("STRONGROOM_TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let binary = strongroom_binary();
    let server = Server::spawn_with(binary, homeserver.arguments(), &environment).await;
    let nginx = Nginx::start(&documented_location(), &server.url(), &homeserver.url()).await;

    let mut forged = 0;
    until("a client to be refused", async || {
        forged += 1;
        let status = status(&nginx, "127.0.0.2", &format!("203.0.113.{forged}")).await;
        (status == 429).then_some(())
    })
    .await;
    assert!(forged > 5, "refused after {forged}");
    assert_eq!(status(&nginx, "127.0.0.3", "127.0.0.2").await, 401);
}

/// Asks without a token, from one of this machine's addresses.
async fn status(nginx: &Nginx, source: &str, forwarded_for: &str) -> u16 {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{source}:0").parse().expect("an address")).expect("our own address");
    let address = nginx.url().replace("http://", "").parse().expect("an address");
    let mut stream = socket.connect(address).await.expect("nginx listens");
    let request = format!(
        "GET /_matrix/client/v3/room_keys/version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         x-forwarded-for: {forwarded_for}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("nginx reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("nginx answers");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no status in {answer:?}"))
}
