//! A time line in one line of text: stretches in which every instant can be had, points, gaps.

use jiff::Timestamp;

/// How many columns a time line takes.
pub const COLUMNS: usize = 60;

/// What is drawn on one line.
#[derive(Debug, Default)]
pub struct Drawn {
    /// Stretches in which every instant can be had.
    pub stretches: Vec<(Timestamp, Timestamp)>,
    /// Points.
    pub points: Vec<Timestamp>,
    /// Gaps; the end is that of the line where nothing goes on.
    pub gaps: Vec<(Timestamp, Option<Timestamp>)>,
}

/// Draws `what` between two instants: `=` is any instant, `*` a point, `x` a gap.
///
/// What is narrower than a column takes one all the same, a point before a gap, a gap before a stretch, so that
/// nothing is hidden that is bad.
pub fn draw(what: &Drawn, from: Timestamp, to: Timestamp) -> String {
    let length = (to.as_millisecond() - from.as_millisecond()).max(1) as f64;
    let column = |instant: Timestamp| {
        let share = (instant.as_millisecond() - from.as_millisecond()) as f64 / length;
        // Of the positions from 0 to 1 the last belongs to the last column.
        ((share * COLUMNS as f64) as usize).min(COLUMNS - 1)
    };
    let mut line = vec![' '; COLUMNS];
    for (begin, end) in &what.stretches {
        line[column(*begin)..=column(*end)].fill('=');
    }
    for (begin, end) in &what.gaps {
        let (begin, end) = (column(*begin), end.map_or(COLUMNS - 1, column));
        line[begin..=end.max(begin)].fill('x');
    }
    for point in &what.points {
        line[column(*point)] = '*';
    }
    line.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_line_shows_what_can_be_had() {
        let drawn = Drawn {
            stretches: vec![(at(0), at(20)), (at(40), at(60))],
            points: vec![at(0), at(10), at(40)],
            gaps: vec![(at(20), Some(at(40)))],
        };
        let expected = "*=========*=========xxxxxxxxxxxxxxxxxxxx*===================";
        assert_eq!(draw(&drawn, at(0), at(60)), expected);
    }

    #[test]
    fn what_is_narrow_is_seen() {
        let drawn = Drawn {
            stretches: vec![(at(0), at(60_000))],
            points: vec![],
            gaps: vec![(at(500), Some(at(500)))],
        };
        assert_eq!(draw(&drawn, at(0), at(60_000)).matches('x').count(), 1);
        let open = Drawn { gaps: vec![(at(30), None)], ..Drawn::default() };
        assert_eq!(draw(&open, at(0), at(60)), " ".repeat(30) + &"x".repeat(30));
        assert_eq!(draw(&Drawn { points: vec![at(5)], ..Drawn::default() }, at(5), at(5)).trim(), "*");
    }
}
