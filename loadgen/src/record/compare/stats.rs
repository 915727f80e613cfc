//! How far figures may differ by chance alone. Pure.

/// Values of a figure on one side: one of each run, and many within each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Side {
    /// One of each repeat.
    pub runs: Vec<f64>,
    /// Of each repeat those of its parts, as far as it can be told for parts.
    pub parts: Vec<Vec<f64>>,
}

/// How the noise was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Three or more repeats on both sides: a Mann-Whitney test of their ranks, exact.
    Ranks,
    /// Fewer: what differs between parts of the runs, and between repeats if there are two.
    Parts,
    /// One run on a side, and a figure that has no parts.
    Unknown,
}

/// A difference between two sides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The median of the baseline's repeats.
    pub baseline: f64,
    /// That of the new ones.
    pub new: f64,
    /// How much more the new one is, as a share of the baseline.
    pub change: f64,
    /// How much of that may be chance; none if it is not known.
    pub noise: Option<f64>,
    /// The probability that chance makes such a difference in this direction, if ranks told it.
    pub p: Option<f64>,
    /// How the noise was found.
    pub method: Method,
}

/// Repeats on each side from which on their ranks are compared.
pub const REPEATS_MIN: usize = 3;
/// The most repeats of a side: the exact test takes time and memory with their cube.
pub const REPEATS_MAX: usize = 100;
/// Standard errors that a difference must exceed: one in 400 does by chance.
const ERRORS: f64 = 3.0;

/// Compares two sides; none if there is nothing on one of them, or the baseline is 0.
pub fn difference(baseline: &Side, new: &Side) -> Option<Difference> {
    let (old, now) = (median(&baseline.runs)?, median(&new.runs)?);
    if old == 0.0 {
        return None;
    }
    let change = (now - old) / old.abs();
    let repeats = baseline.runs.len().min(new.runs.len());
    let (method, noise, p) = if repeats >= REPEATS_MIN {
        let error = error_of(&baseline.runs).hypot(error_of(&new.runs));
        let (less, more) = match change < 0.0 {
            true => (&new.runs, &baseline.runs),
            false => (&baseline.runs, &new.runs),
        };
        (Method::Ranks, Some(ERRORS * error / old.abs()), Some(mann_whitney(less, more)))
    } else {
        let sides = [baseline, new].map(within);
        match sides {
            [Some(a), Some(b)] => (Method::Parts, Some(ERRORS * a.hypot(b)), None),
            _ => (Method::Unknown, None, None),
        }
    };
    Some(Difference { baseline: old, new: now, change, noise, p, method })
}

/// The relative standard error of a side of few runs: by their parts, or between two repeats when
/// these are farther apart; none if neither can be told.
fn within(side: &Side) -> Option<f64> {
    let parts = side.parts.iter().filter(|parts| parts.len() >= 2);
    let errors = parts.filter_map(|parts| {
        let mean = mean(parts);
        (mean != 0.0).then(|| error_of(parts) / mean.abs())
    });
    let errors = errors.collect::<Vec<_>>();
    let by_parts = (!errors.is_empty()).then(|| {
        let squares = errors.iter().map(|error| error * error).sum::<f64>();
        squares.sqrt() / errors.len() as f64
    });
    let middle = mean(&side.runs);
    let by_runs =
        (side.runs.len() >= 2 && middle != 0.0).then(|| error_of(&side.runs) / middle.abs());
    match (by_parts, by_runs) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

/// The probability, were all values of one kind, that the ranks of `more` are as high as they are
/// or higher. Exact, with ties: of all ways to deal the ranks out, the share of those.
pub fn mann_whitney(less: &[f64], more: &[f64]) -> f64 {
    let mut all = less.iter().chain(more).copied().collect::<Vec<_>>();
    all.sort_by(f64::total_cmp);
    // Ranks are doubled, so that those in the middle of ties are whole.
    let rank = |value: f64| {
        let below = all.partition_point(|other| *other < value);
        let upto = all.partition_point(|other| *other <= value);
        below + upto + 1
    };
    let found = more.iter().map(|value| rank(*value)).sum::<usize>();
    let most = all.iter().map(|value| rank(*value)).sum::<usize>();
    // ways[count][sum]: how many choices of so many values have such a sum of ranks.
    let mut ways = vec![vec![0.0_f64; most + 1]; more.len() + 1];
    ways[0][0] = 1.0;
    for value in &all {
        let rank = rank(*value);
        for count in (1..=more.len()).rev() {
            for sum in rank..=most {
                ways[count][sum] += ways[count - 1][sum - rank];
            }
        }
    }
    let chosen = &ways[more.len()];
    let total = chosen.iter().sum::<f64>();
    chosen[found..].iter().sum::<f64>() / total
}

/// The value in the middle, or between the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len(), sorted.len() % 2) {
        (0, _) => None,
        (_, 1) => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The standard error of the mean of two values or more.
fn error_of(values: &[f64]) -> f64 {
    let (mean, count) = (mean(values), values.len() as f64);
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (squares / (count - 1.0) / count).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_as_improbable_as_tables_say() {
        let check = |less: &[f64], more: &[f64], wanted: f64| {
            let found = mann_whitney(less, more);
            assert!((found - wanted).abs() < 1e-12, "{found}, not {wanted}");
        };
        check(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0], 1.0 / 20.0);
        check(&[4.0, 5.0, 6.0], &[1.0, 2.0, 3.0], 1.0);
        check(&[1.0, 2.0, 4.0], &[3.0, 5.0, 6.0], 2.0 / 20.0);
        check(&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0], 1.0 / 252.0);
        check(&[7.0; 4], &[7.0; 4], 1.0);
        check(&[1.0, 2.0, 2.0], &[2.0, 3.0, 3.0], 3.0 / 20.0);
    }

    #[test]
    fn the_middle_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn the_noise_is_told_by_what_there_is() {
        let side = |runs: &[f64], parts: &[&[f64]]| Side {
            runs: runs.to_vec(),
            parts: parts.iter().map(|parts| parts.to_vec()).collect(),
        };
        let of = |a: &Side, b: &Side| difference(a, b).expect("both have values");
        let many = side(&[10.0, 11.0, 10.5], &[]);
        let found = of(&many, &side(&[20.0, 21.0, 20.5], &[]));
        assert_eq!((found.method, found.p), (Method::Ranks, Some(0.05)));
        assert!((found.change - 10.0 / 10.5).abs() < 1e-12, "{found:?}");
        let parts = side(&[10.0], &[&[9.0, 10.0, 11.0]]);
        let found = of(&parts, &parts);
        assert_eq!((found.method, found.change), (Method::Parts, 0.0));
        let error = (1.0_f64 / 3.0).sqrt() / 10.0;
        assert!((found.noise.unwrap_or(0.0) - 3.0 * error.hypot(error)).abs() < 1e-12);
        let two = side(&[5.0, 15.0], &[&[10.0, 10.0], &[10.0, 10.0]]);
        assert!(of(&parts, &two).noise > found.noise, "repeats that differ are noise");
        assert_eq!(of(&side(&[1.0], &[]), &parts).method, Method::Unknown);
        assert_eq!(difference(&side(&[], &[]), &parts), None);
        assert_eq!(difference(&side(&[0.0], &[]), &parts), None);
    }
}
