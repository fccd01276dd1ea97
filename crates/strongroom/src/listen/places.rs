//! The places for connections: who has one, who is idle, and who makes place for whom.
//!
//! When all places are taken, who comes next gets that of the connection that has been idle for the
//! longest, since it comes with something to ask. Of the places that one address may have, likewise.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use strongroom_server::ClientAddress;
use tokio::sync::Notify;

use super::metrics::ConnectionMetrics;

/// All places. One task gives them away.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    per_address_max: usize,
    table: Mutex<Table>,
    /// A connection has left or become idle, or does not leave after all.
    changed: Notify,
    metrics: ConnectionMetrics,
}

#[derive(Debug, Default)]
struct Table {
    taken: usize,
    /// Connections without a request in flight, in the turn in which they became so.
    idle: BTreeMap<u64, Idle>,
    by_address: HashMap<ClientAddress, OfAddress>,
    turn: u64,
    /// One was told to leave and has not yet done so.
    is_awaited: bool,
}

#[derive(Debug)]
struct Idle {
    address: Option<ClientAddress>,
    leave: Arc<Notify>,
}

#[derive(Debug, Default)]
struct OfAddress {
    taken: usize,
    idle: BTreeSet<u64>,
}

/// Why there is no place.
enum NoPlace {
    Yet,
    ForThisAddress,
}

impl Places {
    pub(super) fn new(max: usize, per_address_max: usize, metrics: ConnectionMetrics) -> Arc<Self> {
        let (table, changed) = (Mutex::default(), Notify::new());
        Arc::new(Self { max, per_address_max, table, changed, metrics })
    }

    pub(super) fn metrics(&self) -> &ConnectionMetrics {
        &self.metrics
    }

    /// Waits for a place; none if this address has its share, all in use.
    pub(super) async fn take(
        self: &Arc<Self>,
        address: Option<ClientAddress>,
    ) -> Option<Arc<Place>> {
        loop {
            match self.try_take(address) {
                Ok(place) => return Some(place),
                Err(NoPlace::ForThisAddress) => return None,
                Err(NoPlace::Yet) => self.changed.notified().await,
            }
        }
    }

    fn try_take(self: &Arc<Self>, address: Option<ClientAddress>) -> Result<Arc<Place>, NoPlace> {
        let mut table = self.lock();
        let of_address = address.and_then(|address| table.by_address.get(&address));
        let is_share_taken = of_address.is_some_and(|of| of.taken >= self.per_address_max);
        if is_share_taken || table.taken >= self.max {
            if table.is_awaited {
                return Err(NoPlace::Yet);
            }
            let turn = match of_address.filter(|_| is_share_taken) {
                Some(of) => of.idle.first().copied(),
                None => table.idle.first_key_value().map(|(turn, _)| *turn),
            };
            return match turn.and_then(|turn| table.remove_idle(turn)) {
                Some(idle) => {
                    table.is_awaited = true;
                    idle.leave.notify_one();
                    Err(NoPlace::Yet)
                }
                None if is_share_taken => Err(NoPlace::ForThisAddress),
                None => Err(NoPlace::Yet),
            };
        }
        table.taken += 1;
        self.metrics.open.inc();
        if let Some(address) = address {
            table.by_address.entry(address).or_default().taken += 1;
        }
        let leave = Arc::<Notify>::default();
        let turn = table.insert_idle(Idle { address, leave: Arc::clone(&leave) });
        Ok(Arc::new(Place {
            places: Arc::clone(self),
            address,
            leave,
            in_flight: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            idle_turn: AtomicU64::new(turn),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert_idle(&mut self, idle: Idle) -> u64 {
        self.turn += 1;
        if let Some(of) = idle.address.and_then(|address| self.by_address.get_mut(&address)) {
            of.idle.insert(self.turn);
        }
        self.idle.insert(self.turn, idle);
        self.turn
    }

    fn remove_idle(&mut self, turn: u64) -> Option<Idle> {
        let idle = self.idle.remove(&turn)?;
        if let Some(of) = idle.address.and_then(|address| self.by_address.get_mut(&address)) {
            of.idle.remove(&turn);
        }
        Some(idle)
    }

    /// The one that became idle in this turn is so no more; whether it had been told to leave.
    fn end_idle(&mut self, turn: u64) -> bool {
        let was_told = self.remove_idle(turn).is_none();
        self.is_awaited &= !was_told;
        was_told
    }
}

/// The place of one connection, until all of this are dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: Option<ClientAddress>,
    leave: Arc<Notify>,
    // Changed under the lock of the table only.
    in_flight: AtomicUsize,
    requests: AtomicU64,
    /// 0 while a request is in flight.
    idle_turn: AtomicU64,
}

impl Place {
    /// A request is in flight until what this returns is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        let mut table = self.places.lock();
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let turn = self.idle_turn.swap(0, Ordering::Relaxed);
        if turn != 0 && table.end_idle(turn) {
            self.places.changed.notify_one();
        }
        InFlight(Arc::clone(self))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
    }

    /// How many requests have begun.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn metrics(&self) -> &ConnectionMetrics {
        self.places.metrics()
    }

    /// Waits until another connection needs the place.
    pub(super) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.lock();
        table.taken -= 1;
        self.places.metrics.open.dec();
        let turn = self.idle_turn.load(Ordering::Relaxed);
        if turn != 0 {
            table.end_idle(turn);
        }
        if let Some(Entry::Occupied(mut of)) = self.address.map(|it| table.by_address.entry(it)) {
            of.get_mut().taken -= 1;
            if of.get().taken == 0 {
                of.remove();
            }
        }
        self.places.changed.notify_one();
    }
}

/// A request, until its answer has been handed over to the connection.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Place>);

impl Drop for InFlight {
    fn drop(&mut self) {
        let Self(place) = self;
        let mut table = place.places.lock();
        if place.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            let idle = Idle { address: place.address, leave: Arc::clone(&place.leave) };
            place.idle_turn.store(table.insert_idle(idle), Ordering::Relaxed);
            place.places.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn address(number: u8) -> ClientAddress {
        IpAddr::from(Ipv4Addr::new(203, 0, 113, number)).into()
    }

    /// Asks for a place as often as the ones that are told to leave do so.
    fn take(places: &Arc<Places>, of: Option<ClientAddress>, held: &mut Vec<Held>) -> Took {
        loop {
            match places.try_take(of) {
                Ok(place) => return Took::Place(place),
                Err(NoPlace::ForThisAddress) => return Took::Refused,
                Err(NoPlace::Yet) => {}
            }
            let is_told = |held: &Held| {
                let told = pin!(held.place.told_to_leave());
                told.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
            };
            match held.iter().position(is_told) {
                Some(leaves) => drop(held.remove(leaves)),
                None => return Took::Waits,
            }
        }
    }

    enum Took {
        Place(Arc<Place>),
        Refused,
        Waits,
    }

    struct Held {
        number: u32,
        address: Option<ClientAddress>,
        place: Arc<Place>,
        in_flight: Option<InFlight>,
    }

    const MAX: usize = 5;
    const PER_ADDRESS_MAX: usize = 2;

    #[derive(Clone, Debug)]
    enum Step {
        Come(Option<u8>),
        Ask(prop::sample::Index),
        Answer(prop::sample::Index),
        Leave(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => prop::option::of(0..3_u8).prop_map(Step::Come),
            2 => any::<prop::sample::Index>().prop_map(Step::Ask),
            2 => any::<prop::sample::Index>().prop_map(Step::Answer),
            1 => any::<prop::sample::Index>().prop_map(Step::Leave),
        ]
    }

    /// Number, address and whether it is idle, in the order in which they became what they are.
    type Model = Vec<(u32, Option<ClientAddress>, bool)>;

    /// The sentence at the head of this file. `None` if the new one waits or is refused.
    fn comes(model: &mut Model, number: u32, of: Option<ClientAddress>) -> bool {
        let mine = |address: Option<ClientAddress>| of.is_some() && address == of;
        let has_share = model.iter().filter(|it| mine(it.1)).count() == PER_ADDRESS_MAX;
        if has_share || model.len() == MAX {
            let leaves = model.iter().position(|it| it.2 && (!has_share || mine(it.1)));
            let Some(leaves) = leaves else { return false };
            model.remove(leaves);
        }
        model.push((number, of, true));
        true
    }

    proptest! {
        #[test]
        fn places_are_given_as_the_model_gives_them(steps in vec(step(), 0..100)) {
            let places = Places::new(MAX, PER_ADDRESS_MAX, ConnectionMetrics::default());
            let (mut held, mut model): (Vec<Held>, Model) = (Vec::new(), Vec::new());
            for (number, step) in (0..).zip(steps) {
                let chosen = |index: prop::sample::Index, held: &[Held]| {
                    (!held.is_empty()).then(|| index.index(held.len()))
                };
                match step {
                    Step::Come(of) => {
                        let of = of.map(address);
                        let took = take(&places, of, &mut held);
                        let is_in = comes(&mut model, number, of);
                        if let Took::Place(place) = took {
                            prop_assert!(is_in);
                            held.push(Held { number, address: of, place, in_flight: None });
                        } else {
                            prop_assert!(!is_in);
                            let mine = held.iter().filter(|it| of.is_some() && it.address == of);
                            let has_share = mine.count() == PER_ADDRESS_MAX;
                            prop_assert_eq!(matches!(took, Took::Refused), has_share);
                        }
                    }
                    Step::Ask(index) | Step::Answer(index) => {
                        let Some(chosen) = chosen(index, &held) else { continue };
                        let is_asked = matches!(step, Step::Ask(_));
                        let it = &mut held[chosen];
                        if it.in_flight.is_some() != is_asked {
                            it.in_flight = is_asked.then(|| it.place.begin());
                            model.retain(|modelled| modelled.0 != it.number);
                            model.push((it.number, it.address, !is_asked));
                        }
                        prop_assert_eq!(it.place.is_idle(), it.in_flight.is_none());
                    }
                    Step::Leave(index) => {
                        let Some(chosen) = chosen(index, &held) else { continue };
                        let left = held.remove(chosen);
                        model.retain(|modelled| modelled.0 != left.number);
                    }
                }
                let mut numbers: Vec<_> = model.iter().map(|it| it.0).collect();
                numbers.sort_unstable();
                let mut in_fact: Vec<_> = held.iter().map(|it| it.number).collect();
                in_fact.sort_unstable();
                prop_assert_eq!(in_fact, numbers);
                prop_assert_eq!(places.lock().taken, model.len());
            }
            drop(held);
            let table = places.lock();
            prop_assert!(table.by_address.is_empty() && table.idle.is_empty());
            prop_assert!(!table.is_awaited);
        }
    }

    #[test]
    fn who_is_told_to_leave_and_has_just_begun_stays_and_another_leaves() {
        let places = Places::new(2, 2, ConnectionMetrics::default());
        let [first, second] = [0, 1].map(|_| places.try_take(None).ok().unwrap());
        assert!(matches!(places.try_take(None), Err(NoPlace::Yet)), "the first is told to leave");
        let in_flight = first.begin();
        assert!(matches!(places.try_take(None), Err(NoPlace::Yet)), "the second is told to leave");
        drop(second);
        let third = places.try_take(None).ok().unwrap();
        let busy = third.begin();
        assert!(matches!(places.try_take(None), Err(NoPlace::Yet)), "nobody is told to leave");
        drop(in_flight);
        assert!(matches!(places.try_take(None), Err(NoPlace::Yet)), "the first is told again");
        drop(first);
        assert!(places.try_take(None).is_ok());
        drop((third, busy));
    }
}
