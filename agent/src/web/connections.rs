//! Which connections a listener holds, and which one gives way: pure.

use std::net::IpAddr;
use std::time::Duration;

/// What the clients of a listener may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Connections of all clients together.
    pub total: usize,
    /// Connections of one client.
    pub per_client: usize,
    /// From a connection to its whole request head.
    pub head: Duration,
    /// From a connection to its end; none where answers go on, as events do.
    pub whole: Option<Duration>,
    /// Whether one that is being answered gives way to a newer one as well.
    pub answered_give_way: bool,
}

/// One connection, as its task and its listener know it.
pub(super) trait Connection {
    /// It ended by itself.
    fn has_ended(&self) -> bool;
    /// Its request is there.
    fn is_answered(&self) -> bool;
    /// Closes it.
    fn close(&self);
}

/// The connections of one listener, oldest first.
pub(super) struct Connections<C> {
    bounds: Bounds,
    held: Vec<(IpAddr, C)>,
}

/// What a new connection finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// There was room.
    Free,
    /// An older one has been closed for it.
    Made,
    /// None: it is to be closed itself.
    Taken,
}

impl<C: Connection> Connections<C> {
    pub(super) const fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            held: Vec::new(),
        }
    }

    /// Makes room for one more connection of a client.
    ///
    /// A client that holds its share gives up one of its own. Where all is taken,
    /// the client that holds most does, so that nobody's first connection gives
    /// way to another's second. Of several, one that waits for its request goes
    /// before one that is being answered, and the oldest first: a scrape, which
    /// takes milliseconds, gets through while others open one after the other.
    pub(super) fn make_room(&mut self, client: IpAddr) -> Room {
        self.held.retain(|(_, one)| !one.has_ended());
        let share = self.share(client);
        let giving = if share >= self.bounds.per_client {
            self.giving(|held| held == client)
        } else if self.held.len() >= self.bounds.total {
            let clients = self.held.iter().map(|(held, _)| self.share(*held));
            let most = clients.max().unwrap_or_default();
            self.giving(|held| self.share(held) == most)
        } else {
            return Room::Free;
        };
        let Some(place) = giving else {
            return Room::Taken;
        };
        let (_, one) = self.held.remove(place);
        one.close();
        Room::Made
    }

    pub(super) fn add(&mut self, client: IpAddr, one: C) {
        self.held.push((client, one));
    }

    fn share(&self, client: IpAddr) -> usize {
        self.held.iter().filter(|(held, _)| *held == client).count()
    }

    /// The place of the one that gives way first among those of some clients.
    fn giving(&self, is_meant: impl Fn(IpAddr) -> bool) -> Option<usize> {
        let held = self.held.iter().enumerate();
        let meant = held.filter(|(_, (client, _))| is_meant(*client));
        let meant = meant.map(|(place, (_, one))| (one.is_answered(), place));
        let first = meant.min()?;
        (self.bounds.answered_give_way || !first.0).then_some(first.1)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[derive(Clone, Default)]
    struct Fake(Rc<[Cell<bool>; 3]>);

    const ENDED: usize = 0;
    const ANSWERED: usize = 1;
    const CLOSED: usize = 2;

    impl Fake {
        fn is(&self, what: usize) -> bool {
            self.0[what].get()
        }
    }

    impl Connection for Fake {
        fn has_ended(&self) -> bool {
            self.is(ENDED)
        }

        fn is_answered(&self) -> bool {
            self.is(ANSWERED)
        }

        fn close(&self) {
            self.0[CLOSED].set(true);
        }
    }

    fn connections(answered_give_way: bool) -> Connections<Fake> {
        Connections::new(Bounds {
            total: 4,
            per_client: 3,
            head: Duration::ZERO,
            whole: None,
            answered_give_way,
        })
    }

    const fn client(number: u8) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, number))
    }

    fn open(connections: &mut Connections<Fake>, number: u8, room: Room) -> Fake {
        assert_eq!(connections.make_room(client(number)), room);
        let fake = Fake::default();
        connections.add(client(number), fake.clone());
        fake
    }

    #[test]
    fn a_client_with_its_share_gives_up_its_own_oldest() {
        let mut all = connections(true);
        let other = open(&mut all, 2, Room::Free);
        let first = open(&mut all, 1, Room::Free);
        let second = open(&mut all, 1, Room::Free);
        let _third = open(&mut all, 1, Room::Free);
        open(&mut all, 1, Room::Made);
        assert!(first.is(CLOSED) && !second.is(CLOSED) && !other.is(CLOSED));
        second.0[ENDED].set(true);
        open(&mut all, 1, Room::Free);
    }

    #[test]
    fn where_all_is_taken_whoever_holds_most_gives_way_to_a_first_one() {
        let mut all = connections(true);
        let scraper = open(&mut all, 2, Room::Free);
        let flood = [(); 3].map(|()| open(&mut all, 1, Room::Free));
        open(&mut all, 3, Room::Made);
        assert!(flood[0].is(CLOSED) && !scraper.is(CLOSED));
        open(&mut all, 4, Room::Made);
        assert!(flood[1].is(CLOSED) && !scraper.is(CLOSED));
    }

    #[test]
    fn of_equals_one_that_waits_for_its_request_goes_before_one_that_is_answered() {
        let mut all = connections(true);
        let scrape = open(&mut all, 1, Room::Free);
        scrape.0[ANSWERED].set(true);
        let idle = [2, 3, 4].map(|number| open(&mut all, number, Room::Free));
        for (number, idle) in (5..).zip(&idle) {
            open(&mut all, number, Room::Made).0[ANSWERED].set(true);
            assert!(idle.is(CLOSED) && !scrape.is(CLOSED));
        }
        open(&mut all, 8, Room::Made);
        assert!(scrape.is(CLOSED), "all are answered, and it is the oldest");
    }

    #[test]
    fn an_answer_that_may_go_on_is_kept_and_the_newcomer_closed() {
        let mut all = connections(false);
        for number in 1..=4 {
            open(&mut all, number, Room::Free).0[ANSWERED].set(true);
        }
        assert_eq!(all.make_room(client(5)), Room::Taken);
    }

    #[test]
    fn no_more_than_the_total_are_held_whoever_comes() {
        let mut all = connections(true);
        for number in 0..200 {
            all.make_room(client(number / 7));
            all.add(client(number / 7), Fake::default());
            assert!(all.held.len() <= 4);
        }
    }
}
