//! Who calls whom in a mesh of services: few callees are called by many.

use std::collections::BTreeSet;

use crate::random::Dice;

/// Exponent of the callees' popularity, by rank.
const ZIPF: f64 = 0.85;
/// Services that call nobody, of 100.
const SILENT: usize = 30;
/// A caller's label set has to stay one that an API server would take.
const MOST: usize = 300;

/// The callees of each service. Out-degrees are lognormal, in-degrees Zipf's.
pub(super) fn edges(dice: &mut Dice, services: usize, edges: usize) -> Vec<BTreeSet<usize>> {
    let degrees = degrees(dice, services, edges);
    let mut order: Vec<usize> = (0..services).collect();
    dice.shuffle(&mut order);
    let mut total = 0.0;
    let shares: Vec<f64> = (1..=services)
        .map(|rank| {
            total += (rank as f64).powf(-ZIPF);
            total
        })
        .collect();
    let callees = |caller: usize, degree: usize, dice: &mut Dice| {
        let mut found = BTreeSet::new();
        while found.len() < degree {
            let at = fraction(dice) * total;
            let rank = shares.partition_point(|share| *share <= at);
            let callee = order[rank.min(services - 1)];
            if callee != caller {
                found.insert(callee);
            }
        }
        found
    };
    let degrees = degrees.into_iter().enumerate();
    degrees
        .map(|(n, degree)| callees(n, degree, dice))
        .collect()
}

/// As many as asked for in sum.
fn degrees(dice: &mut Dice, services: usize, edges: usize) -> Vec<usize> {
    let silent = services * SILENT / 100;
    let mut callers: Vec<usize> = (0..services).collect();
    dice.shuffle(&mut callers);
    callers.truncate(services - silent);
    // The mean of a lognormal of deviation 1 is exp(mu + 1/2).
    let mu = (edges as f64 / callers.len() as f64).ln() - 0.5;
    let mut degrees = vec![0; services];
    for caller in &callers {
        let degree = (mu + normal(dice)).exp().round() as usize;
        degrees[*caller] = degree.clamp(1, MOST);
    }
    // Chance leaves the sum off by some; single edges here and there mend it.
    let mut sum: usize = degrees.iter().sum();
    for caller in callers.iter().cycle() {
        let degree = &mut degrees[*caller];
        match sum.cmp(&edges) {
            std::cmp::Ordering::Less if *degree < MOST => (*degree, sum) = (*degree + 1, sum + 1),
            std::cmp::Ordering::Greater if *degree > 1 => (*degree, sum) = (*degree - 1, sum - 1),
            std::cmp::Ordering::Equal => break,
            _ => {}
        }
    }
    degrees
}

/// In 0..1.
fn fraction(dice: &mut Dice) -> f64 {
    (dice.bits() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Normally distributed, by Box and Muller.
fn normal(dice: &mut Dice) -> f64 {
    let radius = (-2.0 * (1.0 - fraction(dice)).ln()).sqrt();
    radius * (std::f64::consts::TAU * fraction(dice)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degrees_are_skewed_as_in_a_real_mesh() {
        let all = edges(&mut Dice::new(7), 1600, 9300);
        assert_eq!(all.iter().map(BTreeSet::len).sum::<usize>(), 9300);
        assert_eq!(all.iter().filter(|callees| callees.is_empty()).count(), 480);
        let mut called = vec![0_usize; 1600];
        all.iter().flatten().for_each(|callee| called[*callee] += 1);
        called.sort_unstable();
        assert!(called[1599] > 150, "the most called: {}", called[1599]);
        assert!(called[800] < 6, "the middle one: {}", called[800]);
        let most = all.iter().map(BTreeSet::len).max();
        assert!(most > Some(60), "the busiest caller: {most:?}");
    }
}
