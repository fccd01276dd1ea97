//! The targets, one sentence and one file each, and what several of them need.

pub(crate) mod config;
pub(crate) mod database;
pub(crate) mod homeserver;
pub(crate) mod ids;
pub(crate) mod object;
pub(crate) mod rank;
pub(crate) mod room_keys;
pub(crate) mod router;
pub(crate) mod store;
pub(crate) mod tokens;
pub(crate) mod version;

use std::path::Path;

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Runs it on a runtime that this thread keeps.
fn run_to_the_end<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// A directory that is gone when this is dropped; in memory where the system has such a place, since
/// what survives a power cut is not the question here.
fn scratch() -> TempDir {
    let in_memory = Path::new("/dev/shm");
    if in_memory.is_dir() { TempDir::new_in(in_memory) } else { TempDir::new() }.unwrap()
}
