//! What can be set: a TOML file, over it the environment, over that the flags.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use strongroom_server::{Rate, TrustedProxies};
use toml::{Table, Value};

use crate::address::Address;

/// Every option with its default and what it is for.
pub(crate) const EXAMPLE: &str = include_str!("../../../strongroom.example.toml");

/// Connections at once, unless configured otherwise: far more than a proxy opens.
const CONNECTIONS_MAX: NonZeroUsize = NonZeroUsize::new(8192).unwrap();
/// Of one address that is no trusted proxy: enough for one that is not known to be one.
const CONNECTIONS_PER_ADDRESS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// 1000 years. No clock can count to the end of what can be written, and adding it to one panics.
const SPAN_MAX: Duration = Duration::from_secs(1000 * 31_557_600);

/// The file.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) listen: Address,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<PathBuf>,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) retention: Span,
    pub(crate) journal_retention: Span,
    pub(crate) shutdown_timeout: Span,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) homeserver: Vec<Homeserver>,
    pub(crate) auth: Auth,
    pub(crate) limits: Limits,
    pub(crate) log: Log,
    pub(crate) operator: Operator,
}

/// Who says whom a token belongs to.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Homeserver {
    pub(crate) url: String,
    pub(crate) server_name: String,
    #[serde(default)]
    pub(crate) hosts: Vec<String>,
}

/// How a homeserver is asked.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Auth {
    pub(crate) cache_ttl: Span,
    pub(crate) refused_ttl: Span,
    pub(crate) cache_entries: NonZeroUsize,
    pub(crate) timeout: Span,
    pub(crate) questions_max: NonZeroUsize,
    pub(crate) questions_waiting_max: usize,
    pub(crate) wrong_tokens_per_second: u32,
    pub(crate) wrong_tokens_burst: u32,
}

impl Auth {
    pub(crate) fn wrong_tokens(&self) -> Rate {
        Rate { per_second: self.wrong_tokens_per_second, burst: self.wrong_tokens_burst }
    }
}

/// How much is too much.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    pub(crate) body_bytes_max: usize,
    pub(crate) session_data_bytes_max: usize,
    pub(crate) user_keys_max: u64,
    pub(crate) user_bytes_max: u64,
    pub(crate) user_versions_max: u64,
    pub(crate) bodies_in_flight_bytes_max: usize,
    pub(crate) connections_max: NonZeroUsize,
    pub(crate) connections_per_address_max: NonZeroUsize,
    pub(crate) header_timeout: Span,
    pub(crate) header_finish_timeout: Span,
    pub(crate) body_idle_timeout: Span,
    pub(crate) body_timeout: Span,
    pub(crate) body_bytes_per_second_min: u64,
    pub(crate) body_grace: Span,
    pub(crate) write_timeout: Span,
    pub(crate) user_requests_per_second: u32,
    pub(crate) user_requests_burst: u32,
    pub(crate) address_requests_per_second: u32,
    pub(crate) address_requests_burst: u32,
    pub(crate) address_failures_per_second: u32,
    pub(crate) address_failures_burst: u32,
}

impl Limits {
    pub(crate) fn user_requests(&self) -> Rate {
        Rate { per_second: self.user_requests_per_second, burst: self.user_requests_burst }
    }

    pub(crate) fn address_requests(&self) -> Rate {
        Rate { per_second: self.address_requests_per_second, burst: self.address_requests_burst }
    }

    pub(crate) fn address_failures(&self) -> Rate {
        Rate { per_second: self.address_failures_per_second, burst: self.address_failures_burst }
    }
}

/// The log.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    pub(crate) level: LogLevel,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The listener for metrics and health.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Operator {
    /// Empty: there is none.
    #[serde(with = "address_or_empty")]
    pub(crate) listen: Option<Address>,
}

/// A time as people write it: `30s`, `5 minutes`, `30 days`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Span(pub(crate) Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let span = humantime::parse_duration(&text).map_err(|error| {
            format!("{error}; write a time such as \"30s\", \"5m\" or \"30 days\"")
        })?;
        if span > SPAN_MAX { Err("is longer than 1000 years".to_owned()) } else { Ok(Self(span)) }
    }
}

impl From<Span> for String {
    fn from(Span(span): Span) -> Self {
        humantime::format_duration(span).to_string()
    }
}

const fn seconds(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Address::default(),
            data: None,
            tokens: None,
            trusted_proxies: TrustedProxies::default(),
            retention: seconds(30 * 24 * 60 * 60),
            journal_retention: seconds(365 * 24 * 60 * 60),
            shutdown_timeout: seconds(30),
            homeserver: Vec::new(),
            auth: Auth::default(),
            limits: Limits::default(),
            log: Log::default(),
            operator: Operator::default(),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        let defaults = strongroom_server::HomeserverOptions::new("", "");
        Self {
            cache_ttl: Span(defaults.cache_ttl),
            refused_ttl: Span(defaults.refused_ttl),
            cache_entries: defaults.cache_entries,
            timeout: Span(defaults.timeout),
            questions_max: defaults.questions_max,
            questions_waiting_max: defaults.questions_waiting_max,
            wrong_tokens_per_second: defaults.wrong_tokens.per_second,
            wrong_tokens_burst: defaults.wrong_tokens.burst,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let defaults = strongroom_server::Options::default();
        let quotas = strongroom_store::Quotas::default();
        let address_failures = strongroom_server::HomeserverOptions::new("", "").address_failures;
        Self {
            body_bytes_max: defaults.limits.body_bytes_max,
            session_data_bytes_max: defaults.limits.session_data_bytes_max,
            user_keys_max: quotas.keys_max,
            user_bytes_max: quotas.bytes_max,
            user_versions_max: quotas.versions_max,
            bodies_in_flight_bytes_max: defaults.bodies_in_flight_bytes_max,
            connections_max: CONNECTIONS_MAX,
            connections_per_address_max: CONNECTIONS_PER_ADDRESS_MAX,
            header_timeout: seconds(75),
            header_finish_timeout: seconds(10),
            body_idle_timeout: Span(defaults.body_idle_timeout),
            body_timeout: Span(defaults.body_timeout),
            body_bytes_per_second_min: defaults.body_bytes_per_second_min,
            body_grace: Span(defaults.body_grace),
            write_timeout: seconds(60),
            user_requests_per_second: defaults.user_requests.per_second,
            user_requests_burst: defaults.user_requests.burst,
            address_requests_per_second: defaults.address_requests.per_second,
            address_requests_burst: defaults.address_requests.burst,
            address_failures_per_second: address_failures.per_second,
            address_failures_burst: address_failures.burst,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: LogLevel::Info }
    }
}

impl From<LogLevel> for tracing_subscriber::filter::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

mod address_or_empty {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::address::Address;

    pub(super) fn serialize<S: Serializer>(
        address: &Option<Address>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = address.as_ref().map(ToString::to_string).unwrap_or_default();
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Address>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(D::Error::custom) }
    }
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("can't read the configuration file {}", .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The text names the line and shows it.
    #[error("in {}: {text}", .path.display())]
    File { path: PathBuf, text: String },
    #[error("the environment variable {name} has a value that can't be used: {text}")]
    Variable { name: String, text: String },
    #[error("nobody says whom an access token belongs to")]
    NobodyKnows,
    #[error("access tokens come from a homeserver or from a file, and both are configured")]
    BothKnow,
    #[error("where to keep the data is not said")]
    NoData,
    #[error("the homeserver {url} has no server name")]
    NoServerName { url: String },
    #[error("a server name is given, and no homeserver")]
    NoHomeserver,
    #[error("--homeserver and --server-name can't be used with several homeservers in the file")]
    SeveralHomeservers,
    #[error("several homeservers are told apart by their hosts, and {server_name} has none")]
    NoHosts { server_name: String },
    #[error("{what} stands with two homeservers")]
    Twice { what: String },
    #[error("bodies_in_flight_bytes_max is less than body_bytes_max")]
    BudgetBelowBody,
}

impl ConfigError {
    pub(crate) const fn help(&self) -> Option<&'static str> {
        match self {
            Self::Io { .. } | Self::File { .. } => {
                Some("`strongroom config example` prints a file with every option")
            }
            Self::Variable { .. } => None,
            Self::NobodyKnows => Some(
                "give --homeserver URL and --server-name NAME; or --tokens FILE; or, to try it out, --dev",
            ),
            Self::BothKnow => Some("take one of the two away"),
            Self::NoData => Some("give --data DIR"),
            Self::NoServerName { .. } => {
                Some("give --server-name NAME: what follows the colon in your users' ids")
            }
            Self::NoHomeserver => Some("give --homeserver URL, such as http://127.0.0.1:8008"),
            Self::SeveralHomeservers => Some("change the file instead"),
            Self::NoHosts { .. } => {
                Some("add hosts = [\"matrix.example.org\"]: the Host that the proxy hands on")
            }
            Self::Twice { .. } => None,
            Self::BudgetBelowBody => Some("a body of the allowed size would never be taken"),
        }
    }
}

/// What flags (and their environment variables) say in place of the file.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Overrides {
    /// Where to listen [default: 127.0.0.1:8018]
    #[arg(long, env = "STRONGROOM_LISTEN", value_name = "ADDR|unix:PATH")]
    pub(crate) listen: Option<Address>,
    /// The directory to keep the data in
    #[arg(long, env = "STRONGROOM_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The homeserver to ask whom an access token belongs to, such as http://127.0.0.1:8008
    #[arg(long, env = "STRONGROOM_HOMESERVER", value_name = "URL")]
    pub(crate) homeserver: Option<String>,
    /// What follows the colon in the ids of its users
    #[arg(long, env = "STRONGROOM_SERVER_NAME", value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// A file with lines of `TOKEN @user:server`, in place of a homeserver
    #[arg(long, env = "STRONGROOM_TOKENS", value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
}

impl Config {
    /// Reads the file, if one is given, and the variables `STRONGROOM_…` of single options.
    pub(crate) fn load(
        path: Option<&Path>,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let text = match path {
            Some(path) => fs::read_to_string(path)
                .map_err(|source| ConfigError::Io { path: path.to_owned(), source })?,
            None => String::new(),
        };
        let in_file = |error: toml::de::Error| ConfigError::File {
            path: path.unwrap_or(Path::new("strongroom.toml")).to_owned(),
            text: error.to_string(),
        };
        // Read by itself first, so that a mistake is told with its line.
        let config: Self = toml::from_str(&text).map_err(in_file)?;
        let overlay = overlay(variables)?;
        if overlay.is_empty() {
            return Ok(config);
        }
        let mut table: Table = text.parse().map_err(in_file)?;
        merge(&mut table, overlay);
        toml::from_str(&table.to_string()).map_err(in_file)
    }

    /// Puts the flags over it.
    pub(crate) fn apply(&mut self, flags: Overrides) -> Result<(), ConfigError> {
        let Overrides { listen, data, homeserver, server_name, tokens } = flags;
        self.listen = listen.unwrap_or_else(|| self.listen.clone());
        self.data = data.or(self.data.take());
        self.tokens = tokens.or(self.tokens.take());
        if homeserver.is_some() || server_name.is_some() {
            if self.homeserver.len() > 1 {
                return Err(ConfigError::SeveralHomeservers);
            }
            let (url, name, hosts) = match self.homeserver.pop() {
                Some(file) => (Some(file.url), Some(file.server_name), file.hosts),
                None => (None, None, Vec::new()),
            };
            let url = homeserver.or(url).ok_or(ConfigError::NoHomeserver)?;
            let Some(server_name) = server_name.or(name) else {
                return Err(ConfigError::NoServerName { url });
            };
            self.homeserver = vec![Homeserver { url, server_name, hosts }];
        }
        Ok(())
    }

    /// Whether it is whole and free of contradictions.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        match (self.homeserver.is_empty(), self.tokens.is_some()) {
            (true, false) => return Err(ConfigError::NobodyKnows),
            (false, true) => return Err(ConfigError::BothKnow),
            (true, true) | (false, false) => {}
        }
        if self.data.is_none() {
            return Err(ConfigError::NoData);
        }
        let homeservers = &self.homeserver;
        if homeservers.len() > 1
            && let Some(without) = homeservers.iter().find(|homeserver| homeserver.hosts.is_empty())
        {
            return Err(ConfigError::NoHosts { server_name: without.server_name.clone() });
        }
        // Users of one name would share their backups, and requests to one host could mean either.
        let names = homeservers.iter().map(|homeserver| &homeserver.server_name);
        let hosts = homeservers.iter().flat_map(|homeserver| &homeserver.hosts);
        if let Some(what) = first_twice(names).or_else(|| first_twice(hosts)) {
            return Err(ConfigError::Twice { what: what.clone() });
        }
        if self.limits.bodies_in_flight_bytes_max < self.limits.body_bytes_max {
            return Err(ConfigError::BudgetBelowBody);
        }
        Ok(())
    }
}

fn first_twice<'a>(mut texts: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = HashSet::new();
    texts.find(|text| !seen.insert(text.to_ascii_lowercase()))
}

/// The options that variables set, as a table like the file's. Other variables that begin with
/// `STRONGROOM_` are left alone: container platforms make some up.
fn overlay(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Table, ConfigError> {
    // The defaults know every option that is a single value, and its type.
    let defaults = Table::try_from(Config::default()).unwrap_or_default();
    let mut overlay = Table::new();
    for (name, value) in variables {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        let Some(option) = name.strip_prefix("STRONGROOM_") else { continue };
        // One spelling, since of two nobody knows which counts.
        if option.contains(|c: char| c.is_ascii_lowercase()) {
            continue;
        }
        let Some((path, default)) = find(&defaults, &option.to_ascii_lowercase()) else { continue };
        let bad = |text: String| ConfigError::Variable { name: name.to_owned(), text };
        let value = if default.is_integer() {
            // None is negative, so a sign is a mistake: `-00` would be 0.
            let number = value.parse::<u64>().ok().and_then(|number| i64::try_from(number).ok());
            Value::Integer(number.ok_or_else(|| bad("it is not a whole number".to_owned()))?)
        } else if default.is_array() {
            let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        } else {
            Value::String(value.to_owned())
        };
        let mut alone = Table::new();
        match path {
            (Some(section), key) => {
                let inner = Table::from_iter([(key, value)]);
                alone.insert(section, Value::Table(inner));
            }
            (None, key) => {
                alone.insert(key, value);
            }
        }
        let checked: Result<Config, _> = toml::from_str(&alone.to_string());
        checked.map_err(|error| bad(error.message().to_owned()))?;
        merge(&mut overlay, alone);
    }
    Ok(overlay)
}

/// The section and the key of an option whose name in the environment is `section_key`.
fn find<'a>(defaults: &'a Table, name: &str) -> Option<((Option<String>, String), &'a Value)> {
    for (key, value) in defaults {
        if let Some(section) = value.as_table() {
            let inner = name.strip_prefix(key.as_str()).and_then(|rest| rest.strip_prefix('_'));
            if let Some((inner, value)) = inner.and_then(|inner| section.get_key_value(inner)) {
                return Some(((Some(key.clone()), inner.clone()), value));
            }
        } else if key == name {
            return Some(((None, key.clone()), value));
        }
    }
    None
}

fn merge(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(table)), Value::Table(over)) => merge(table, over),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Config::load(Some(file.path()), variables)
    }

    #[test]
    fn the_example_shows_every_option_with_its_default() {
        let example: Config = toml::from_str(EXAMPLE).unwrap();
        // What has no default is shown as most would set it.
        let expected = Config {
            data: Some("/var/lib/strongroom".into()),
            homeserver: example.homeserver.clone(),
            ..Config::default()
        };
        assert_eq!(example, expected);
        example.check().unwrap();
        let mentioned = |key: &str| {
            EXAMPLE.lines().any(|line| line.trim_start_matches('#').trim().starts_with(key))
        };
        let all = Config { tokens: Some("x".into()), ..expected };
        for (key, value) in Table::try_from(all).unwrap() {
            if let Some(section) = value.as_table() {
                for key in section.keys() {
                    assert!(mentioned(&format!("{key} = ")), "{key} is missing");
                }
            } else if key == "homeserver" {
                assert!(mentioned("[[homeserver]]"), "{key} is missing");
            } else {
                assert!(mentioned(&format!("{key} = ")), "{key} is missing");
            }
        }
        assert!(mentioned("hosts = "));
    }

    #[test]
    fn a_mistake_in_the_file_is_told_with_its_line() {
        for (text, line, what) in [
            ("listen = \"127.0.0.1:8018\"\nlisen = 1", "line 2", "unknown field `lisen`"),
            ("\n\nretention = \"soon\"", "line 3", "write a time such as"),
            ("[limits]\nbody_timeout = \"1001 years\"", "line 2", "longer than 1000 years"),
            ("[limits]\nbody_bytes_max = -1", "line 2", "invalid value"),
            ("[limits]\nbody_byte_max = 1", "line 2", "unknown field"),
            ("listen = \"nowhere\"", "line 1", "unix:PATH"),
            ("[[homeserver]]\nurl = \"http://x\"", "line 1", "missing field `server_name`"),
            ("[log]\nlevel = \"loud\"", "line 2", "unknown variant"),
            ("x = [", "line 1", ""),
        ] {
            let error = load(text, &[]).unwrap_err().to_string();
            assert!(error.contains(line) && error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn a_variable_beats_the_file_and_a_flag_beats_both() {
        let file = "listen = \"127.0.0.1:1\"\n[auth]\ncache_ttl = \"1s\"\ntimeout = \"2s\"";
        let variables = [
            ("STRONGROOM_AUTH_CACHE_TTL", "0s"),
            ("STRONGROOM_LIMITS_BODY_BYTES_MAX", "77"),
            ("STRONGROOM_LISTEN", "127.0.0.1:2"),
            ("STRONGROOM_TRUSTED_PROXIES", "10.0.0.7, fd00::/8"),
            ("STRONGROOM_PORT", "tcp://10.0.0.1"),
            ("STRONGROOM_Listen", "127.0.0.1:4"),
            ("AUTH_TIMEOUT", "9s"),
        ];
        let mut config = load(file, &variables).unwrap();
        assert_eq!(config.auth.cache_ttl, seconds(0));
        assert_eq!(config.auth.timeout, seconds(2));
        assert_eq!(config.limits.body_bytes_max, 77);
        assert_eq!(config.listen.to_string(), "127.0.0.1:2");
        let proxies: Vec<String> = config.trusted_proxies.clone().into();
        assert_eq!(proxies, ["10.0.0.7/32", "fd00::/8"]);
        let listen = Some("127.0.0.1:3".parse().unwrap());
        config.apply(Overrides { listen, ..Overrides::default() }).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:3");
    }

    #[test]
    fn a_mistake_in_a_variable_is_told_with_its_name() {
        for (name, value) in [
            ("STRONGROOM_AUTH_CACHE_TTL", "soon"),
            ("STRONGROOM_LIMITS_CONNECTIONS_MAX", "many"),
            ("STRONGROOM_LIMITS_CONNECTIONS_MAX", "0"),
            ("STRONGROOM_LIMITS_BODY_BYTES_MAX", "-1"),
            ("STRONGROOM_LIMITS_BODY_BYTES_MAX", "-00"),
            ("STRONGROOM_LOG_FORMAT", "xml"),
            ("STRONGROOM_TRUSTED_PROXIES", "localhost"),
        ] {
            let error = load("", &[(name, value)]).unwrap_err();
            assert!(
                matches!(&error, ConfigError::Variable { name: told, .. } if told == name),
                "{error}"
            );
        }
    }

    #[test]
    fn homeservers_that_share_an_address_have_hosts_of_their_own() {
        let text = |first: &str, second: &str| {
            format!(
                "data = \"d\"\n[[homeserver]]\nurl = \"http://a\"\nserver_name = \"a\"\nhosts = {first}\n\
                 [[homeserver]]\nurl = \"http://b\"\nserver_name = \"b\"\nhosts = {second}"
            )
        };
        let check = |first, second| load(&text(first, second), &[]).unwrap().check();
        assert!(check("[\"m.a\"]", "[\"m.b\"]").is_ok());
        let without = check("[\"m.a\"]", "[]");
        assert!(matches!(without, Err(ConfigError::NoHosts { .. })), "{without:?}");
        let twice = check("[\"m.a\"]", "[\"m.b\", \"m.a\"]");
        assert!(matches!(twice, Err(ConfigError::Twice { .. })), "{twice:?}");
    }
}
