//! `strongroom serve`.

use std::{io::Write as _, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use strongroom_server::{
    Authenticator, FixedTokens, Homeserver, HomeserverOptions, Metrics, Options, PerHost, service,
};
use strongroom_store::{Quotas, Retention, Sqlite, Store};
use tempfile::TempDir;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    config::{Config, Overrides},
    listen::{self, ConnectionLimits, ConnectionMetrics, Listener},
    log,
    operate::{self, PurgeMetrics},
};

/// The user of `--dev`.
const DEV_USER: &str = "@dev:localhost";

/// Run the server
///
/// It keeps the backups of a homeserver's users, behind the reverse proxy that the homeserver already
/// has. Without --dev it needs to know where to keep the data, and who knows the users.
#[derive(clap::Args)]
pub(crate) struct Serve {
    /// The configuration file; `strongroom config example` prints one
    #[arg(long, env = "STRONGROOM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Overrides,
    /// Try it out: a user, a token, and data that go away at the end unless --data is given
    #[arg(long, conflicts_with_all = ["homeserver", "server_name", "tokens"])]
    dev: bool,
}

impl Serve {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Runtime::new().context("can't start the runtime")?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> anyhow::Result<()> {
        let Self { config, flags, dev } = self;
        let mut config = Config::load(config.as_deref(), std::env::vars_os())?;
        config.apply(flags)?;
        let dev = if dev { Some(Dev::prepare(&mut config)?) } else { None };
        if dev.is_none() {
            config.check()?;
        }
        log::start(&config.log);
        // A connection is an open file, and the usual limit was made for other programs.
        let _ = rlimit::increase_nofile_limit(u64::MAX);

        let metrics = Metrics::default();
        let authenticator = match &dev {
            Some(dev) => Arc::new(FixedTokens::parse(&format!("{} {DEV_USER}", dev.token))?),
            None => authenticator(&config, &metrics)?,
        };
        let data = config.data.clone().unwrap_or_default();
        let store: Arc<dyn Store> = Arc::new(Sqlite::open_with(&data, quotas(&config))?);
        let mut registry = Registry::with_prefix("strongroom");
        metrics.register(&mut registry);
        let purge_metrics = PurgeMetrics::default();
        purge_metrics.register(&mut registry);
        let connections = ConnectionMetrics::default();
        connections.register(&mut registry);
        let service = service(Arc::clone(&store), authenticator, options(&config, metrics));

        let listener = Listener::bind(&config.listen).await?;
        let url = listener.url();
        let operator = match &config.operator.listen {
            Some(address) => Some(Listener::bind(address).await?),
            None => None,
        };
        let stop = stop_signal()?;
        let limits = ConnectionLimits {
            connections_max: config.limits.connections_max.get(),
            connections_per_address_max: config.limits.connections_per_address_max.get(),
            header_timeout: config.limits.header_timeout.0,
            header_finish_timeout: config.limits.header_finish_timeout.0,
            write_timeout: config.limits.write_timeout.0,
        };
        let timeout = config.shutdown_timeout.0;
        tracing::info!(address = %url, data = %data.display(), "listening");
        if let Some(operator) = operator {
            tracing::info!(operator = %operator.url(), "listening for the operator");
            let router = operate::router(registry, Arc::clone(&store));
            let stop = stopped(stop.clone());
            let proxies = config.trusted_proxies.clone();
            let uncounted = ConnectionMetrics::default();
            let serve = listen::serve(operator, router, limits, proxies, uncounted, stop, timeout);
            tokio::spawn(serve);
        }
        let retention = Retention { kept: config.retention.0, journal: config.journal_retention.0 };
        tokio::spawn(operate::purge(Arc::clone(&store), retention, purge_metrics));
        if let Some(dev) = &dev {
            dev.greet(&url)?;
        }
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

        let (proxies, stop) = (config.trusted_proxies, stopped(stop));
        let serve = listen::serve(listener, service, limits, proxies, connections, stop, timeout);
        let is_whole = serve.await;
        if is_whole {
            tracing::info!("stopped");
        } else {
            tracing::warn!("stopped before all requests in flight were finished");
        }
        Ok(())
    }
}

fn quotas(config: &Config) -> Quotas {
    Quotas {
        keys_max: config.limits.user_keys_max,
        bytes_max: config.limits.user_bytes_max,
        versions_max: config.limits.user_versions_max,
    }
}

fn options(config: &Config, metrics: Metrics) -> Options {
    Options {
        limits: strongroom_protocol::Limits {
            body_bytes_max: config.limits.body_bytes_max,
            session_data_bytes_max: config.limits.session_data_bytes_max,
        },
        bodies_in_flight_bytes_max: config.limits.bodies_in_flight_bytes_max,
        body_idle_timeout: config.limits.body_idle_timeout.0,
        body_timeout: config.limits.body_timeout.0,
        body_bytes_per_second_min: config.limits.body_bytes_per_second_min,
        body_grace: config.limits.body_grace.0,
        user_requests: config.limits.user_requests(),
        address_requests: config.limits.address_requests(),
        trusted_proxies: config.trusted_proxies.clone(),
        metrics,
    }
}

fn authenticator(config: &Config, metrics: &Metrics) -> anyhow::Result<Arc<dyn Authenticator>> {
    if let Some(tokens) = &config.tokens {
        let tokens = FixedTokens::read(tokens).with_context(|| tokens.display().to_string())?;
        return Ok(Arc::new(tokens));
    }
    let mut by_host: Vec<(String, Arc<dyn Authenticator>)> = Vec::new();
    for homeserver in &config.homeserver {
        let asked: Arc<dyn Authenticator> = Arc::new(Homeserver::new(HomeserverOptions {
            cache_ttl: config.auth.cache_ttl.0,
            refused_ttl: config.auth.refused_ttl.0,
            cache_entries: config.auth.cache_entries,
            timeout: config.auth.timeout.0,
            questions_max: config.auth.questions_max,
            questions_waiting_max: config.auth.questions_waiting_max,
            wrong_tokens: config.auth.wrong_tokens(),
            address_failures: config.limits.address_failures(),
            metrics: metrics.clone(),
            ..HomeserverOptions::new(&homeserver.url, &homeserver.server_name)
        })?);
        // The only one need not be told apart from others.
        if config.homeserver.len() == 1 && homeserver.hosts.is_empty() {
            return Ok(asked);
        }
        by_host.extend(homeserver.hosts.iter().map(|host| (host.clone(), Arc::clone(&asked))));
    }
    Ok(Arc::new(PerHost::new(by_host)))
}

/// Becomes true at SIGTERM or Ctrl-C; a second one ends the process as usual.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("finishing the requests in flight");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        let _ = sender.send(true);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(receiver)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender lives until the process ends.
    let _ = stop.wait_for(|is_stopping| *is_stopping).await;
}

/// What `--dev` makes up.
struct Dev {
    token: String,
    directory: Option<TempDir>,
}

impl Dev {
    fn prepare(config: &mut Config) -> anyhow::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).context("the system has no random numbers")?;
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let directory = match config.data {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("strongroom-dev-").tempdir()?),
        };
        if let Some(directory) = &directory {
            config.data = Some(directory.path().to_owned());
        }
        Ok(Self { token, directory })
    }

    /// Everything to try it out with; the three lines can be pasted.
    fn greet(&self, url: &str) -> anyhow::Result<()> {
        let data = match self.directory {
            Some(_) => "gone when this stops; --data DIR keeps them",
            None => "kept in the --data directory",
        };
        let (socket, host) = match url.strip_prefix("unix:") {
            Some(path) => (format!(" --unix-socket {path}"), "http://localhost"),
            None => (String::new(), url),
        };
        let base = format!("{host}/_matrix/client/v3/room_keys");
        let curl = format!("curl -sS{socket} -H 'Authorization: Bearer {}'", self.token);
        let mut stdout = std::io::stdout().lock();
        writeln!(
            stdout,
            r#"
Strongroom is listening on {url}

  user           {DEV_USER}
  access token   {token}
  data           {data}

Create a backup, put a key into it, and read it back:

  version=$({curl} {base}/version -d '{{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{{"public_key":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo"}}}}' | cut -d'"' -f4); echo "$version"
  {curl} -X PUT "{base}/keys/%21room%3Alocalhost/session?version=$version" -d '{{"first_message_index":0,"forwarded_count":0,"is_verified":false,"session_data":{{"ephemeral":"a","ciphertext":"b","mac":"c"}}}}'
  {curl} "{base}/keys?version=$version"
"#,
            token = self.token,
        )?;
        Ok(())
    }
}
