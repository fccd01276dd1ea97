//! The configuration: what is taken means the same when it is written down and read again, and a
//! variable beats the file; what is not taken is told with the file or the variable that is wrong.
//!
//! An input is the file, a line `----`, and lines of `NAME=VALUE`.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::config::{Config, ConfigError, Span};

const NAME: &str = "strongroom.toml";

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (file, variables) = text.split_once("\n----\n").unwrap_or((text, ""));
    let variables: Vec<_> = variables.lines().filter_map(|line| line.split_once('=')).collect();
    match load(file, &variables) {
        Ok(config) => {
            let written = toml::to_string(&config).expect("a form of its own");
            assert_eq!(load(&written, &[]).expect("its own form"), config, "{written}");
            if let Err(error) = config.check() {
                assert!(!error.to_string().is_empty());
            }
            for span in spans(&config) {
                assert!(Instant::now().checked_add(span).is_some(), "{span:?} is for ever");
            }
            obeys(&config, &variables);
        }
        Err(ConfigError::File { path, text }) => {
            assert!(path.ends_with(NAME) && !text.is_empty(), "{text}");
        }
        Err(ConfigError::Variable { name, text }) => {
            assert!(variables.iter().any(|(known, _)| *known == name), "{name}: {text}");
        }
        Err(error) => panic!("{error}"),
    }
}

/// Of two values of one variable the later one counts.
fn obeys(config: &Config, variables: &[(&str, &str)]) {
    let value = |name| variables.iter().rev().find(|(it, _)| *it == name).map(|(_, value)| *value);
    if let Some(listen) = value("STRONGROOM_LISTEN") {
        assert_eq!(config.listen.to_string(), listen);
    }
    if let Some(ttl) = value("STRONGROOM_AUTH_CACHE_TTL") {
        assert_eq!(config.auth.cache_ttl.0, humantime::parse_duration(ttl).unwrap());
    }
    if let Some(bytes) = value("STRONGROOM_LIMITS_BODY_BYTES_MAX") {
        assert_eq!(Ok(config.limits.body_bytes_max), bytes.parse());
    }
}

fn spans(config: &Config) -> Vec<Duration> {
    let Config { auth, limits, .. } = config;
    let spans = [
        config.retention,
        config.journal_retention,
        config.shutdown_timeout,
        auth.cache_ttl,
        auth.refused_ttl,
        auth.timeout,
        limits.header_timeout,
        limits.header_finish_timeout,
        limits.body_idle_timeout,
        limits.body_timeout,
        limits.body_grace,
        limits.write_timeout,
    ];
    spans.into_iter().map(|Span(span)| span).collect()
}

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let directory = super::scratch();
    let path = directory.path().join(NAME);
    fs::write(&path, text).unwrap();
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    Config::load(Some(&path), variables)
}
