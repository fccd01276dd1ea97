//! The process: how it starts, refuses to start, stops, is killed, and what it tells the operator.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail loudly"
)]

use std::{
    collections::HashSet,
    fs,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixDatagram, UnixListener},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use strongroom_testing::{Process, Server, until};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

use crate::{
    hostile::wire::{Alice, ROOT, Wire, chunk, program, room_key},
    restoring::{stalled, with_ten_megabytes},
};

/// The reader of a log or of a file in the field is somebody else.
const DATABASE: &str = "strongroom.db";

#[tokio::test]
async fn a_restart_keeps_everything() {
    let mut alice = Alice::new(&[]).await;
    let mut seen = Vec::new();
    for round in 0..3 {
        alice.is_served().await;
        let path = alice.keys(&format!("/!restart:x/{round}"));
        let put = alice.request("PUT", &path, &room_key(round).to_string());
        assert_eq!(alice.wire().await.ask(put).await.status, 200);
        let before = everything(&alice).await;
        assert!(!seen.contains(&before), "nothing changed");

        alice.server.terminate();
        assert_eq!(alice.server.wait().await.code(), Some(0), "{}", alice.server.output());
        alice.server.start().await;
        assert_eq!(everything(&alice).await, before);
        seen.push(before);
    }
}

/// The version and all keys.
async fn everything(alice: &Alice) -> (Value, Value) {
    let path = format!("/room_keys/version/{}", alice.version);
    let version = alice.server.get(&path, &alice.user).await;
    assert_eq!(version.status, 200, "{version:?}");
    (version.json, alice.restored().await)
}

/// An upload of which only the head is sent, and that the server waits for.
async fn begun_upload(alice: &Alice) -> Wire {
    let mut wire = alice.wire().await;
    let head = alice.head("PUT", &alice.keys(""));
    let head = head + "transfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n";
    assert_eq!(wire.ask(head).await.status, 100);
    wire
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight_and_takes_nothing_new() {
    let (mut alice, mut rooms) = with_ten_megabytes(&[]).await;
    let mut upload = begun_upload(&alice).await;
    let (mut restore, _) = stalled(&alice, "HTTP/1.1").await;
    let mut idle = alice.wire().await;
    assert_eq!(idle.ask(alice.request("GET", &format!("{ROOT}/version"), "")).await.status, 200);

    alice.server.terminate();
    assert_eq!(idle.closed().await.ok(), Some(0), "who asks nothing is let go");
    refused(alice.server.address()).await;
    let late = json!({ "!late:x": { "sessions": { "s": room_key(1) } } });
    let body = json!({ "rooms": late }).to_string();
    let put = upload.ask([chunk(body.as_bytes()), chunk(b"")].concat()).await;
    assert_eq!(put.status, 200, "{put:?}");
    assert_eq!(put.header("connection"), Some("close"), "{put:?}");
    let document = restore.chunks().await.expect("a whole document");
    assert_eq!(alice.server.wait().await.code(), Some(0), "{}", alice.server.output());

    // The upload came in time to be read, or it did not.
    let document: Value = serde_json::from_slice(&document).expect("strict JSON");
    rooms["!late:x"] = late["!late:x"].clone();
    let mut without = rooms.clone();
    without.as_object_mut().expect("rooms").remove("!late:x");
    assert!(document["rooms"] == rooms || document["rooms"] == without, "it is not what was put");
    alice.server.start().await;
    assert!(alice.restored().await == rooms, "it is not what was put");
}

/// Waits until nobody listens there.
async fn refused(address: SocketAddr) {
    until("connections to be refused", async || TcpStream::connect(address).await.err()).await;
}

#[tokio::test]
async fn who_stalls_does_not_keep_the_server_from_stopping() {
    let environment = [("STRONGROOM_SHUTDOWN_TIMEOUT", "1s")];
    let (mut alice, rooms) = with_ten_megabytes(&environment).await;
    let mut upload = begun_upload(&alice).await;
    upload.send(chunk(b"{\"rooms\":")).await;
    let (mut restore, _) = stalled(&alice, "HTTP/1.1").await;
    let mut header = alice.wire().await;
    header.send("GET / HTTP/1.1\r\n").await;

    alice.server.terminate();
    let status = alice.server.wait().await;
    assert!(status.code().is_some(), "{status}: {}", alice.server.output());
    let output = alice.server.output();
    assert!(output.contains("stopped before all requests in flight were finished"), "{output}");
    let document = restore.chunks().await;
    assert!(document.is_err(), "{:?} bytes look whole", document.map(|document| document.len()));
    assert!(upload.try_reply().await.is_err(), "an upload that never came was answered");
    alice.server.start().await;
    assert!(alice.restored().await == rooms, "it is not what was put");
}

#[tokio::test]
async fn a_second_signal_stops_it_at_once() {
    let mut alice = Alice::new(&[]).await;
    let _upload = begun_upload(&alice).await;
    alice.server.terminate();
    refused(alice.server.address()).await;
    alice.server.terminate();
    let status = alice.server.wait().await;
    assert_eq!(status.code(), Some(130), "{}", alice.server.output());
}

/// `strongroom serve` of users in a file, on any port unless told otherwise.
pub(crate) struct Serve {
    directory: TempDir,
}

impl Serve {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let tokens = directory.path().join("tokens");
        fs::write(&tokens, "token @alice:x\n").unwrap();
        fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn start(&self, data: &Path, listen: &str, environment: &[(&str, &str)]) -> Process {
        let mut command = program(environment);
        command.args(["serve", "--listen", listen, "--tokens"]).arg(self.path("tokens"));
        Process::spawn("strongroom", command.arg("--data").arg(data))
    }

    /// Starts it, waits for its end, and compares what it says.
    async fn fails(&self, data: &Path, listen: &str, expected: &str) {
        let mut process = self.start(data, listen, &[]);
        let code = process.wait().await.code();
        assert_eq!((code, process.output().as_str()), (Some(2), expected), "{}", data.display());
    }
}

pub(crate) async fn listening(process: &mut Process) -> String {
    let found = process.wait_for("its address", |output| {
        let (_, rest) = output.split_once("listening address=")?;
        rest.split_whitespace().next().filter(|_| rest.contains('\n')).map(str::to_owned)
    });
    found.await
}

pub(crate) async fn stop(mut process: Process) -> String {
    process.terminate();
    assert_eq!(process.wait().await.code(), Some(0), "{}", process.output());
    process.output()
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_told_with_what_to_do_about_it() {
    let serve = Serve::new();
    let anywhere = "127.0.0.1:0";
    let data = serve.path("data");
    let mut first = serve.start(&data, anywhere, &[]);
    let address = listening(&mut first).await.replace("http://", "");
    let shown = data.display();

    let in_use = format!(
        "error: another strongroom is running on {shown}\n\
         help: stop the other one, or give this one a --data directory of its own\n"
    );
    serve.fails(&data, anywhere, &in_use).await;
    let taken = format!(
        "error: can't listen on {address}: Address already in use (os error 98)\n\
         help: another program listens there; stop it, or choose another with --listen\n"
    );
    serve.fails(&serve.path("other"), &address, &taken).await;
    let mut wire = Wire::open(address.parse().unwrap()).await;
    let request =
        format!("GET {ROOT}/version HTTP/1.1\r\nhost: x\r\nauthorization: Bearer token\r\n\r\n");
    assert_eq!(wire.ask(request).await.refusal(), (404, "M_NOT_FOUND"), "the first one is well");
    stop(first).await;

    let help = "help: give --data a directory that belongs to the user who runs strongroom\n";
    for (path, why) in [
        (serve.path("tokens"), "File exists (os error 17)"),
        (serve.path("tokens/below"), "Not a directory (os error 20)"),
        (PathBuf::from("/proc/strongroom"), "No such file or directory (os error 2)"),
    ] {
        let expected = format!("error: can't read and write {}: {why}\n{help}", path.display());
        serve.fails(&path, anywhere, &expected).await;
    }

    // The header of the file: at 60 its format, at 68 whose it is.
    let database = data.join(DATABASE);
    let good = fs::read(&database).unwrap();
    let shown = database.display();
    let newer = format!(
        "error: {shown} has format 99, and this strongroom knows formats up to 2\n\
         help: install the strongroom that wrote it, or a newer one\n"
    );
    let foreign = format!(
        "error: {shown} is not a database of strongroom\nhelp: give --data a directory of its own\n"
    );
    for (at, bytes, expected) in [(60, [0, 0, 0, 99], newer), (68, [0, 0, 0, 1], foreign)] {
        let mut changed = good.clone();
        changed[at..at + 4].copy_from_slice(&bytes);
        fs::write(&database, &changed).unwrap();
        serve.fails(&data, anywhere, &expected).await;
        assert!(fs::read(&database).unwrap() == changed, "it changed a file that is not its own");
    }
    fs::write(&database, "precious".repeat(1000)).unwrap();
    let mut damaged = serve.start(&data, anywhere, &[]);
    assert_eq!(damaged.wait().await.code(), Some(2), "{}", damaged.output());
    let output = damaged.output();
    assert!(output.starts_with(&format!("error: can't open {shown}: file is not a database")));
    let help = "\nhelp: keep a copy of the directory before you try anything; is its disk full or damaged?\n";
    assert!(output.ends_with(help), "{output}");
    assert_eq!(fs::read(&database).unwrap(), b"precious".repeat(1000), "it changed the file");

    fs::write(&database, &good).unwrap();
    let mut again = serve.start(&data, anywhere, &[]);
    listening(&mut again).await;
    stop(again).await;
}

async fn ask_over(socket: &Path) -> String {
    ask_over_with(socket, "").await
}

/// Asks for the current version over a Unix socket, with more lines in the header.
pub(crate) async fn ask_over_with(socket: &Path, lines: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.expect("it listens");
    let request = format!(
        "GET {ROOT}/version HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer token\r\n{lines}\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}

#[tokio::test]
async fn a_unix_socket_is_listened_on_and_removed_at_the_end() {
    let serve = Serve::new();
    let socket = serve.path("socket");
    let listen = format!("unix:{}", socket.display());
    // One that was left behind is taken over.
    drop(UnixListener::bind(&socket).unwrap());
    for _ in 0..2 {
        let mut first = serve.start(&serve.path("data"), &listen, &[]);
        assert_eq!(listening(&mut first).await, listen);
        let answer = ask_over(&socket).await;
        assert!(answer.contains("M_NOT_FOUND"), "{answer}");

        let taken = format!(
            "error: can't listen on {listen}: Address already in use (os error 98)\n\
             help: another program listens there, or a file is in its place; choose another path\n"
        );
        serve.fails(&serve.path("other"), &listen, &taken).await;
        assert!(ask_over(&socket).await.contains("M_NOT_FOUND"), "the first one is well");
        stop(first).await;
        assert!(!socket.exists(), "the socket is left behind");
    }

    // After a kill it is left behind, and taken over.
    let mut killed = serve.start(&serve.path("data"), &listen, &[]);
    listening(&mut killed).await;
    killed.kill();
    assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
    let mut again = serve.start(&serve.path("data"), &listen, &[]);
    listening(&mut again).await;
    assert!(ask_over(&socket).await.contains("M_NOT_FOUND"));
    stop(again).await;
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_not_taken_over() {
    let serve = Serve::new();
    let precious = serve.path("precious");
    fs::write(&precious, "precious").unwrap();
    let listen = format!("unix:{}", precious.display());
    let mut process = serve.start(&serve.path("data"), &listen, &[]);
    assert_eq!(process.wait().await.code(), Some(2), "{}", process.output());
    let output = process.output();
    assert!(output.starts_with(&format!("error: can't listen on {listen}: ")), "{output}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

/// Where a server that was started with a listener for the operator has it.
pub(crate) async fn operator(server: &Server) -> SocketAddr {
    until("the operator's address", async || {
        let output = server.output();
        let (_, rest) = output.split_once("operator=http://")?;
        rest.split_whitespace().next().and_then(|address| address.parse().ok())
    })
    .await
}

#[tokio::test]
async fn metrics_and_health_are_for_the_operator_only() {
    let alice = Alice::new(&[("STRONGROOM_OPERATOR_LISTEN", "127.0.0.1:0")]).await;
    let output = alice.server.output();
    let operator = operator(&alice.server).await;
    alice.is_served().await;
    alice.is_served().await;
    let ask = async |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        Wire::open(operator).await.ask(request).await
    };
    let health = ask("/health").await;
    assert_eq!((health.status, health.body.as_slice()), (200, &b"ok\n"[..]), "{health:?}");
    let metrics = ask("/metrics").await;
    let text = String::from_utf8(metrics.body.clone()).expect("UTF-8");
    assert_eq!(metrics.status, 200, "{text}");
    for line in [
        r#"strongroom_requests_total{method="PUT",path="keys/{room_id}/{session_id}",status="200"} 2"#,
        r#"strongroom_requests_total{method="POST",path="version",status="200"} 1"#,
        r#"strongroom_request_seconds_count{method="GET",path="keys/{room_id}/{session_id}"} 2"#,
        "strongroom_requests_in_flight 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
    }
    for secret in ["alice", "honest", &alice.version, &alice.user.token] {
        assert!(!text.contains(secret), "{secret} is in:\n{text}");
    }
    assert_eq!(ask(&format!("{ROOT}/version")).await.status, 404);
    for path in ["/metrics", "/health", "/", "/_matrix/client/versions"] {
        let answer = alice.server.raw("GET", path, &[], "").await;
        let errcode = answer.json["errcode"].as_str();
        assert_eq!((answer.status, errcode), (404, Some("M_UNRECOGNIZED")), "{path}: {answer:?}");
    }
    assert_eq!(output.matches("listening address=").count(), 1);
}

/// Asks for everything in which a secret can stand, and returns how many requests that were.
async fn ask_with_secrets(alice: &Alice, secrets: &[&str; 6]) -> usize {
    let [query, room, session, body, header, stranger] = secrets;
    let mut requests = 0;
    let mut ask = async |request: String, status: u16| {
        let got = alice.wire().await.ask(request).await;
        assert_eq!(got.status, status, "{got:?}");
        requests += 1;
    };
    let path =
        format!("{}&x={query}&access_token={query}", alice.keys(&format!("/!{room}:x/{session}")));
    let key = room_key(1).to_string().replace("\"c\"", &format!("\"{body}\""));
    let marked = |method: &str, target: &str, body: &str| {
        let length =
            format!("user-agent: {header}\r\nreferer: {header}\r\ncontent-length: {}", body.len());
        format!("{}{length}\r\n\r\n{body}", alice.head(method, target))
    };
    ask(marked("PUT", &path, &key), 200).await;
    ask(marked("GET", &path, ""), 200).await;
    ask(marked("PUT", &path, &format!("{{\"{body}\":{body}")), 400).await;
    let bad =
        key.replace("\"first_message_index\":1", &format!("\"first_message_index\":\"{body}\""));
    let bad = format!(r#"{{"rooms":{{"!{room}:x":{{"sessions":{{"{session}":{bad}}}}}}}}}"#);
    ask(marked("PUT", &alice.keys(""), &bad), 400).await;
    ask(marked("GET", &alice.keys(&format!("/!{room}:x")), ""), 200).await;
    ask(marked("GET", &format!("{ROOT}/{query}"), ""), 404).await;
    ask(marked("GET", &format!("{ROOT}/version/{query}"), ""), 404).await;
    ask(marked("PUT", &alice.keys(&format!("/!{room}:x/%ff{session}")), &key), 400).await;
    ask(marked(&stranger.to_ascii_uppercase(), &path, ""), 405).await;
    ask(marked("GET", &path, "").replace(&alice.user.token, stranger), 401).await;
    ask(marked("DELETE", &path, ""), 200).await;
    requests
}

const SECRETS: [&str; 6] = [
    "S3CRET-QUERY",
    "S3CRET-ROOM",
    "S3CRET-SESSION",
    "S3CRET-BODY",
    "S3CRET-HEADER",
    "S3CRET-TOKEN",
];

#[tokio::test]
async fn the_log_tells_who_did_what_and_keeps_secrets() {
    for format in ["text", "json"] {
        let environment = [("STRONGROOM_LOG_LEVEL", "trace"), ("STRONGROOM_LOG_FORMAT", format)];
        let mut alice = Alice::new(&environment).await;
        let requests = ask_with_secrets(&alice, &SECRETS).await + 1;
        alice.server.terminate();
        alice.server.wait().await;
        let output = alice.server.output();
        for secret in SECRETS {
            let secrets = [secret.to_owned(), secret.to_ascii_lowercase()];
            assert!(
                !secrets.iter().any(|secret| output.contains(secret)),
                "{secret} in:\n{output}"
            );
        }
        assert!(!output.contains(&alice.user.token), "the token is in:\n{output}");

        let lines: Vec<_> = output.lines().filter(|line| line.contains("answered")).collect();
        assert_eq!(lines.len(), requests, "{output}");
        let mut ids = HashSet::new();
        for line in &lines {
            let (id, fields) = match format {
                "text" => text_fields(line),
                _ => json_fields(line),
            };
            assert!(ids.insert(id), "an id twice:\n{output}");
            let [user, operation, status, ms] = fields;
            assert!(!operation.is_empty() && ms.parse::<f64>().is_ok(), "{line}");
            let is_known = status != "401" && status != "404" && status != "405";
            assert!(!is_known || user == "@alice:example.org", "{line}");
        }
        for (operation, status, times) in [
            ("POST version", "200", 1),
            ("PUT keys/{room_id}/{session_id}", "200", 1),
            ("PUT keys/{room_id}/{session_id}", "400", 2),
            ("PUT keys", "400", 1),
            ("GET keys/{room_id}/{session_id}", "401", 1),
            ("DELETE keys/{room_id}/{session_id}", "200", 1),
        ] {
            let found = lines.iter().map(|line| match format {
                "text" => text_fields(line),
                _ => json_fields(line),
            });
            let found = found.filter(|(_, fields)| fields[1] == operation && fields[2] == status);
            assert_eq!(found.count(), times, "{operation} {status} in:\n{output}");
        }
        if format == "json" {
            for line in output.lines() {
                let line = serde_json::from_str::<Value>(line).expect("each line is JSON");
                assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
            }
        }
    }
}

/// The id, and user, operation, status and time, out of a line for people.
fn text_fields(line: &str) -> (String, [String; 4]) {
    let between = |before: &str, after: &str| {
        let found = line.split_once(before).and_then(|(_, rest)| rest.split_once(after));
        let (text, _) = found.unwrap_or_else(|| panic!("no {before}…{after} in {line}"));
        text.trim_matches('"').to_owned()
    };
    let (_, ms) = line.rsplit_once(" ms=").unwrap_or_else(|| panic!("no time in {line}"));
    let fields = [
        between(" user=", " "),
        between(" operation=", " status="),
        between(" status=", " "),
        ms.to_owned(),
    ];
    (between("id=", "}"), fields)
}

/// The same out of a line for programs.
fn json_fields(line: &str) -> (String, [String; 4]) {
    let line: Value = serde_json::from_str(line).expect("each line is JSON");
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    assert!(line["span"]["id"].is_u64(), "{line}");
    (text(&line["span"]["id"]), ["user", "operation", "status", "ms"].map(|key| text(&line[key])))
}

#[tokio::test]
async fn nobody_else_may_read_the_data() {
    let alice = Alice::new(&[]).await;
    alice.is_served().await;
    let data = alice.server.data();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&data), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&data).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
        names.push(entry.file_name().into_string().unwrap());
    }
    for name in [DATABASE, "strongroom.db-wal", "strongroom.db-shm"] {
        assert!(names.iter().any(|found| found == name), "no {name} among {names:?}");
    }
}

#[tokio::test]
async fn systemd_is_told_when_it_is_ready_and_when_it_stops() {
    let serve = Serve::new();
    let notifications = UnixDatagram::bind(serve.path("notify")).unwrap();
    notifications.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let path = serve.path("notify").into_os_string().into_string().unwrap();
    let told = || {
        let mut message = [0; 200];
        let length = notifications.recv(&mut message).expect("a notification");
        String::from_utf8_lossy(&message[..length]).trim().to_owned()
    };
    let mut process = serve.start(&serve.path("data"), "127.0.0.1:0", &[("NOTIFY_SOCKET", &path)]);
    assert_eq!(told(), "READY=1");
    listening(&mut process).await;
    stop(process).await;
    assert_eq!(told(), "STOPPING=1");
}
