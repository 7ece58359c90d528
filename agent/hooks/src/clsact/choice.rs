//! Where a filter is to stand among those that are there: pure.

use aya::programs::TcAttachType;

use super::tc::{Filter, Place};

/// Handles are counted from here: "RF", then a number.
const HANDLE: u32 = 0x5246_0001;

/// A filter in words.
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

/// Where to stand, and whether that is in front of everybody else.
///
/// Priority 1 is in front of all others, and a new filter in front of the old
/// ones of its priority; but a priority is of one kind and protocol, so one of
/// another kind there can't be passed.
pub(super) fn choose(there: &[Filter], ours: Option<Place>) -> (Place, bool) {
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
        let place = Place {
            priority,
            handle: *handle,
        };
        there.iter().all(|filter| filter.place != place)
    };
    let handle = (HANDLE..).find(free).unwrap_or(HANDLE);
    (Place { priority, handle }, !blocked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(kind: &str, priority: u16, handle: u32) -> Filter {
        Filter {
            place: Place { priority, handle },
            kind: kind.to_owned(),
            every_protocol: true,
            name: String::new(),
            program: 0,
        }
    }

    fn place(priority: u16, handle: u32) -> Place {
        Place { priority, handle }
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
        // Our own old filter stays until the new one stands in front.
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
