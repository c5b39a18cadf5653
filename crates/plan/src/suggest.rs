//! "Did you mean": the known name that is closest to one that is unknown.

/// Most names that are compared: a plan of thousands of unknown names must not take minutes.
const KNOWN_MAX: usize = 1000;

/// Gives the closest of the known names if it is close enough to be meant: a third of its letters may differ.
pub fn closest<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // A name longer than any that is known cannot be meant, and the distance takes quadratic time.
    if written.len() > 100 {
        return None;
    }
    let normal = |name: &str| name.to_lowercase().replace(['-', ' '], "_");
    let distance = |name: &str| distance(&normal(written), &normal(name));
    known
        .into_iter()
        .take(KNOWN_MAX)
        .map(|name| (distance(name), name))
        .filter(|(distance, name)| *distance <= name.chars().count().max(written.chars().count()).div_ceil(3))
        .filter(|(distance, name)| *distance < name.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Counts the letters that must be put in, taken out, changed, or swapped with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut two_ago = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let changed = last[j] + usize::from(a != b);
            let mut least = changed.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                least = least.min(two_ago[j - 1] + 1);
            }
            row.push(least);
        }
        two_ago = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_close_is_suggested_and_what_is_not_is_not() {
        let known = ["components", "services", "checks", "steps", "on_failure", "rpo"];
        let cases = [
            ("compnents", Some("components")),
            ("service", Some("services")),
            ("on-failure", Some("on_failure")),
            ("step", Some("steps")),
            ("rop", Some("rpo")),
            ("database", None),
            ("x", None),
            ("", None),
        ];
        for (written, meant) in cases {
            assert_eq!(closest(written, known), meant, "{written}");
        }
        assert_eq!(closest(&"component".repeat(100), known), None);
    }
}
