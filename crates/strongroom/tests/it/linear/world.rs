//! A server, people who ask it many things at once, and what must hold whenever it stops.

use std::{
    collections::{BTreeSet, HashSet},
    mem,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use fastrand::Rng;
use strongroom_testing::{Homeserver, Server, User};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use super::{
    file::journals,
    history::{Asked, Device, Line, Operation, Outcome, now},
    http,
    load::{Temper, everything},
    model::Model,
    search::explain,
};
use crate::{client::BINARY, hostile::wire::Wire};

/// How a server's process comes to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// SIGTERM when everything has been answered.
    Idle,
    /// SIGTERM after so many answers.
    Terminated { answers: usize },
    /// SIGKILL so long after so many answers.
    Killed { answers: usize, later: Duration },
}

/// How much is asked, and until when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// The fewer there are, the sooner is everybody answered; the more, the more is written at once.
    pub(crate) people_at_once: usize,
    /// Of each device.
    pub(crate) requests: usize,
    pub(crate) end: End,
}

/// The server, and everybody who has a backup there.
pub(crate) struct World {
    server: Server,
    people: Vec<Person>,
    /// Asked by the server whose token it is.
    _homeserver: Homeserver,
}

struct Person {
    temper: Temper,
    devices: Vec<User>,
    /// The versions that any of the devices was told.
    known: Arc<Mutex<BTreeSet<u64>>>,
    /// What the backups may be now.
    states: HashSet<Model>,
    /// What it was when the server last stopped.
    journal: Vec<Line>,
}

impl World {
    pub(crate) async fn new(tempers: impl IntoIterator<Item = Temper>) -> Self {
        let homeserver = Homeserver::start().await;
        let server = Server::spawn(BINARY, &homeserver).await;
        let person = |(number, temper): (usize, Temper)| {
            let login = |_| homeserver.login(&format!("@{number}:{}", homeserver.server_name()));
            Person {
                temper,
                devices: (0..temper.devices).map(login).collect(),
                known: Arc::default(),
                states: HashSet::from([Model::default()]),
                journal: Vec::new(),
            }
        };
        let people = tempers.into_iter().enumerate().map(person).collect();
        Self { server, people, _homeserver: homeserver }
    }

    /// Every device asks many things, until the server is gone. Fails unless one order of what each
    /// person's devices asked explains every answer, and all that the server's file then says.
    pub(crate) async fn load(&mut self, rng: &mut Rng, load: Load) {
        let (answers, mut answered) = watch::channel(0);
        let answers = Arc::new(answers);
        let places = Arc::new(Semaphore::new(load.people_at_once));
        let mut asking = JoinSet::new();
        for (number, person) in self.people.iter().enumerate() {
            let mut devices = Vec::new();
            for user in &person.devices {
                let client = Client::new(&self.server, user, person, &answers).await;
                devices.push(client.ask_at_random(person.temper, rng.fork(), load.requests));
            }
            let places = Arc::clone(&places);
            asking.spawn(async move {
                let _place = places.acquire().await.expect("never closed");
                (number, JoinSet::from_iter(devices).join_all().await)
            });
        }
        drop(answers);
        let wanted = match load.end {
            End::Idle => usize::MAX,
            End::Terminated { answers } | End::Killed { answers, .. } => answers,
        };
        // Fails when everything is answered, which may be earlier.
        let _ = answered.wait_for(|count| *count >= wanted).await;
        match load.end {
            End::Idle | End::Terminated { .. } => {
                self.server.terminate();
                let status = self.server.wait().await;
                assert_eq!(status.code(), Some(0), "{}", self.server.output());
            }
            End::Killed { later, .. } => {
                thread::sleep(later);
                self.server.kill();
            }
        }
        self.check(asking, true).await;
    }

    /// Starts the server anew and kills it so long after that.
    pub(crate) fn kill_while_it_starts(&mut self, later: Duration) {
        self.server.start_and_kill(later);
    }

    /// Starts the server anew, and everybody looks at everything they have. Fails unless that is
    /// what it was.
    pub(crate) async fn look(&mut self) {
        self.server.start().await;
        let answers = Arc::new(watch::Sender::new(0));
        let mut asking = JoinSet::new();
        for (number, person) in self.people.iter().enumerate() {
            let mut client = Client::new(&self.server, &person.devices[0], person, &answers).await;
            let operations = everything(person.temper, &client.known());
            asking.spawn(async move {
                for operation in operations {
                    assert!(client.ask(operation).await, "the server hung up");
                }
                (number, vec![client.device])
            });
        }
        self.check(asking, false).await;
    }

    /// Fails unless there is one order of what each person asked.
    async fn check(&mut self, mut asking: JoinSet<(usize, Vec<Device>)>, is_stopped: bool) {
        let mut asked = vec![Vec::new(); self.people.len()];
        while let Some(person) = asking.join_next().await {
            let (number, devices) = person.expect("a client just ends");
            asked[number] = devices;
        }
        let mut journals = is_stopped.then(|| journals(&self.server.data()));
        for (person, devices) in self.people.iter_mut().zip(asked) {
            let user_id = &person.devices[0].user_id;
            if let Some(journals) = &mut journals {
                person.journal = journals.remove(user_id).unwrap_or_default();
                let versions = person.journal.iter().map(|line| line.version);
                person.known.lock().unwrap().extend(versions);
            }
            let states = mem::take(&mut person.states);
            person.states = explain(&states, &devices, Some(&person.journal))
                .unwrap_or_else(|why| panic!("{user_id}: {why}"));
        }
    }
}

/// A device on a connection, and what it has asked so far.
struct Client {
    wire: Wire,
    user: User,
    known: Arc<Mutex<BTreeSet<u64>>>,
    answers: Arc<watch::Sender<usize>>,
    device: Device,
}

impl Client {
    async fn new(
        server: &Server,
        user: &User,
        person: &Person,
        answers: &Arc<watch::Sender<usize>>,
    ) -> Self {
        let device_id = user.device_id.clone().expect("a device");
        Self {
            wire: Wire::open(server.address()).await,
            user: user.clone(),
            known: Arc::clone(&person.known),
            answers: Arc::clone(answers),
            device: Device { device_id, asked: Vec::new() },
        }
    }

    fn known(&self) -> BTreeSet<u64> {
        self.known.lock().unwrap().clone()
    }

    async fn ask_at_random(mut self, temper: Temper, mut rng: Rng, requests: usize) -> Device {
        for _ in 0..requests {
            let operation = temper.operation(&mut rng, &self.known());
            if !self.ask(operation).await {
                break;
            }
        }
        self.device
    }

    /// Asks, and says whether there was an answer.
    async fn ask(&mut self, operation: Operation) -> bool {
        let request = http::request(&operation, &self.user);
        let at = now();
        let reply = match self.wire.try_send(request).await {
            Ok(()) => self.wire.try_reply().await.ok(),
            Err(_) => None,
        };
        let answered_at = if reply.is_some() { now() } else { u64::MAX };
        let outcome = reply.map(|reply| http::outcome(&operation, &reply));
        let is_answered = outcome.is_some();
        if let Some(
            Outcome::Created { version }
            | Outcome::Backup { version, .. }
            | Outcome::WrongVersion { current: version },
        ) = outcome
        {
            self.known.lock().unwrap().insert(version);
        }
        self.device.asked.push(Asked { operation, outcome, at, answered_at });
        if is_answered {
            self.answers.send_modify(|count| *count += 1);
        }
        is_answered
    }
}
