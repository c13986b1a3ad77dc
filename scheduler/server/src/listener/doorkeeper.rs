//! Who may come in: so many connections and handshakes in all, and a part of them from one address.
//!
//! Must not know: what is said on a connection.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bounds::Limits;
use crate::origin::Origin;

/// How often it is told that connections were turned away.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Gives out seats and takes them back.
pub struct Doorkeeper {
    limits: Limits,
    room: Mutex<Room>,
    handshakes: Arc<Semaphore>,
}

/// The limit of connections that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    All,
    Origin,
}

/// A connection's right to be there, given back on drop.
pub struct Seat {
    doorkeeper: Arc<Doorkeeper>,
    origin: Origin,
    /// The handshakes of its address.
    handshakes: Arc<Semaphore>,
}

/// The right to make a handshake: of the address, and of all.
pub struct Turn {
    _of_origin: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Doorkeeper {
    pub fn new(limits: Limits) -> Arc<Self> {
        let handshakes = Arc::new(Semaphore::new(limits.handshakes));
        Arc::new(Self { limits, room: Mutex::default(), handshakes })
    }

    /// Lets a connection in.
    ///
    /// # Errors
    /// There are as many as there may be.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Seat, Full> {
        let origin = Origin::from(address);
        let handshakes = self.room().enter(origin, &self.limits)?;
        Ok(Seat { doorkeeper: Arc::clone(self), origin, handshakes })
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Waits for the turn to make the handshake. Those of one address wait for each other first, so that it takes a
    /// few of all turns alone.
    pub async fn turn(&self) -> Option<Turn> {
        // Only closing the semaphores fails, which nobody does.
        let of_origin = Arc::clone(&self.handshakes).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.doorkeeper.handshakes).acquire_owned().await.ok()?;
        Some(Turn { _of_origin: of_origin, _of_all: of_all })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.doorkeeper.room().leave(self.origin);
    }
}

/// The connections that are open, by the address that they come from.
#[derive(Default)]
struct Room {
    seats: usize,
    /// Those with a connection alone, so that it is as bounded as they are.
    origins: HashMap<Origin, Visitors>,
}

struct Visitors {
    seats: usize,
    handshakes: Arc<Semaphore>,
}

impl Room {
    fn enter(&mut self, origin: Origin, limits: &Limits) -> Result<Arc<Semaphore>, Full> {
        if self.seats >= limits.connections {
            return Err(Full::All);
        }
        let visitors = self.origins.entry(origin).or_insert_with(|| Visitors {
            seats: 0,
            handshakes: Arc::new(Semaphore::new(limits.handshakes_by_origin)),
        });
        if visitors.seats >= limits.connections_by_origin {
            return Err(Full::Origin);
        }
        visitors.seats += 1;
        self.seats += 1;
        Ok(Arc::clone(&visitors.handshakes))
    }

    fn leave(&mut self, origin: Origin) {
        let Entry::Occupied(mut visitors) = self.origins.entry(origin) else { return };
        self.seats -= 1;
        visitors.get_mut().seats -= 1;
        if visitors.get().seats == 0 {
            visitors.remove();
        }
    }
}

/// Connections that were turned away, told of once a minute.
#[derive(Default)]
pub struct TurnedAway {
    told: Option<Instant>,
    count: u64,
}

impl TurnedAway {
    /// One more. Gives how many there were since it was last told of, where it is to be told of now.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|told| now < told + TELL_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    const LIMITS: Limits =
        Limits { connections: 5, connections_by_origin: 3, handshakes: 4, handshakes_by_origin: 2 };
    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn one_address_takes_its_part_and_all_together_what_there_is() {
        let doorkeeper = Doorkeeper::new(LIMITS);
        let of_one: Vec<_> = (0..3).map(|_| doorkeeper.enter(ONE).unwrap()).collect();
        assert_eq!(doorkeeper.enter(ONE).err(), Some(Full::Origin));
        let of_other: Vec<_> = (0..2).map(|_| doorkeeper.enter(OTHER).unwrap()).collect();
        assert_eq!(doorkeeper.enter(OTHER).err(), Some(Full::All));
        drop(of_one);
        assert!(doorkeeper.enter(OTHER).is_ok());
        drop(of_other);
        let room = doorkeeper.room();
        assert_eq!((room.seats, room.origins.len()), (0, 0));
    }

    #[tokio::test]
    async fn an_address_whose_handshakes_never_end_holds_up_itself_alone() {
        let doorkeeper = Doorkeeper::new(LIMITS);
        let seats: Vec<_> = (0..3).map(|_| doorkeeper.enter(ONE).unwrap()).collect();
        let (first, second) = (seats[0].turn().await.unwrap(), seats[1].turn().await.unwrap());
        let mut waiting = pin!(seats[2].turn());
        let poll = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll.is_pending());
        let other = doorkeeper.enter(OTHER).unwrap();
        assert!(other.turn().await.is_some());
        drop((first, second));
        assert!(waiting.await.is_some());
    }

    #[test]
    fn connections_that_are_turned_away_are_told_of_once_a_minute() {
        let (mut turned_away, start) = (TurnedAway::default(), Instant::now());
        assert_eq!(turned_away.count(start), Some(1));
        for _ in 0..41 {
            assert_eq!(turned_away.count(start + TELL_EVERY / 2), None);
        }
        assert_eq!(turned_away.count(start + TELL_EVERY), Some(42));
    }
}
