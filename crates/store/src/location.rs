//! What a user writes to name a store. Parsing only; nothing is opened here.

use std::fmt;
use std::path::PathBuf;

/// Schemes that people know from other tools and that have no store here yet.
const NOT_YET: [&str; 8] = ["sftp", "gs", "azure", "b2", "rest", "rclone", "swift", "ssh"];

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory.
    Local(PathBuf),
    /// A bucket, or a part of one.
    S3(Bucket),
}

/// A bucket of an S3 server, and the part of it that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The server's URL; `None` is Amazon's.
    pub endpoint: Option<String>,
    /// The bucket's name.
    pub bucket: String,
    /// What all keys begin with, without slashes around; empty for the whole bucket.
    pub prefix: String,
}

/// Text that names no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// The scheme is known, but there is no such store yet.
    #[error("{scheme}: is not yet supported; use a directory or s3:")]
    NotYetSupported {
        /// What stands before the colon.
        scheme: String,
    },
    /// The scheme is unknown.
    #[error(
        "unknown kind of store {scheme}: in {text:?}; use a path, local:PATH, s3://BUCKET/PREFIX or \
             s3:https://HOST/BUCKET/PREFIX"
    )]
    UnknownScheme {
        /// What stands before the colon.
        scheme: String,
        /// The whole text.
        text: String,
    },
    /// A part is missing or malformed.
    #[error("{problem} in {text:?}; {expected}")]
    Malformed {
        /// What is wrong.
        problem: &'static str,
        /// The whole text, without a password that it may have held.
        text: String,
        /// What it should look like.
        expected: &'static str,
    },
}

impl Location {
    /// Parses `PATH`, `local:PATH`, `s3://BUCKET/PREFIX`, `s3:https://HOST/BUCKET/PREFIX` or
    /// `s3:HOST/BUCKET/PREFIX`.
    ///
    /// `s3://` names a bucket, as Amazon's own tools have it (restic reads a host there).
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let local = |path: &str| match path {
            "" => {
                Err(malformed("no path", text, "a directory is named like /srv/backup or local:/srv/backup"))
            }
            path => Ok(Self::Local(PathBuf::from(path))),
        };
        let Some((scheme, rest)) = text.split_once(':') else { return local(text) };
        match scheme {
            "local" => local(rest),
            "s3" => Self::parse_s3(text, rest).map(Self::S3),
            scheme if NOT_YET.contains(&scheme) => {
                Err(LocationError::NotYetSupported { scheme: scheme.to_owned() })
            }
            scheme if rest.starts_with("//") && !scheme.contains('/') => {
                let text = without_user(text);
                Err(LocationError::UnknownScheme { scheme: scheme.to_owned(), text })
            }
            // A colon is allowed in a path.
            _ => local(text),
        }
    }

    fn parse_s3(text: &str, rest: &str) -> Result<Bucket, LocationError> {
        let fail = |problem| {
            let expected = "an S3 store is named like s3://BUCKET/PREFIX or s3:https://HOST/BUCKET/PREFIX";
            malformed(problem, text, expected)
        };
        let (endpoint, path) = if let Some(path) = rest.strip_prefix("//") {
            (None, path)
        } else {
            let (protocol, rest) = rest.split_once("://").unwrap_or(("https", rest));
            if protocol != "https" && protocol != "http" {
                return Err(fail("neither https nor http"));
            }
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            if host.contains('@') {
                return Err(fail("credentials, which belong elsewhere,"));
            }
            if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b)) {
                return Err(fail("no host"));
            }
            (Some(format!("{protocol}://{host}")), path)
        };
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        if bucket.is_empty() || !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Err(fail("no bucket name"));
        }
        let prefix = prefix.trim_matches('/');
        if prefix.split('/').any(|segment| segment == "." || segment == "..")
            || prefix.contains("//")
            || prefix.bytes().any(|b| b.is_ascii_control() || b"?#".contains(&b))
        {
            return Err(fail("a prefix that is no plain path"));
        }
        Ok(Bucket { endpoint, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(f),
            Self::S3(bucket) => bucket.fmt(f),
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Some(endpoint) => write!(f, "s3:{endpoint}/{}", self.bucket)?,
            None => write!(f, "s3://{}", self.bucket)?,
        }
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

fn malformed(problem: &'static str, text: &str, expected: &'static str) -> LocationError {
    LocationError::Malformed { problem, text: without_user(text), expected }
}

/// Cuts `user:password@` out of a URL, so that an error can be shown.
fn without_user(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(start), Some(end)) if start < end => format!("{}…{}", &text[..start + 3], &text[end..]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(endpoint: Option<&str>, bucket: &str, prefix: &str) -> Location {
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        Location::S3(Bucket { endpoint: endpoint.map(str::to_owned), bucket, prefix })
    }

    #[test]
    fn paths_are_directories() {
        for (text, path) in
            [("/srv/b", "/srv/b"), ("b", "b"), ("local:x:y", "x:y"), ("./a:b", "./a:b"), ("a:b", "a:b")]
        {
            assert_eq!(Location::parse(text), Ok(Location::Local(path.into())), "{text}");
        }
    }

    #[test]
    fn s3_has_three_spellings() {
        assert_eq!(Location::parse("s3://b/p/q/"), Ok(s3(None, "b", "p/q")));
        assert_eq!(Location::parse("s3://b"), Ok(s3(None, "b", "")));
        let spelt = Location::parse("s3:https://h.example:9000/b/p");
        assert_eq!(spelt, Ok(s3(Some("https://h.example:9000"), "b", "p")));
        assert_eq!(Location::parse("s3:http://[::1]:9/b"), Ok(s3(Some("http://[::1]:9"), "b", "")));
        assert_eq!(Location::parse("s3:h.example/b/"), Ok(s3(Some("https://h.example"), "b", "")));
    }

    #[test]
    fn what_is_shown_parses_to_the_same() {
        for text in ["/srv/b", "s3://b/p", "s3:http://h:1/b/p/q", "s3:https://h/b"] {
            let location = Location::parse(text).unwrap();
            assert_eq!(location.to_string(), text);
        }
    }

    #[test]
    fn errors_say_what_to_write_instead() {
        for (text, part) in [
            ("", "no path"),
            ("local:", "no path"),
            ("sftp:host:/x", "not yet supported"),
            ("gs:bucket:/", "not yet supported"),
            ("azure:c:/", "not yet supported"),
            ("ftp://h/x", "unknown kind of store ftp:"),
            ("s3:", "no host"),
            ("s3://", "no bucket"),
            ("s3:https://h", "no bucket"),
            ("s3:ftp://h/b", "neither https nor http"),
            ("s3://b/../x", "plain path"),
            ("s3://b/x//y", "plain path"),
        ] {
            let error = Location::parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn passwords_are_not_repeated() {
        for text in ["s3:https://me:hidden@h/b", "ftp://me:hidden@h/b"] {
            let error = Location::parse(text).expect_err(text).to_string();
            assert!(!error.contains("hidden"), "{error}");
        }
    }
}
