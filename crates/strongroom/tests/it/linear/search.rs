//! Is there an order of the requests, one after the other, that explains all answers, and in which
//! none comes before one that had been answered before it was asked?
//!
//! The search of Wing and Gong (1993), with the memory of Lowe (2017): a spot in it is which requests
//! are done and the state that they led to, and none is looked at twice. Each device asks one thing
//! at a time, so "which" is a number per device.

use std::{collections::HashSet, fmt::Write as _};

use super::{
    history::{Asked, Device, Line},
    model::Model,
};

/// Far more than any history here has after so many requests.
const SPOTS_MAX: usize = 1_000_000;

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Spot {
    /// How many requests of each device are done.
    done: Vec<usize>,
    model: Model,
}

/// Every state in which one user's backups may be after `devices` have asked what they asked of one
/// process, which then ended, or why there is none.
///
/// `from` is how they may have been before; `journal`, where it is known, is what the user's journal
/// says at the end.
pub(crate) fn explain(
    from: &HashSet<Model>,
    devices: &[Device],
    journal: Option<&[Line]>,
) -> Result<HashSet<Model>, String> {
    let spot = |model: &Model| Spot { done: vec![0; devices.len()], model: model.clone() };
    let mut spots: HashSet<_> = from.iter().map(spot).collect();
    let (mut ends, mut last) = (HashSet::new(), HashSet::new());
    while !spots.is_empty() {
        assert!(spots.len() <= SPOTS_MAX, "too many requests at once to find their order");
        let mut further = HashSet::new();
        for spot in &spots {
            if spot.is_end(devices, journal) {
                ends.insert(spot.model.clone());
            }
            for (device, asked) in spot.next(devices) {
                let device_id = &devices[device].device_id;
                if let Ok(model) = spot.model.after(asked, device_id, journal) {
                    let mut done = spot.done.clone();
                    done[device] += 1;
                    further.insert(Spot { done, model });
                }
            }
        }
        last = std::mem::replace(&mut spots, further);
    }
    if ends.is_empty() { Err(report(&last, devices, journal)) } else { Ok(ends) }
}

impl Spot {
    /// Whether nothing is left that must have been done.
    fn is_end(&self, devices: &[Device], journal: Option<&[Line]>) -> bool {
        let mut left = self.left(devices);
        left.all(|(_, asked)| asked.outcome.is_none())
            && journal.is_none_or(|journal| journal.len() == self.model.lines())
    }

    /// The requests that may have been done next: those asked before any other was answered.
    fn next<'a>(&self, devices: &'a [Device]) -> impl Iterator<Item = (usize, &'a Asked)> {
        let answered_at = self.left(devices).map(|(_, asked)| asked.answered_at).min();
        let is_next = move |asked: &Asked| answered_at.is_none_or(|at| asked.at < at);
        self.left(devices).filter(move |(_, asked)| is_next(asked))
    }

    /// The first request of each device that is not done.
    fn left<'a>(&self, devices: &'a [Device]) -> impl Iterator<Item = (usize, &'a Asked)> {
        let numbered = devices.iter().enumerate().zip(self.done.clone());
        numbered.filter_map(|((number, device), done)| Some((number, device.asked.get(done)?)))
    }
}

/// How far the search came, and what held it up there.
fn report(spots: &HashSet<Spot>, devices: &[Device], journal: Option<&[Line]>) -> String {
    /// So much is of use.
    const SHOWN_MAX: usize = 3;
    let mut text = format!("no order explains the answers; {} came farthest", spots.len());
    for spot in spots.iter().take(SHOWN_MAX) {
        let Spot { done, model } = spot;
        let _ = write!(text, "\n\nafter {done:?} requests of the devices, in {model:?}:");
        for (device, done) in devices.iter().zip(done) {
            for asked in &device.asked[done.saturating_sub(SHOWN_MAX)..*done] {
                let _ = write!(text, "\n  {} did    {asked:?}", device.device_id);
            }
        }
        for (device, asked) in spot.next(devices) {
            let device_id = &devices[device].device_id;
            let why = match model.after(asked, device_id, journal) {
                Ok(_) => "it can, and does not help",
                Err(why) => why,
            };
            let _ = write!(text, "\n  {device_id} cannot do {asked:?}: {why}");
        }
        if let Some(journal) = journal {
            let lines = &journal[model.lines().saturating_sub(SHOWN_MAX).min(journal.len())..];
            let shown = lines.get(..2 * SHOWN_MAX).unwrap_or(lines);
            let _ = write!(
                text,
                "\n  the journal is at {} of {}: {shown:?}",
                model.lines(),
                journal.len()
            );
        }
    }
    text
}
