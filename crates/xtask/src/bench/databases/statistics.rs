//! Figures of many: percentiles, and which acknowledged commits were durable when.

/// The smallest figure that at least `share` of all do not exceed (nearest rank); `None` of none.
pub fn percentile(figures: &[f64], share: f64) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// A moment at which the archive was seen to reach up to a position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// Seconds on the clock of the run.
    pub at_s: f64,
    /// The position behind what is archived.
    pub position: u64,
}

/// How long each commit waited, in seconds: from its acknowledgement to the first look that saw its position archived.
///
/// `acknowledged_s` are the instants of commits in their order; the first of them ends at the position `first`, each later one
/// at the next. `None` when a commit was never seen in the archive.
pub fn delays(acknowledged_s: &[f64], first: u64, seen: &[Seen]) -> Option<Vec<f64>> {
    let mut looks = seen.iter().peekable();
    let delay = |(position, acknowledged_s): (u64, &f64)| {
        while looks.peek()?.position < position {
            looks.next();
        }
        // A commit may be archived before the answer of the database has reached the writer.
        Some((looks.peek()?.at_s - acknowledged_s).max(0.0))
    };
    (first..).zip(acknowledged_s).map(delay).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_figures_that_were_measured() {
        let figures: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&figures, 0.5), Some(100.0));
        assert_eq!(percentile(&figures, 0.99), Some(198.0));
        assert_eq!(percentile(&figures, 1.0), Some(200.0));
        assert_eq!(percentile(&[7.0], 0.01), Some(7.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn a_commit_waits_until_its_position_is_seen() {
        let seen = |at_s, position| Seen { at_s, position };
        let looks = [seen(1.0, 10), seen(1.5, 12), seen(2.0, 13)];
        assert_eq!(delays(&[1.125, 1.25, 1.75], 11, &looks), Some(vec![0.375, 0.25, 0.25]));
        assert_eq!(delays(&[1.1], 10, &looks), Some(vec![0.0]), "never before it was acknowledged");
        assert_eq!(delays(&[1.1], 14, &looks), None, "what is not there has not waited for some time");
    }
}
