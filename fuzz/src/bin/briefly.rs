//! Every target for some seconds: on what lies in its corpus, then on changes of that. Without coverage
//! guidance, so that it takes no build of its own.
//!
//! `briefly SECONDS` runs all, `briefly TARGET FILE...` runs one on these inputs. An input on which a
//! target panics, or does not come to an end, is left in a file.

use std::{
    env, fs, io,
    path::Path,
    process::{self, ExitCode},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use strongroom_fuzz::{TARGETS, Target};

/// Where `cargo xtask fuzz` leaves what it finds, too.
const FINDINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/fuzz/findings");
/// Longer inputs find nothing more, and it more slowly.
const INPUT_BYTES_MAX: usize = 8 * 1024;
/// No input takes a hundredth of it.
const INPUT_TIME_MAX: Duration = Duration::from_secs(30);

/// What runs now.
struct Running {
    target: &'static str,
    input: Vec<u8>,
    since: Instant,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| found(&panic.to_string())));
    thread::spawn(watch);
    let arguments: Vec<_> = env::args().skip(1).collect();
    let first = arguments.first().map(String::as_str).unwrap_or_default();
    let target = TARGETS.iter().find(|(name, _)| *name == first);
    let done = match (target, first.parse(), arguments.get(1..)) {
        (Some(target), _, Some(files)) => replay(*target, files),
        (None, Ok(seconds), Some([])) => all(Duration::from_secs(seconds)),
        (_, _, _) => {
            eprintln!("usage: briefly SECONDS\n       briefly TARGET FILE...");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn replay(target: (&'static str, Target), files: &[String]) -> io::Result<()> {
    for file in files {
        run(target, fs::read(file)?);
    }
    Ok(())
}

fn all(time: Duration) -> io::Result<()> {
    let mut rng = Rng::new();
    for target in TARGETS {
        let (name, _) = target;
        let seeds = corpus(name)?;
        for seed in &seeds {
            run(target, seed.clone());
        }
        let (begin, mut changed) = (Instant::now(), 0);
        while begin.elapsed() < time {
            run(target, change(&mut rng, &seeds));
            changed += 1;
        }
        println!("{name}: {} inputs, {changed} changes of them", seeds.len());
    }
    Ok(())
}

fn corpus(name: &str) -> io::Result<Vec<Vec<u8>>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    files.iter().map(fs::read).collect()
}

fn run((target, function): (&'static str, Target), input: Vec<u8>) {
    let since = Instant::now();
    *running() = Some(Running { target, input: input.clone(), since });
    function(&input);
    *running() = None;
}

fn running() -> std::sync::MutexGuard<'static, Option<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process when an input takes too long.
fn watch() {
    loop {
        thread::sleep(INPUT_TIME_MAX / 10);
        let is_stuck = running().as_ref().is_some_and(|it| it.since.elapsed() > INPUT_TIME_MAX);
        if is_stuck {
            found("it does not come to an end");
        }
    }
}

/// Says what was found, keeps the input, and ends the process, whichever thread has found it.
fn found(what: &str) {
    let Some(Running { target, input, .. }) = running().take() else {
        eprintln!("{what}");
        process::exit(1);
    };
    eprintln!("{target}: {what}\non the input {:?}", String::from_utf8_lossy(&input));
    let directory = Path::new(FINDINGS).join(target);
    let file = directory.join("found-briefly");
    match fs::create_dir_all(&directory).and_then(|()| fs::write(&file, &input)) {
        Ok(()) => eprintln!(
            "again: cargo run --manifest-path fuzz/Cargo.toml {target} {}",
            file.display()
        ),
        Err(error) => eprintln!("it can't be kept in {}: {error}", file.display()),
    }
    process::exit(1);
}

/// A seed with some changes, of which some bring in what other seeds have.
fn change(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = rng.choice(seeds).cloned().unwrap_or_default();
    for _ in 0..rng.usize(1..=4) {
        let at = rng.usize(0..=input.len());
        let to = (at + rng.usize(0..=16)).min(input.len());
        let piece = match rng.u8(0..6) {
            0 => vec![rng.u8(..)],
            1 => input.get(at).map(|byte| vec![byte ^ (1 << rng.u8(0..8))]).unwrap_or_default(),
            2 => Vec::new(),
            3 => (0..rng.usize(1..64)).map(|_| rng.u8(..)).collect(),
            4 => input[at..to].repeat(rng.usize(2..4)),
            _ => {
                let other = rng.choice(seeds).map(Vec::as_slice).unwrap_or_default();
                let from = rng.usize(0..=other.len());
                other[from..(from + rng.usize(0..64)).min(other.len())].to_vec()
            }
        };
        input.splice(at..to, piece);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}
