use proptest::prelude::*;

use super::super::history::NEVER;
use super::*;
use crate::check::{search, zones};

/// Tries all orders.
fn by_force(left: &[BlockOperation], value: u64) -> bool {
    let must: Vec<_> = left.iter().filter(|operation| operation.ended != NEVER).collect();
    let Some(first_end) = must.iter().map(|operation| operation.ended).min() else { return true };
    left.iter().enumerate().any(|(at, next)| {
        let may_come_next = next.invoked < first_end;
        let fits = next.kind == Kind::Write || next.value == value;
        let mut rest = left.to_vec();
        rest.remove(at);
        let value = if next.kind == Kind::Write { next.value } else { value };
        may_come_next && fits && by_force(&rest, value)
    })
}

/// Histories of up to eight requests that overlap as chance has it. With `zeroing`, some writes write zeroes.
fn histories(zeroing: bool) -> impl Strategy<Value = Vec<BlockOperation>> {
    let operation = (0..24u64, 1..10u64, 0..6u8, 0..5u64);
    prop::collection::vec(operation, 1..8).prop_map(move |drawn| {
        let mut operations: Vec<BlockOperation> = drawn
            .iter()
            .enumerate()
            .map(|(number, &(start, length, kind, value))| {
                let kind_of = if kind < 3 { Kind::Read } else { Kind::Write };
                let written = if zeroing && value < 2 { ZERO } else { number as u64 + 1 };
                let ended = if kind == 5 { NEVER } else { start + length };
                BlockOperation {
                    kind: kind_of,
                    value: if kind < 3 { value } else { written },
                    invoked: start,
                    ended,
                    number,
                }
            })
            .collect();
        // Moments that come once each, in an order that follows from the times.
        let mut moments: Vec<(u64, usize, bool)> = Vec::new();
        for (at, operation) in operations.iter().enumerate() {
            moments.push((operation.invoked, at, false));
            if operation.ended != NEVER {
                moments.push((operation.ended, at, true));
            }
        }
        moments.sort_unstable();
        for (stamp, (_, at, is_end)) in (1..).zip(moments) {
            let operation = &mut operations[at];
            *(if is_end { &mut operation.ended } else { &mut operation.invoked }) = stamp;
        }
        // Reads give what some write has written, mostly.
        let writes: Vec<u64> = operations
            .iter()
            .filter(|operation| operation.kind == Kind::Write)
            .map(|operation| operation.value)
            .collect();
        for read in operations.iter_mut().filter(|operation| operation.kind == Kind::Read) {
            read.value = match read.value {
                0 => ZERO,
                _ if writes.is_empty() => ZERO,
                chosen => writes[chosen as usize % writes.len()],
            };
        }
        operations.sort_by_key(|operation| operation.invoked);
        operations
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn zones_and_search_decide_as_all_orders_do(history in histories(false)) {
        let expected = by_force(&history, ZERO);
        prop_assert_eq!(zones::check(&history) == Verdict::Ordered, expected);
        prop_assert_eq!(search::check(&history) == Verdict::Ordered, expected);
    }

    #[test]
    fn the_search_decides_as_all_orders_do_where_zeroes_are_written(history in histories(true)) {
        prop_assert_eq!(search::check(&history) == Verdict::Ordered, by_force(&history, ZERO));
    }
}

fn operation(kind: Kind, value: u64, invoked: u64, ended: u64) -> BlockOperation {
    BlockOperation { kind, value, invoked, ended, number: invoked as usize }
}

#[test]
fn a_stale_read_is_found() {
    let history = [
        operation(Kind::Write, 1, 1, 2),
        operation(Kind::Write, 2, 3, 4),
        operation(Kind::Read, 1, 5, 6),
    ];
    let shown_by = vec![1, 3, 5];
    let disorder = Disorder::Interleaved { shown_by };
    assert_eq!(check(&history), Verdict::Disordered(disorder));
}

#[test]
fn a_write_without_an_answer_may_happen_late_but_only_once() {
    let mut history = vec![
        operation(Kind::Write, 1, 1, NEVER),
        operation(Kind::Write, 2, 2, 3),
        operation(Kind::Read, 2, 4, 5),
        operation(Kind::Read, 1, 6, 7),
    ];
    assert_eq!(check(&history), Verdict::Ordered);
    history.push(operation(Kind::Read, 2, 8, 9));
    assert!(matches!(check(&history), Verdict::Disordered(_)));
}

#[test]
fn zeroing_without_an_answer_serves_once() {
    let mut history = vec![
        operation(Kind::Write, ZERO, 1, NEVER),
        operation(Kind::Write, 5, 2, 3),
        operation(Kind::Read, ZERO, 4, 5),
        operation(Kind::Write, 6, 6, 7),
    ];
    assert_eq!(check(&history), Verdict::Ordered);
    history.push(operation(Kind::Read, ZERO, 8, 9));
    assert_eq!(check(&history), Verdict::Disordered(Disorder::NoOrder { at: 8 }));
}

#[test]
fn garbage_is_from_nowhere() {
    let history = [operation(Kind::Read, crate::payload::GARBAGE | 5, 1, 2)];
    assert_eq!(check(&history), Verdict::Disordered(Disorder::FromNowhere { read: 1 }));
}
