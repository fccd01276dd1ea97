//! A real Synapse, as little of it as a client needs.

use std::{env, fs, process::Command};

use hmac::{Hmac, KeyInit, Mac};
use reqwest::Client;
use serde_json::{Value, json};
use sha1::Sha1;
use tempfile::TempDir;

use crate::{
    Answer, Process, User,
    answer::{Call, ask, new_client},
    port::Port,
};

const SERVER_NAME: &str = "example.org";

/// Whoever knows it may register users.
const REGISTRATION_SECRET: &str = "registration";

/// A running Synapse, with a database of its own, which is deleted when this is dropped.
#[derive(Debug)]
pub struct Synapse {
    port: Port,
    client: Client,
    process: Process,
    /// Deleted with it.
    _directory: TempDir,
}

impl Synapse {
    /// Starts the homeserver of `example.org`, and waits until it answers.
    ///
    /// # Panics
    ///
    /// If it is not installed, or does not start.
    pub async fn start() -> Self {
        let python = env::var_os("STRONGROOM_TEST_PYTHON")
            .expect("STRONGROOM_TEST_PYTHON is not set: run the tests with `cargo xtask test`");
        let (directory, port) = (TempDir::new().expect("a temporary directory"), Port::reserve());
        write_configuration(&directory, port.number());
        let mut command = Command::new(python);
        command.args(["-m", "synapse.app.homeserver", "--config-path", "homeserver.yaml"]);
        let mut process = Process::spawn("Synapse", command.current_dir(&directory));

        let client = new_client();
        let url = format!("http://127.0.0.1:{}/_matrix/client/versions", port.number());
        let answers = async |_: &str| client.get(&url).send().await.ok();
        process.until("the first answer", answers).await;
        Self { port, client, process, _directory: directory }
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// The part of its users' ids behind the colon.
    pub fn server_name(&self) -> &str {
        SERVER_NAME
    }

    /// The arguments that make `strongroom serve` ask this homeserver.
    pub fn arguments(&self) -> Vec<String> {
        vec!["--homeserver".into(), self.url(), "--server-name".into(), SERVER_NAME.into()]
    }

    /// All that it has logged so far.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Creates an account, through the API for whoever knows the registration secret.
    pub async fn register(&self, localpart: &str, password: &str) {
        let path = "/_synapse/admin/v1/register";
        let nonce = self.raw("GET", path, &[], String::new()).await.json["nonce"].clone();
        let nonce = nonce.as_str().expect("a nonce").to_owned();

        let mut mac = Hmac::<Sha1>::new_from_slice(REGISTRATION_SECRET.as_bytes()).expect("a key");
        mac.update([&nonce, localpart, password, "notadmin"].join("\0").as_bytes());
        let mac = mac.finalize().into_bytes();
        let mac: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let body = json!({
            "nonce": nonce,
            "username": localpart,
            "password": password,
            "admin": false,
            "inhibit_login": true,
            "mac": mac,
        });
        let registered = self.raw("POST", path, &[], body.to_string()).await;
        assert_eq!(registered.status, 200, "{registered:?}");
    }

    /// A new device of a registered user.
    pub async fn login(&self, localpart: &str, password: &str) -> User {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": localpart },
            "password": password,
        });
        let login = self.raw("POST", "/_matrix/client/v3/login", &[], body.to_string()).await;
        let text = |name: &str| login.json[name].as_str().map(str::to_owned);
        match (text("user_id"), text("access_token"), text("device_id")) {
            (Some(user_id), Some(token), device_id) => User { user_id, token, device_id },
            _ => panic!("no login: {login:?}"),
        }
    }

    /// From now on the user's token is unknown.
    pub async fn logout(&self, user: &User) {
        let logout = self.request("POST", "/logout", user, Some(&json!({}))).await;
        assert_eq!(logout.status, 200, "{logout:?}");
    }

    /// Asks Synapse itself, whatever stands before it; `path` begins below `/_matrix/client/v3`.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        user: &User,
        body: Option<&Value>,
    ) -> Answer {
        let url = format!("{}/_matrix/client/v3{path}", self.url());
        ask(&self.client, method, url, user, body).await
    }

    async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Answer {
        let url = format!("{}{path}", self.url());
        let answer = Call { method, url, headers, body: body.into() }.send(&self.client).await;
        answer.unwrap_or_else(|error| {
            panic!("{method} {path} got no answer: {error:?}\n{}", self.output())
        })
    }
}

/// Small, alone, and without limits on how fast a test may go.
fn write_configuration(directory: &TempDir, port: u16) {
    let unlimited = json!({ "per_second": 1_000_000, "burst_count": 1_000_000 });
    // YAML takes JSON, which cannot be indented wrongly.
    let configuration = json!({
        "server_name": SERVER_NAME,
        "public_baseurl": format!("http://127.0.0.1:{port}/"),
        "listeners": [{
            "port": port,
            "type": "http",
            "bind_addresses": ["127.0.0.1"],
            "x_forwarded": true,
            "resources": [{ "names": ["client"] }],
        }],
        "database": { "name": "sqlite3", "args": { "database": "homeserver.db" } },
        "media_store_path": "media",
        "pid_file": "homeserver.pid",
        "signing_key_path": "signing.key",
        "log_config": "log.yaml",
        "registration_shared_secret": REGISTRATION_SECRET,
        "macaroon_secret_key": "macaroons",
        "form_secret": "forms",
        "report_stats": false,
        "trusted_key_servers": [],
        "federation_domain_whitelist": [],
        "presence": { "enabled": false },
        "bcrypt_rounds": 4,
        "rc_registration": unlimited,
        "rc_message": unlimited,
        "rc_login": { "address": unlimited, "account": unlimited, "failed_attempts": unlimited },
    });
    let log = json!({
        "version": 1,
        "formatters": { "line": { "format": "%(levelname)s %(name)s %(message)s" } },
        "handlers": { "stderr": { "class": "logging.StreamHandler", "formatter": "line" } },
        "root": { "level": "INFO", "handlers": ["stderr"] },
    });
    // Signs nothing that anybody keeps.
    let signing_key = format!("ed25519 test {}\n", "A".repeat(43));
    for (name, content) in [
        ("homeserver.yaml", configuration.to_string()),
        ("log.yaml", log.to_string()),
        ("signing.key", signing_key),
    ] {
        fs::write(directory.path().join(name), content).expect("the directory is ours");
    }
}
