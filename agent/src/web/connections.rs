//! Decides which connections a listener holds and which one is closed for a new one. Pure.

use std::net::IpAddr;
use std::time::Duration;

/// What the clients of a listener may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Connections of all clients together.
    pub total: usize,
    /// Connections of one client.
    pub per_client: usize,
    /// Time limit from a connection to its complete request head.
    pub head: Duration,
    /// Time limit from a connection to its end; none if responses are endless, like events.
    pub whole: Option<Duration>,
    /// Whether a connection that is being answered may be closed for a newer one, too.
    pub answered_give_way: bool,
}

/// One connection, as seen by its task and its listener.
pub(super) trait Connection {
    /// Reports whether it ended by itself.
    fn has_ended(&self) -> bool;
    /// Reports whether its request has been received.
    fn is_answered(&self) -> bool;
    /// Closes it.
    fn close(&self);
}

/// The connections of one listener, oldest first.
pub(super) struct Connections<C> {
    bounds: Bounds,
    held: Vec<(IpAddr, C)>,
}

/// The result of making room for a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Vacancy {
    /// There was room.
    Free,
    /// An older connection has been closed.
    Made,
    /// There is no room: the new connection must be closed.
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
    /// A client at its limit loses one of its own. If the total limit is reached, the client that
    /// holds most loses one, so that nobody's first connection is closed for another's second. Of
    /// several, one that waits for its request is closed before one that is being answered, and the
    /// oldest first: a scrape, which takes milliseconds, gets through while others open connection
    /// after connection.
    pub(super) fn make_room(&mut self, client: IpAddr) -> Vacancy {
        self.held.retain(|(_, one)| !one.has_ended());
        let share = self.share(client);
        let giving = if share >= self.bounds.per_client {
            self.giving(|held| held == client)
        } else if self.held.len() >= self.bounds.total {
            let clients = self.held.iter().map(|(held, _)| self.share(*held));
            let most = clients.max().unwrap_or_default();
            self.giving(|held| self.share(held) == most)
        } else {
            return Vacancy::Free;
        };
        let Some(place) = giving else {
            return Vacancy::Taken;
        };
        let (_, one) = self.held.remove(place);
        one.close();
        Vacancy::Made
    }

    pub(super) fn add(&mut self, client: IpAddr, one: C) {
        self.held.push((client, one));
    }

    fn share(&self, client: IpAddr) -> usize {
        self.held.iter().filter(|(held, _)| *held == client).count()
    }

    /// Returns the index of the connection to be closed first among those of some clients.
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

    fn open(connections: &mut Connections<Fake>, number: u8, vacancy: Vacancy) -> Fake {
        assert_eq!(connections.make_room(client(number)), vacancy);
        let fake = Fake::default();
        connections.add(client(number), fake.clone());
        fake
    }

    #[test]
    fn a_client_with_its_share_gives_up_its_own_oldest() {
        let mut all = connections(true);
        let other = open(&mut all, 2, Vacancy::Free);
        let first = open(&mut all, 1, Vacancy::Free);
        let second = open(&mut all, 1, Vacancy::Free);
        let _third = open(&mut all, 1, Vacancy::Free);
        open(&mut all, 1, Vacancy::Made);
        assert!(first.is(CLOSED) && !second.is(CLOSED) && !other.is(CLOSED));
        second.0[ENDED].set(true);
        open(&mut all, 1, Vacancy::Free);
    }

    #[test]
    fn where_all_is_taken_whoever_holds_most_gives_way_to_a_first_one() {
        let mut all = connections(true);
        let scraper = open(&mut all, 2, Vacancy::Free);
        let flood = [(); 3].map(|()| open(&mut all, 1, Vacancy::Free));
        open(&mut all, 3, Vacancy::Made);
        assert!(flood[0].is(CLOSED) && !scraper.is(CLOSED));
        open(&mut all, 4, Vacancy::Made);
        assert!(flood[1].is(CLOSED) && !scraper.is(CLOSED));
    }

    #[test]
    fn of_equals_one_that_waits_for_its_request_goes_before_one_that_is_answered() {
        let mut all = connections(true);
        let scrape = open(&mut all, 1, Vacancy::Free);
        scrape.0[ANSWERED].set(true);
        let idle = [2, 3, 4].map(|number| open(&mut all, number, Vacancy::Free));
        for (number, idle) in (5..).zip(&idle) {
            open(&mut all, number, Vacancy::Made).0[ANSWERED].set(true);
            assert!(idle.is(CLOSED) && !scrape.is(CLOSED));
        }
        open(&mut all, 8, Vacancy::Made);
        assert!(scrape.is(CLOSED), "all are answered, and it is the oldest");
    }

    #[test]
    fn an_answer_that_may_go_on_is_kept_and_the_newcomer_closed() {
        let mut all = connections(false);
        for number in 1..=4 {
            open(&mut all, number, Vacancy::Free).0[ANSWERED].set(true);
        }
        assert_eq!(all.make_room(client(5)), Vacancy::Taken);
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
