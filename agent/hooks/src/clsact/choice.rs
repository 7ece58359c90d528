//! The position of a new filter among those already attached. Pure.

use aya::programs::TcAttachType;

use super::tc::{Filter, Position};

/// The first handle: "RF", then a number.
const HANDLE: u32 = 0x5246_0001;

/// Describes a filter.
pub(super) fn shown(filter: &Filter, side: TcAttachType) -> String {
    let side = match side {
        TcAttachType::Egress => "egress",
        _ => "ingress",
    };
    let Filter {
        kind, name, place, ..
    } = filter;
    let name = if name.is_empty() {
        ""
    } else {
        &format!(" {name}")
    };
    format!("{side} {kind}{name} (priority {})", place.priority)
}

/// Returns a position for our filter, and whether it is in front of all others.
///
/// Priority 1 runs before all other priorities, and a new filter runs before older
/// ones of its priority. But each priority holds filters of one kind and protocol, so
/// ours can't be placed in front of a filter of another kind there.
pub(super) fn choose(there: &[Filter], ours: Option<Position>) -> (Position, bool) {
    let mut others = there.iter().filter(|filter| Some(filter.place) != ours);
    let joins = |filter: &Filter| filter.kind == "bpf" && filter.every_protocol;
    let blocked = others.any(|filter| filter.place.priority == 1 && !joins(filter));
    let priority = if blocked {
        let taken = |priority: &u16| there.iter().any(|f| f.place.priority == *priority);
        (2..=u16::MAX).find(|p| !taken(p)).unwrap_or(u16::MAX)
    } else {
        1
    };
    let free = |handle: &u32| {
        let place = Position {
            priority,
            handle: *handle,
        };
        there.iter().all(|filter| filter.place != place)
    };
    let handle = (HANDLE..).find(free).unwrap_or(HANDLE);
    (Position { priority, handle }, !blocked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(kind: &str, priority: u16, handle: u32) -> Filter {
        Filter {
            place: Position { priority, handle },
            kind: kind.to_owned(),
            every_protocol: true,
            name: String::new(),
            program: 0,
        }
    }

    fn place(priority: u16, handle: u32) -> Position {
        Position { priority, handle }
    }

    #[test]
    fn the_lowest_priority_number_is_taken_where_it_is_free() {
        assert_eq!(choose(&[], None), (place(1, HANDLE), true));
        let later = [filter("flower", 2, 1), filter("bpf", 49152, 1)];
        assert_eq!(choose(&later, None), (place(1, HANDLE), true));
    }

    #[test]
    fn a_program_at_the_lowest_one_is_joined_with_a_handle_that_is_free() {
        let there = [filter("bpf", 1, 1)];
        assert_eq!(choose(&there, None), (place(1, HANDLE), true));
        // Our old filter stays until the new one is in front.
        let behind = [filter("bpf", 1, 1), filter("bpf", 1, HANDLE)];
        let ours = Some(place(1, HANDLE));
        assert_eq!(choose(&behind, ours), (place(1, HANDLE + 1), true));
    }

    #[test]
    fn a_filter_of_another_kind_at_the_lowest_one_cannot_be_passed() {
        let there = [filter("u32", 1, 0x8000_0800), filter("bpf", 2, 1)];
        assert_eq!(choose(&there, None), (place(3, HANDLE), false));
        let mut one_protocol = filter("bpf", 1, 1);
        one_protocol.every_protocol = false;
        assert_eq!(choose(&[one_protocol], None), (place(2, HANDLE), false));
    }

    #[test]
    fn a_filter_is_shown_with_its_side_kind_name_and_priority() {
        let mut one = filter("bpf", 5, 1);
        assert_eq!(
            shown(&one, TcAttachType::Ingress),
            "ingress bpf (priority 5)"
        );
        one.name = "cil_from_container".to_owned();
        assert_eq!(
            shown(&one, TcAttachType::Egress),
            "egress bpf cil_from_container (priority 5)"
        );
    }
}
