//! A child process: what it says is kept, and it does not outlive its owner.

use std::{
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use crate::until;

/// A running program.
///
/// Its standard output and standard error are read all the time, so that it never blocks on a
/// full pipe, and kept together. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `command`; `name` is how failures call it.
    ///
    /// # Panics
    ///
    /// If there is no such program.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let output = Arc::default();
        let readers = vec![
            collect(child.stdout.take().expect("piped above"), &output),
            collect(child.stderr.take().expect("piped above"), &output),
        ];
        Self { name: name.to_owned(), child, output, readers }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that it has said so far, standard output and standard error as they came.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// Waits until `find` finds something in the output.
    ///
    /// # Panics
    ///
    /// If the process ends first, or at the deadline.
    pub async fn wait_for<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        self.until(what, async |output| find(output)).await
    }

    /// Waits until `condition`, which is given the output, finds something.
    ///
    /// # Panics
    ///
    /// If the process ends first, or at the deadline.
    pub async fn until<T>(&mut self, what: &str, condition: impl AsyncFn(&str) -> Option<T>) -> T {
        let whose = format!("{what} of {}", self.name);
        let found = until(&whose, async || {
            // Asked before the look, so that what was said last is not missed.
            let status = self.child.try_wait().expect("our own child");
            match (condition(&self.output()).await, status) {
                (None, None) => None,
                (Some(found), _) => Some(Ok(found)),
                (None, Some(status)) => Some(Err(status)),
            }
        });
        match found.await {
            Ok(found) => found,
            Err(status) => {
                self.join_readers();
                panic!("{} ended ({status}) before {what}:\n{}", self.name, self.output())
            }
        }
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    ///
    /// At the deadline.
    pub async fn wait(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        let child = &mut self.child;
        let status = until(&what, async || child.try_wait().expect("our own child")).await;
        self.join_readers();
        status
    }

    /// SIGTERM: asks it to end.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own child");
    }

    /// SIGKILL: ends it here and now, as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
        self.join_readers();
    }

    /// The pipes close with the process, so what it said last is in the output afterwards.
    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("reading does not panic");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut pipe: impl Read + Send + 'static, output: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let output = Arc::clone(output);
    thread::spawn(move || {
        let mut piece = [0; 8192];
        while let Ok(len @ 1..) = pipe.read(&mut piece) {
            output.lock().unwrap().extend(piece.iter().take(len));
        }
    })
}
