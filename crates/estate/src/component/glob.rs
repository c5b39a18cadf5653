//! Globs in declared paths: `*`, `?` and `[…]` within a name, `**` over any number of directories.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Tells whether a declared path is a pattern.
pub(crate) fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Finds what is there and matches, sorted; hidden names only where the pattern's own name begins with a dot.
///
/// Fails when a directory that must be searched cannot be listed.
pub(crate) fn expand(pattern: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let parts: Vec<&str> = pattern
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    let mut found = BTreeSet::new();
    search(Path::new("/"), &parts, &mut found)?;
    Ok(found)
}

fn search(directory: &Path, parts: &[&str], found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let Some((&part, rest)) = parts.split_first() else {
        found.insert(directory.to_owned());
        return Ok(());
    };
    if !is_glob(part) {
        let next = directory.join(part);
        return if fs::symlink_metadata(&next).is_ok() { search(&next, rest, found) } else { Ok(()) };
    }
    if !fs::metadata(directory).is_ok_and(|here| here.is_dir()) {
        return Ok(());
    }
    if part == "**" {
        search(directory, rest, found)?;
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(text) = name.to_str() else { continue };
        let hidden = text.starts_with('.') && !part.starts_with('.');
        if part == "**" {
            // Links are not followed, so that the search ends.
            if !hidden && entry.file_type()?.is_dir() {
                search(&directory.join(&name), parts, found)?;
            }
        } else if !hidden && matches(part, text) {
            search(&directory.join(&name), rest, found)?;
        }
    }
    Ok(())
}

/// Matches one name.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // The classic walk with one point to go back to: linear for every practical pattern.
    let (mut at, mut of) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while of < name.len() {
        match one(&pattern[at..], name.get(of).copied()) {
            Some(0) => {
                star = Some((at, of));
                at += 1;
            }
            Some(length) => {
                at += length;
                of += 1;
            }
            None => match star {
                Some((star_at, star_of)) => {
                    (at, of) = (star_at + 1, star_of + 1);
                    star = Some((star_at, star_of + 1));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&rest| rest == '*')
}

/// How many characters of the pattern match this one; 0 for a star, nothing for no match.
fn one(pattern: &[char], character: Option<char>) -> Option<usize> {
    let character = character?;
    match pattern.first()? {
        '*' => Some(0),
        '?' => Some(1),
        '[' => match pattern.iter().skip(2).position(|&end| end == ']') {
            Some(end) => class(&pattern[1..end + 2], character).then_some(end + 3),
            None => (character == '[').then_some(1),
        },
        &same => (same == character).then_some(1),
    }
}

/// Matches the inside of `[…]`: characters and ranges, all others after `!`.
fn class(inside: &[char], character: char) -> bool {
    let (negated, inside) = match inside.split_first() {
        Some(('!' | '^', rest)) if !rest.is_empty() => (true, rest),
        _ => (false, inside),
    };
    let mut rest = inside;
    let mut found = false;
    while let Some((&first, after)) = rest.split_first() {
        if let ['-', last, ..] = after {
            found |= (first..=*last).contains(&character);
            rest = &after[2..];
        } else {
            found |= first == character;
            rest = after;
        }
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match() {
        for (pattern, name, expected) in [
            ("*.yml", "compose.yml", true),
            ("*.yml", "compose.yaml", false),
            ("docker-compose*.yml", "docker-compose.yml", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?", "ä", true),
            ("?", "", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]x]", "]", true),
            ("[", "[", true),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn paths_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for path in ["k8s/a.yaml", "k8s/b.yaml", "k8s/.hidden.yaml", "k8s/deep/c.yaml", "other/d.yml"] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), "").unwrap();
        }
        let names = |pattern: &str| -> Vec<String> {
            let found = expand(&root.join(pattern)).unwrap();
            found.iter().map(|path| path.strip_prefix(root).unwrap().display().to_string()).collect()
        };
        assert_eq!(names("k8s/*.yaml"), ["k8s/a.yaml", "k8s/b.yaml"]);
        assert_eq!(names("**/*.yaml"), ["k8s/a.yaml", "k8s/b.yaml", "k8s/deep/c.yaml"]);
        assert_eq!(names("*/.h*"), ["k8s/.hidden.yaml"]);
        assert_eq!(names("nothing/*"), [""; 0]);
    }
}
