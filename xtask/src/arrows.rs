//! Which of our crates may depend on which: `ARCHITECTURE.md`, held to the manifests.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::metadata::{list, text};

/// What each library may depend on. Whatever is not listed, it may not.
const ARROWS: [(&str, &[&str]); 5] = [
    ("strongroom-protocol", &[]),
    ("strongroom-store", &["strongroom-protocol"]),
    ("strongroom-server", &["strongroom-protocol", "strongroom-store"]),
    ("strongroom-crypto", &["strongroom-protocol"]),
    ("strongroom-client", &["strongroom-protocol", "strongroom-crypto"]),
];

/// These join the others, or are not shipped, and may depend on any.
const FREE: [&str; 5] =
    ["strongroom", "strongroom-bench", "strongroom-testing", "strongroom-tests", "xtask"];

/// The tests of a library may use this one as well.
const TESTING: &str = "strongroom-testing";

/// The first cannot reach the second by any way: it cannot read a key, because the code to do so
/// is not in it.
const APART: (&str, &str) = ("strongroom-server", "strongroom-crypto");

/// Fails on an arrow that is not allowed.
pub(crate) fn check(metadata: &Value) -> Result<()> {
    let wrong = wrong_arrows(metadata);
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

fn wrong_arrows(metadata: &Value) -> Vec<String> {
    let members: BTreeSet<_> =
        list(metadata, "workspace_members").iter().filter_map(Value::as_str).collect();
    let packages = list(metadata, "packages").iter();
    let ours: Vec<_> = packages.filter(|package| members.contains(text(package, "id"))).collect();
    let names: BTreeSet<_> = ours.iter().map(|package| text(package, "name")).collect();

    let mut wrong = Vec::new();
    for package in &ours {
        let name = text(package, "name");
        if FREE.contains(&name) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            wrong.push(format!("{name} has no place in xtask/src/arrows.rs"));
            continue;
        };
        for dependency in list(package, "dependencies") {
            let (to, is_for_tests) = (text(dependency, "name"), text(dependency, "kind") == "dev");
            let is_allowed = allowed.contains(&to) || (is_for_tests && to == TESTING);
            if names.contains(to) && !is_allowed {
                wrong.push(format!("{name} must not depend on {to}"));
            }
        }
    }
    let (from, to) = APART;
    if reaches(metadata, from, to) {
        wrong.push(format!("{from} must not reach {to}"));
    }
    wrong
}

/// Whether `from` is linked with `to`, directly or through others, outside its tests.
fn reaches(metadata: &Value, from: &str, to: &str) -> bool {
    let packages = list(metadata, "packages");
    let id_of = |name: &str| {
        packages.iter().find(|package| text(package, "name") == name).map(|it| text(it, "id"))
    };
    let (Some(from), Some(to)) = (id_of(from), id_of(to)) else { return false };
    let nodes = metadata.get("resolve").map_or(&[][..], |resolve| list(resolve, "nodes"));

    let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
    while let Some(id) = next.pop() {
        let node = nodes.iter().find(|node| text(node, "id") == id);
        for dependency in node.map_or(&[][..], |node| list(node, "deps")) {
            let kinds = list(dependency, "dep_kinds");
            let is_linked = kinds.iter().any(|kind| text(kind, "kind") != "dev");
            let id = text(dependency, "pkg");
            if is_linked && seen.insert(id) {
                next.push(id);
            }
        }
    }
    seen.contains(to)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A package, and what it depends on: a name, and what for (`dev`, or nothing).
    type Package<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);

    fn workspace(packages: &[Package<'_>]) -> Value {
        let package = |(name, on): &Package<'_>| {
            let on = on.iter().map(|(name, kind)| json!({ "name": name, "kind": kind }));
            json!({ "id": name, "name": name, "dependencies": on.collect::<Vec<_>>() })
        };
        let node = |(name, on): &Package<'_>| {
            let on =
                on.iter().map(|(to, kind)| json!({ "pkg": to, "dep_kinds": [{ "kind": kind }] }));
            json!({ "id": name, "deps": on.collect::<Vec<_>>() })
        };
        json!({
            "workspace_members": packages.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "packages": packages.iter().map(package).collect::<Vec<_>>(),
            "resolve": { "nodes": packages.iter().map(node).collect::<Vec<_>>() },
        })
    }

    #[test]
    fn arrows_along_the_line_are_allowed() {
        let workspace = workspace(&[
            ("strongroom-protocol", &[]),
            ("strongroom-store", &[("strongroom-protocol", None)]),
            (
                "strongroom-server",
                &[("strongroom-store", None), ("strongroom-testing", Some("dev"))],
            ),
            ("strongroom-testing", &[("strongroom-crypto", None)]),
            ("strongroom-crypto", &[]),
        ]);
        assert_eq!(wrong_arrows(&workspace), [""; 0]);
    }

    #[test]
    fn an_arrow_that_is_not_listed_is_named() {
        let workspace = workspace(&[
            ("strongroom-protocol", &[("strongroom-store", None)]),
            ("strongroom-store", &[("strongroom-testing", None)]),
            ("strongroom-testing", &[]),
            ("strongroom-new", &[]),
        ]);
        let expected = [
            "strongroom-protocol must not depend on strongroom-store",
            "strongroom-store must not depend on strongroom-testing",
            "strongroom-new has no place in xtask/src/arrows.rs",
        ];
        assert_eq!(wrong_arrows(&workspace), expected);
    }

    #[test]
    fn the_server_does_not_reach_the_cryptography_by_a_detour_either() {
        let workspace = workspace(&[
            ("strongroom-server", &[("detour", None)]),
            ("detour", &[("strongroom-crypto", None)]),
            ("strongroom-crypto", &[]),
        ]);
        let wrong = wrong_arrows(&workspace);
        assert!(
            wrong.contains(&"strongroom-server must not reach strongroom-crypto".into()),
            "{wrong:?}"
        );
    }
}
