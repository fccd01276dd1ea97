//! A real nginx, with the location blocks that the documentation tells people to use.

use std::{env, fs, net::Ipv4Addr, path::Path, process::Command};

use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    Answer, Process, User,
    answer::{ask, new_client},
    port::Port,
};

/// The addresses in our documentation.
const STRONGROOM: &str = "127.0.0.1:8018";
const HOMESERVER: &str = "127.0.0.1:8008";

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    port: Port,
    client: Client,
    process: Process,
    /// Deleted with it.
    _directory: TempDir,
}

impl Nginx {
    /// Starts it with `locations`, which go to `strongroom`, and `location /`, which goes to
    /// `homeserver`; both are `host:port`, or URLs of this. The addresses in `locations` are the
    /// documented ones, 127.0.0.1:8018 for Strongroom and 127.0.0.1:8008 for the homeserver.
    ///
    /// # Panics
    ///
    /// If it is not installed, or refuses the locations.
    pub async fn start(locations: &str, strongroom: &str, homeserver: &str) -> Self {
        assert!(locations.contains(STRONGROOM), "no {STRONGROOM} in:\n{locations}");
        let (strongroom, homeserver) = (authority(strongroom), authority(homeserver));
        let locations = locations.replace(STRONGROOM, strongroom).replace(HOMESERVER, homeserver);

        let directory = TempDir::new().expect("a temporary directory");
        let (port, path) = (Port::reserve(), directory.path());
        let configuration = configuration(path, port.number(), &locations, homeserver);
        let file = path.join("nginx.conf");
        fs::write(&file, configuration).expect("the directory is ours");

        let nginx = env::var_os("STRONGROOM_TEST_NGINX")
            .expect("STRONGROOM_TEST_NGINX is not set: run the tests with `cargo xtask test`");
        let mut command = Command::new(nginx);
        command.arg("-p").arg(path).arg("-c").arg(file);
        let mut process = Process::spawn("nginx", &mut command);
        let accepts =
            async |_: &str| TcpStream::connect((Ipv4Addr::LOCALHOST, port.number())).await.ok();
        process.until("the first connection", accepts).await;
        Self { port, client: new_client(), process, _directory: directory }
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// Asks through it in the name of `user`; `path` begins at the root.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        user: &User,
        body: Option<&Value>,
    ) -> Answer {
        ask(&self.client, method, format!("{}{path}", self.url()), user, body).await
    }

    /// All that it has said so far.
    pub fn output(&self) -> String {
        self.process.output()
    }
}

fn authority(url: &str) -> &str {
    url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/')
}

fn configuration(directory: &Path, port: u16, locations: &str, homeserver: &str) -> String {
    let path = directory.display();
    // Where it was packaged for a system, its defaults lie in /var.
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("    {what}_temp_path {path}/{what};\n"))
        .collect();
    // One process: it keeps its user, who alone may enter our temporary directory, and no worker
    // is left behind when it is killed.
    format!(
        "daemon off;
master_process off;
error_log stderr warn;
pid {path}/nginx.pid;
events {{}}
http {{
    access_log off;
{temporary}    server {{
        listen 127.0.0.1:{port};
{locations}
        location / {{
            proxy_pass http://{homeserver};
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $remote_addr;
            client_max_body_size 50M;
        }}
    }}
}}
"
    )
}
