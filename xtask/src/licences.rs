//! Under which licences we may use the code of others, and which code we never use.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::metadata::{list, text};

/// These ask for no more than what a binary with a list of its parts fulfils.
const ALLOWED: [&str; 15] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MPL-2.0", // of its own files alone, which we do not change
    "NCSA",    // libFuzzer's
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// TLS is rustls; these would bring OpenSSL in.
const BANNED: [&str; 3] = ["native-tls", "openssl", "openssl-sys"];

/// Fails on a package that we may not use.
pub(crate) fn check(metadata: &Value) -> Result<()> {
    let refused: Vec<_> = list(metadata, "packages").iter().filter_map(refusal).collect();
    if !refused.is_empty() {
        bail!("{}", refused.join("\n"));
    }
    Ok(())
}

fn refusal(package: &Value) -> Option<String> {
    let (name, licence) = (text(package, "name"), text(package, "license"));
    if BANNED.contains(&name) {
        return Some(format!("{name} is banned"));
    }
    match is_satisfiable(licence) {
        Some(true) => None,
        Some(false) => Some(format!("{name} is under {licence}, which is not allowed")),
        None => Some(format!("{name} has a licence that cannot be read: {licence:?}")),
    }
}

/// Whether the SPDX expression can be fulfilled with allowed licences; `None` if it is none.
///
/// ```text
/// either := both ("OR" both)*
/// both   := one ("AND" one)*
/// one    := "(" either ")" | licence ("WITH" exception)?
/// ```
fn is_satisfiable(expression: &str) -> Option<bool> {
    // Before SPDX expressions, a slash stood for OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let satisfiable = either(&mut words)?;
    words.next().is_none().then_some(satisfiable)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>) -> Option<bool> {
    let mut satisfiable = both(words)?;
    while words.next_if_eq(&"OR").is_some() {
        satisfiable |= both(words)?;
    }
    Some(satisfiable)
}

fn both(words: &mut Words<'_>) -> Option<bool> {
    let mut satisfiable = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        satisfiable &= one(words)?;
    }
    Some(satisfiable)
}

fn one(words: &mut Words<'_>) -> Option<bool> {
    match words.next()? {
        "(" => {
            let satisfiable = either(words)?;
            words.next_if_eq(&")").map(|_| satisfiable)
        }
        ")" | "AND" | "OR" | "WITH" => None,
        licence if words.next_if_eq(&"WITH").is_some() => {
            let with_exception = format!("{licence} WITH {}", words.next()?);
            Some(ALLOWED.contains(&with_exception.as_str()))
        }
        // A plus stands for "or any later version".
        licence => Some(ALLOWED.contains(&licence.strip_suffix('+').unwrap_or(licence))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_allowed_alternative_is_enough_and_every_demand_counts() {
        for (expression, expected) in [
            ("MIT", Some(true)),
            ("MIT/Apache-2.0", Some(true)),
            ("MPL-2.0+", Some(true)),
            ("GPL-3.0-only OR MIT", Some(true)),
            ("GPL-3.0-only AND MIT", Some(false)),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", Some(true)),
            ("MIT OR GPL-3.0-only AND ISC", Some(true)), // AND binds closer
            ("(MIT OR ISC) AND GPL-3.0-only", Some(false)),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", Some(true)),
            ("GPL-2.0-only WITH Classpath-exception-2.0", Some(false)),
        ] {
            assert_eq!(is_satisfiable(expression), expected, "{expression}");
        }
    }

    #[test]
    fn what_is_no_expression_is_not_taken_for_one() {
        for expression in ["", "MIT OR", "(MIT", "MIT)", "MIT ISC", "AND", "MIT WITH"] {
            assert_eq!(is_satisfiable(expression), None, "{expression}");
        }
    }
}
