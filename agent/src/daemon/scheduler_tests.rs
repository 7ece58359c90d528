use super::*;

const FINE: Pass = Pass {
    unsettled: false,
    waits: false,
    retry: false,
};
const FAILED: Pass = Pass {
    retry: true,
    ..FINE
};
const UNSETTLED: Pass = Pass {
    unsettled: true,
    ..FINE
};

/// A pass of everything that no event triggered, and one of what the API server sent.
const PERIODIC: Step = pass(None, Look::All);
const SOURCE: Step = pass(None, Look::Source);

const fn pass(since: Option<Instant>, look: Look) -> Step {
    Step::Pass(Order {
        since,
        look,
        recorded: false,
    })
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A scheduler, and a clock that tests move.
struct Loop {
    scheduler: Scheduler,
    now: Instant,
}

impl Loop {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            scheduler: Scheduler::new(now),
            now,
        }
    }

    /// A second after the first pass, which took no time. The next one is due in 4 s.
    fn calm() -> Self {
        let mut looped = Self::new();
        assert_eq!(looped.after(0), PERIODIC);
        looped.ended(FINE);
        assert_eq!(looped.after(1000), looped.wait(4000));
        looped
    }

    /// Moves the clock by so many milliseconds.
    fn after(&mut self, millis: u64) -> Step {
        self.now += ms(millis);
        self.scheduler.due(self.now)
    }

    fn hear(&mut self, event: Event) -> Step {
        self.scheduler.hear(event, self.now)
    }

    fn ended(&mut self, pass: Pass) -> Step {
        self.scheduler.ended(pass, self.now)
    }

    fn wait(&self, millis: u64) -> Step {
        Step::Wait(self.now + ms(millis))
    }

    /// A pass of everything whose first event arrived so many milliseconds ago.
    fn since(&self, millis: u64) -> Step {
        pass(Some(self.now - ms(millis)), Look::All)
    }
}

#[test]
fn the_first_pass_is_due_at_once_and_without_events_each_later_one_after_a_period() {
    let mut looped = Loop::new();
    assert_eq!(looped.after(0), PERIODIC);
    for _ in 0..3 {
        assert_eq!(looped.ended(FINE), looped.wait(5000));
        assert_eq!(looped.after(4999), looped.wait(1));
        assert_eq!(looped.after(1), PERIODIC);
    }
}

#[test]
fn a_failed_pass_is_retried_after_waits_that_double_up_to_the_period() {
    let mut looped = Loop::new();
    assert_eq!(looped.after(0), PERIODIC);
    for wait in [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000] {
        assert_eq!(looped.ended(FAILED), looped.wait(wait));
        assert_eq!(looped.after(wait), PERIODIC);
    }
}

#[test]
fn after_a_calm_time_the_first_retry_comes_soon() {
    let mut looped = Loop::new();
    looped.after(0);
    for _ in 0..10 {
        looped.ended(FINE);
        looped.after(5_000);
    }
    assert_eq!(looped.ended(FAILED), looped.wait(50));
}

#[test]
fn after_an_event_retries_begin_anew() {
    for (event, delay) in [
        (Event::Changed, 50),
        (Event::Device, 50),
        (Event::Recorded, 2),
    ] {
        let mut looped = Loop::new();
        looped.after(0);
        for wait in [50, 100, 200] {
            looped.ended(FAILED);
            looped.after(wait);
        }
        looped.ended(FAILED);
        assert_eq!(looped.hear(event), looped.wait(delay));
        looped.after(delay);
        assert_eq!(looped.ended(FAILED), looped.wait(50), "{event:?}");
    }
}

#[test]
fn a_manifest_that_was_too_new_is_read_again_soon_however_often() {
    let mut looped = Loop::new();
    looped.after(0);
    for _ in 0..9 {
        assert_eq!(looped.ended(UNSETTLED), looped.wait(50));
        assert_eq!(looped.after(50), PERIODIC);
    }
}

#[test]
fn a_change_waits_for_related_ones_until_none_comes() {
    let mut looped = Loop::calm();
    assert_eq!(looped.hear(Event::Changed), looped.wait(50));
    assert_eq!(looped.after(30), looped.wait(20));
    assert_eq!(looped.hear(Event::Changed), looped.wait(50));
    assert_eq!(looped.after(49), looped.wait(1));
    assert_eq!(looped.after(1), looped.since(80));
}

#[test]
fn a_stream_of_changes_puts_a_pass_off_for_half_a_second_at_most() {
    let mut looped = Loop::calm();
    looped.hear(Event::Changed);
    for _ in 0..12 {
        looped.after(40);
        looped.hear(Event::Changed);
    }
    assert_eq!(looped.hear(Event::Changed), looped.wait(20));
    assert_eq!(looped.after(20), looped.since(500));
}

#[test]
fn a_new_device_is_handled_at_once_except_soon_after_a_pass() {
    let mut looped = Loop::calm();
    assert_eq!(looped.hear(Event::Device), looped.since(0));
    looped.ended(FINE);
    looped.after(499);
    assert_eq!(looped.hear(Event::Device), looped.wait(50));
    assert_eq!(looped.after(50), looped.since(50));
    looped.ended(FINE);
    looped.after(500);
    assert_eq!(looped.hear(Event::Device), looped.since(0));
}

#[test]
fn a_record_gets_the_time_to_be_written() {
    let mut looped = Loop::calm();
    assert_eq!(looped.hear(Event::Recorded), looped.wait(2));
    let order = Order {
        since: Some(looped.now),
        look: Look::All,
        recorded: true,
    };
    assert_eq!(looped.after(2), Step::Pass(order));
}

#[test]
fn a_record_ends_the_wait_for_related_changes() {
    let mut looped = Loop::calm();
    looped.hear(Event::Changed);
    looped.after(10);
    let since = Some(looped.now - ms(10));
    assert_eq!(looped.hear(Event::Recorded), looped.wait(2));
    let order = Order {
        since,
        look: Look::All,
        recorded: true,
    };
    assert_eq!(looped.after(2), Step::Pass(order));
}

#[test]
fn what_the_api_server_sends_is_handled_at_once_and_alone() {
    let mut looped = Loop::calm();
    assert_eq!(looped.hear(Event::Source), SOURCE);
    assert_eq!(looped.ended(FINE), looped.wait(4000), "as before");
}

#[test]
fn what_the_api_server_sends_ends_the_wait_for_related_changes() {
    let mut looped = Loop::calm();
    looped.hear(Event::Changed);
    looped.after(10);
    assert_eq!(looped.hear(Event::Source), looped.since(10));
}

#[test]
fn a_stream_from_the_api_server_does_not_put_off_the_look_at_everything() {
    let mut looped = Loop::calm();
    for _ in 0..39 {
        looped.after(100);
        assert_eq!(looped.hear(Event::Source), SOURCE);
        looped.ended(FINE);
    }
    looped.now += ms(100);
    assert_eq!(looped.hear(Event::Source), PERIODIC);
}

#[test]
fn a_failed_pass_of_what_the_api_server_sent_is_retried_without_lengthening_the_wait() {
    let mut looped = Loop::calm();
    looped.hear(Event::Changed);
    looped.after(50);
    looped.ended(FINE);
    for _ in 0..3 {
        assert_eq!(looped.hear(Event::Source), SOURCE);
        assert_eq!(looped.ended(FAILED), looped.wait(50));
    }
    assert_eq!(looped.after(50), PERIODIC);
}

#[test]
fn an_event_of_another_kind_gets_a_pass_of_its_own() {
    let mut looped = Loop::calm();
    looped.hear(Event::Changed);
    looped.after(30);
    assert_eq!(looped.hear(Event::Device), looped.wait(20));
    assert_eq!(looped.after(20), looped.since(50));
    assert_eq!(looped.ended(FINE), looped.wait(50));
    assert_eq!(looped.after(50), looped.since(50));
}

#[test]
fn events_during_a_pass_are_handled_after_it() {
    let mut looped = Loop::calm();
    assert_eq!(looped.hear(Event::Device), looped.since(0));
    looped.now += ms(700);
    for event in [Event::Source, Event::Changed, Event::Changed] {
        assert!(matches!(looped.hear(event), Step::Wait(_)), "{event:?}");
    }
    looped.now += ms(700);
    // The source's event ends the wait that the change began.
    assert_eq!(looped.ended(FINE), looped.since(0));
    assert_eq!(looped.ended(FINE), looped.wait(5000));
}

#[test]
fn the_agent_ends_at_once_when_idle_and_otherwise_after_the_pass() {
    let mut looped = Loop::calm();
    assert_eq!(looped.hear(Event::Stop), Step::Stop);
    assert_eq!(looped.hear(Event::Changed), Step::Stop);

    let mut looped = Loop::calm();
    looped.hear(Event::Changed);
    assert_eq!(looped.hear(Event::Stop), looped.wait(50));
    assert_eq!(looped.after(50), looped.since(50));
    looped.hear(Event::Recorded);
    assert_eq!(looped.ended(FAILED), Step::Stop);
}

#[test]
fn only_a_complete_look_at_everything_answers_those_who_asked_for_a_pass() {
    let order = |look| Order {
        since: None,
        look,
        recorded: false,
    };
    for (look, pass, answers) in [
        (Look::All, FINE, true),
        (Look::All, FAILED, true),
        (Look::All, UNSETTLED, false),
        (Look::Source, FINE, false),
    ] {
        assert_eq!(order(look).answers(pass), answers, "{look:?}, {pass:?}");
    }
}
