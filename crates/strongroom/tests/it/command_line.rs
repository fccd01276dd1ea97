//! What the program says on its command line, byte for byte.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests fail loudly"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use strongroom_testing::Process;
use tempfile::TempDir;

use crate::hostile::wire::{Wire, program};

/// Runs it to its end, which comes by itself.
fn run(arguments: &[&str], environment: &[(&str, &str)], directory: &Path) -> Output {
    let mut command = program(environment);
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    command.output().expect("it starts")
}

/// The exit code, standard output, and standard error.
fn said(output: &Output) -> (i32, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).expect("UTF-8");
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Runs it, and compares everything that it says.
#[track_caller]
fn check(directory: &Path, arguments: &[&str], expected: (i32, &str, &str)) {
    let output = run(arguments, &[], directory);
    assert_eq!(said(&output), expected, "strongroom {}", arguments.join(" "));
}

#[test]
fn help_says_what_there_is() {
    let directory = TempDir::new().unwrap();
    let version = format!("strongroom {}\n", env!("CARGO_PKG_VERSION"));
    for (arguments, expected) in [
        (&["--help"][..], include_str!("command_line/help.txt")),
        (&["help"], include_str!("command_line/help.txt")),
        (&["serve", "--help"], include_str!("command_line/serve-help.txt")),
        (&["help", "serve"], include_str!("command_line/serve-help.txt")),
        (&["config", "--help"], include_str!("command_line/config-help.txt")),
        (&["config", "check", "--help"], include_str!("command_line/config-check-help.txt")),
        (&["config", "example", "--help"], include_str!("command_line/config-example-help.txt")),
        (&["admin", "--help"], include_str!("command_line/admin-help.txt")),
        (&["admin", "status", "--help"], include_str!("command_line/admin-status-help.txt")),
        (&["admin", "users", "--help"], include_str!("command_line/admin-users-help.txt")),
        (&["admin", "show", "--help"], include_str!("command_line/admin-show-help.txt")),
        (&["admin", "log", "--help"], include_str!("command_line/admin-log-help.txt")),
        (&["admin", "undelete", "--help"], include_str!("command_line/admin-undelete-help.txt")),
        (&["admin", "retain", "--help"], include_str!("command_line/admin-retain-help.txt")),
        (&["admin", "purge", "--help"], include_str!("command_line/admin-purge-help.txt")),
        (&["admin", "check", "--help"], include_str!("command_line/admin-check-help.txt")),
        (&["admin", "snapshot", "--help"], include_str!("command_line/admin-snapshot-help.txt")),
        (&["--version"], &version),
    ] {
        check(directory.path(), arguments, (0, expected, ""));
    }
    // Nothing said is nothing done.
    check(directory.path(), &[], (2, "", include_str!("command_line/help.txt")));
    check(directory.path(), &["config"], (2, "", include_str!("command_line/config-help.txt")));
}

#[test]
fn what_is_wrong_is_told_with_what_to_do_about_it() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    fs::write(directory.path().join("open"), "secret @a:x\n").unwrap();
    fs::set_permissions(directory.path().join("open"), fs::Permissions::from_mode(0o644)).unwrap();
    for (name, content) in [("closed", "ok @a:x\nsecret alice\n"), ("twice", "a @a:x\na @b:x\n")] {
        fs::write(directory.path().join(name), content).unwrap();
        fs::set_permissions(directory.path().join(name), fs::Permissions::from_mode(0o600))
            .unwrap();
    }
    let several = ["a", "b"].map(|name| {
        format!("[[homeserver]]\nurl = \"http://{name}\"\nserver_name = \"{name}\"\nhosts = [\"{name}\"]\n")
    });
    fs::write(directory.path().join("several.toml"), several.concat()).unwrap();
    for (arguments, expected) in [
        (
            "serve",
            "error: nobody says whom an access token belongs to\n\
             help: give --homeserver URL and --server-name NAME; or --tokens FILE; or, to try it out, --dev\n",
        ),
        (
            "serve --homeserver http://x --server-name x",
            "error: where to keep the data is not said\nhelp: give --data DIR\n",
        ),
        (
            "serve --homeserver http://x --data d",
            "error: the homeserver http://x has no server name\n\
             help: give --server-name NAME: what follows the colon in your users' ids\n",
        ),
        (
            "serve --server-name x --data d",
            "error: a server name is given, and no homeserver\n\
             help: give --homeserver URL, such as http://127.0.0.1:8008\n",
        ),
        (
            "serve --homeserver x --server-name x --data d",
            "error: \"x\" is not the URL of a homeserver, such as http://127.0.0.1:8008\n",
        ),
        (
            "serve --homeserver http://x --server-name x --tokens closed --data d",
            "error: access tokens come from a homeserver or from a file, and both are configured\n\
             help: take one of the two away\n",
        ),
        (
            "serve --config several.toml --server-name x",
            "error: --homeserver and --server-name can't be used with several homeservers in the file\n\
             help: change the file instead\n",
        ),
        (
            "serve --config missing.toml",
            "error: can't read the configuration file missing.toml: No such file or directory (os error 2)\n\
             help: `strongroom config example` prints a file with every option\n",
        ),
        (
            "serve --tokens missing --data d",
            "error: missing: can't read the tokens: No such file or directory (os error 2)\n",
        ),
        (
            "serve --tokens open --data d",
            "error: open: the tokens may be read by others: its mode is 644, and 600 is needed\n\
             help: chmod 600 the file\n",
        ),
        (
            "serve --tokens closed --data d",
            "error: closed: line 2 of the tokens is not of the form TOKEN @user:server\n",
        ),
        ("serve --tokens twice --data d", "error: twice: line 2 of the tokens repeats a token\n"),
        (
            "serve --dev --data file",
            "error: can't read and write file: File exists (os error 17)\n\
             help: give --data a directory that belongs to the user who runs strongroom\n",
        ),
        (
            "serve --listen nowhere",
            "error: invalid value 'nowhere' for '--listen <ADDR|unix:PATH>': \"nowhere\" is not an \
             address to listen on; write ADDRESS:PORT or unix:PATH\n\n\
             For more information, try '--help'.\n",
        ),
        (
            "serve --dev --tokens closed",
            "error: the argument '--dev' cannot be used with '--tokens <FILE>'\n\n\
             Usage: strongroom serve --dev\n\nFor more information, try '--help'.\n",
        ),
        (
            "serve --dev --homeserver http://x",
            "error: the argument '--dev' cannot be used with '--homeserver <URL>'\n\n\
             Usage: strongroom serve --dev\n\nFor more information, try '--help'.\n",
        ),
        (
            "serve --dev --server-name x",
            "error: the argument '--dev' cannot be used with '--server-name <NAME>'\n\n\
             Usage: strongroom serve --dev\n\nFor more information, try '--help'.\n",
        ),
        (
            "serve --nonsense",
            "error: unexpected argument '--nonsense' found\n\n\
             Usage: strongroom serve [OPTIONS]\n\nFor more information, try '--help'.\n",
        ),
        (
            "nonsense",
            "error: unrecognized subcommand 'nonsense'\n\n\
             Usage: strongroom <COMMAND>\n\nFor more information, try '--help'.\n",
        ),
    ] {
        let arguments: Vec<_> = arguments.split(' ').collect();
        check(directory.path(), &arguments, (2, "", expected));
    }
    assert!(!directory.path().join("d").exists(), "it made a directory and then gave up");
}

#[test]
fn the_example_is_a_configuration_without_mistakes() {
    let directory = TempDir::new().unwrap();
    let example = include_str!("../../../../strongroom.example.toml");
    check(directory.path(), &["config", "example"], (0, example, ""));
    fs::write(directory.path().join("strongroom.toml"), example).unwrap();
    let fine = "strongroom.toml has no mistakes\n";
    check(directory.path(), &["config", "check"], (0, fine, ""));
    check(directory.path(), &["config", "check", "strongroom.toml"], (0, fine, ""));
}

#[test]
fn a_mistake_in_the_configuration_is_told_with_its_line() {
    let directory = TempDir::new().unwrap();
    let example = "help: `strongroom config example` prints a file with every option\n";
    let in_file = |text: &str| format!("error: in a.toml: {text}\n{example}");
    for (content, expected) in [
        (
            "listen = \"127.0.0.1:8018\"\nlisen = 1\n",
            in_file(
                "TOML parse error at line 2, column 1\n  |\n2 | lisen = 1\n  | ^^^^^\n\
                 unknown field `lisen`, expected one of `listen`, `data`, `tokens`, \
                 `trusted_proxies`, `retention`, `journal_retention`, `shutdown_timeout`, `homeserver`, `auth`, `limits`, `log`, `operator`\n",
            ),
        ),
        (
            "\n\nretention = \"soon\"\n",
            in_file(
                "TOML parse error at line 3, column 13\n  |\n3 | retention = \"soon\"\n  |             ^^^^^^\n\
                 expected number at 0; write a time such as \"30s\", \"5m\" or \"30 days\"\n",
            ),
        ),
        (
            "[limits]\nbody_bytes_max = \"many\"\n",
            in_file(
                "TOML parse error at line 2, column 18\n  |\n2 | body_bytes_max = \"many\"\n  |                  ^^^^^^\n\
                 invalid type: string \"many\", expected usize\n",
            ),
        ),
        (
            "x = [\n",
            in_file(
                "TOML parse error at line 1, column 6\n  |\n1 | x = [\n  |      ^\n\
                 unclosed array, expected `]`\n",
            ),
        ),
        (
            "data = \"d\"\n",
            "error: nobody says whom an access token belongs to\n\
             help: give --homeserver URL and --server-name NAME; or --tokens FILE; or, to try it out, --dev\n"
                .to_owned(),
        ),
        (
            "tokens = \"t\"\n",
            "error: where to keep the data is not said\nhelp: give --data DIR\n".to_owned(),
        ),
    ] {
        fs::write(directory.path().join("a.toml"), content).unwrap();
        check(directory.path(), &["config", "check", "a.toml"], (2, "", &expected));
        check(directory.path(), &["serve", "--config", "a.toml"], (2, "", &expected));
    }
    check(
        directory.path(),
        &["config", "check", "missing.toml"],
        (
            2,
            "",
            &format!(
                "error: can't read the configuration file missing.toml: No such file or directory \
                 (os error 2)\n{example}"
            ),
        ),
    );
}

#[test]
fn a_configuration_is_checked_together_with_the_environment() {
    let directory = TempDir::new().unwrap();
    let check = |content: &str, environment: &[(&str, &str)]| {
        fs::write(directory.path().join("strongroom.toml"), content).unwrap();
        run(&["config", "check"], environment, directory.path())
    };
    let bad = check("data = \"d\"\ntokens = \"t\"\n", &[("STRONGROOM_AUTH_CACHE_TTL", "soon")]);
    let expected = "error: the environment variable STRONGROOM_AUTH_CACHE_TTL has a value that can't \
                    be used: expected number at 0; write a time such as \"30s\", \"5m\" or \"30 days\"\n";
    assert_eq!(said(&bad), (2, "", expected));
    // What `serve` would be content with.
    for (content, environment) in [
        ("tokens = \"t\"\n", &[("STRONGROOM_DATA", "d")][..]),
        ("data = \"d\"\n", &[("STRONGROOM_TOKENS", "t")]),
        (
            "data = \"d\"\n",
            &[("STRONGROOM_HOMESERVER", "http://x"), ("STRONGROOM_SERVER_NAME", "x")],
        ),
    ] {
        let output = check(content, environment);
        let fine = (0, "strongroom.toml has no mistakes\n", "");
        assert_eq!(said(&output), fine, "{content} {environment:?}");
    }
}

/// Starts `serve --dev` and waits until it has said everything.
async fn dev(arguments: &[&str]) -> Process {
    let mut command = program(&[]);
    let mut process =
        Process::spawn("strongroom", command.args(["serve", "--dev"]).args(arguments));
    process.wait_for("the third line", |output| pasted(output).get(2).map(|_| ())).await;
    process
}

/// The lines to paste that it prints.
fn pasted(output: &str) -> Vec<String> {
    let whole = output.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.filter(|line| line.contains("curl ")).map(str::to_owned).collect()
}

/// What a shell says when these lines are pasted into it.
fn paste(shell: &[&str], lines: &str) -> (String, String) {
    let script = tempfile::NamedTempFile::new().unwrap();
    fs::write(script.path(), lines).unwrap();
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).stdin(fs::File::open(script.path()).unwrap());
    // curl would send even this to a proxy.
    let output = command.env("no_proxy", "*").env("HISTFILE", "/dev/null").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn what_dev_prints_can_be_pasted() {
    let process = dev(&["--listen", "127.0.0.1:0"]).await;
    let output = process.output();
    let line = |label: &str| {
        let found = output.lines().find_map(|line| line.trim_start().strip_prefix(label));
        found.unwrap_or_else(|| panic!("no {label} in {output}")).trim().to_owned()
    };
    let (url, token) = (line("Strongroom is listening on"), line("access token"));
    assert!(url.starts_with("http://127.0.0.1:"), "{output}");
    assert_eq!(line("user  "), "@dev:localhost");
    assert_eq!(line("data  "), "gone when this stops; --data DIR keeps them");
    let lines = pasted(&output);
    assert_eq!(lines.len(), 3, "{output}");
    assert!(lines.iter().all(|line| line.contains(&token) && line.contains(&url)), "{output}");

    // An interactive shell reads history into what stands between double quotes.
    let interactive = "set -o history -o histexpand\n";
    for (shell, before) in
        [(&["sh"][..], ""), (&["bash", "--norc"], ""), (&["bash", "--norc"], interactive)]
    {
        let (said, complaints) = paste(shell, &format!("{before}{}", lines.concat()));
        let complaints = format!("{shell:?} after {before:?}: {said}{complaints}");
        let (version, rest) = said.split_once('\n').unwrap_or_default();
        assert!(version.parse::<u64>().is_ok(), "{complaints}");
        let mut answers = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let put = answers.next().and_then(Result::ok).unwrap_or_default();
        assert_eq!(put["count"], 1, "{complaints}");
        let got = answers.next().and_then(Result::ok).unwrap_or_default();
        let key = &got["rooms"]["!room:localhost"]["sessions"]["session"];
        assert_eq!(key["session_data"]["ciphertext"], "b", "{complaints}");
    }
}

#[tokio::test]
async fn what_dev_prints_can_be_pasted_when_it_listens_on_a_unix_socket() {
    let directory = TempDir::new().unwrap();
    let socket = format!("unix:{}", directory.path().join("socket").display());
    let process = dev(&["--listen", &socket]).await;
    let (said, complaints) = paste(&["sh"], &pasted(&process.output()).concat());
    assert!(said.contains(r#""!room:localhost""#), "{said}{complaints}");
}

#[tokio::test]
async fn the_data_of_dev_are_gone_when_it_stops_unless_a_directory_is_given() {
    let mut process = dev(&["--listen", "127.0.0.1:0"]).await;
    let output = process.output();
    let data = output.split("data=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let data = Path::new(data.expect("the log tells the directory")).to_owned();
    assert!(data.is_dir(), "{output}");
    process.terminate();
    assert_eq!(process.wait().await.code(), Some(0), "{}", process.output());
    assert!(!data.exists(), "{} is still there", data.display());

    let directory = TempDir::new().unwrap();
    let kept = directory.path().join("kept");
    let kept = kept.to_str().unwrap();
    let mut process = dev(&["--listen", "127.0.0.1:0", "--data", kept]).await;
    paste(&["sh"], &pasted(&process.output()).concat());
    process.terminate();
    process.wait().await;
    let process = dev(&["--listen", "127.0.0.1:0", "--data", kept]).await;
    let (said, complaints) = paste(&["sh"], &pasted(&process.output())[1..].concat());
    assert!(said.contains(r#""!room:localhost""#), "{said}{complaints}");
}

#[tokio::test]
async fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("tokens"), "# for a test\n\ntoken @a:x\n").unwrap();
    fs::set_permissions(at("tokens"), fs::Permissions::from_mode(0o600)).unwrap();
    let file = format!(
        "listen = \"127.0.0.2:0\"\ndata = {:?}\ntokens = {:?}\n[limits]\nbody_bytes_max = 2000\n",
        at("data"),
        at("tokens")
    );
    fs::write(at("strongroom.toml"), file).unwrap();
    let environment =
        [("STRONGROOM_LISTEN", "127.0.0.3:0"), ("STRONGROOM_LIMITS_BODY_BYTES_MAX", "3000")];
    let flag = ["--listen", "127.0.0.4:0"];
    for (environment, flags, listens, bytes_max) in [
        (&[][..], &[][..], "127.0.0.2", 2000),
        (&environment, &[], "127.0.0.3", 3000),
        (&environment, &flag, "127.0.0.4", 3000),
        (&[], &flag, "127.0.0.4", 2000),
    ] {
        let mut command = program(environment);
        command.args(["serve", "--config", &at("strongroom.toml")]).args(flags);
        let mut process = Process::spawn("strongroom", &mut command);
        let address = process.wait_for("its address", |output| {
            let (_, rest) = output.split_once("listening address=http://")?;
            rest.split_whitespace().next().filter(|_| rest.contains('\n'))?.parse().ok()
        });
        let address: std::net::SocketAddr = address.await;
        assert_eq!(address.ip().to_string(), listens);
        let request = "PUT /_matrix/client/v3/room_keys/keys?version=1 HTTP/1.1\r\nhost: x\r\n\
                       authorization: Bearer token\r\ncontent-length: 9000\r\n\r\n";
        let body = " ".repeat(9000);
        let refused = Wire::open(address).await.ask(format!("{request}{body}")).await;
        let error = format!("The body is larger than the {bytes_max} bytes that this server takes");
        assert_eq!(refused.json, json!({ "errcode": "M_TOO_LARGE", "error": error }));
        process.terminate();
        assert_eq!(process.wait().await.code(), Some(0), "{}", process.output());
        assert!(!process.output().contains("token @a:x"), "{}", process.output());
    }
}
