//! What has to be known to reach a bucket, and how to find it in the usual places.
//!
//! Nothing in here reads the environment or a file: [`UsualPlaces::look_up`] is given both.

use std::fmt;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use crate::location::Bucket;

/// How to reach a bucket.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// The server, the bucket and the part of it.
    pub bucket: Bucket,
    /// The region to sign for; `None` takes it from an amazonaws.com endpoint, else `us-east-1`.
    pub region: Option<String>,
    /// Whether the bucket goes into the path of a URL; else it goes before the host.
    pub path_style: bool,
    /// Whether an endpoint without TLS is accepted.
    pub allow_http: bool,
    /// Who asks.
    pub credentials: S3Credentials,
    /// Certificates to trust beside the system's, as PEM.
    pub root_certificates: Option<Vec<u8>>,
    /// The URL of a proxy for all requests.
    pub proxy: Option<String>,
}

impl S3Options {
    /// The options that fit most servers: paths for all but Amazon, and TLS unless the endpoint says `http:`.
    pub fn new(bucket: Bucket, credentials: S3Credentials) -> Self {
        let is_amazon =
            bucket.endpoint.as_ref().is_none_or(|endpoint| host(endpoint).ends_with(".amazonaws.com"));
        Self {
            // Amazon's certificates do not cover a dot in the bucket's name.
            path_style: !is_amazon || bucket.bucket.contains('.'),
            allow_http: bucket.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")),
            bucket,
            region: None,
            credentials,
            root_certificates: None,
            proxy: None,
        }
    }

    /// The region to sign for.
    pub(super) fn region(&self) -> String {
        let from_endpoint = || {
            let host = host(self.bucket.endpoint.as_ref()?);
            host.strip_prefix("s3.")?.strip_suffix(".amazonaws.com")
        };
        let region = self.region.as_deref().or_else(from_endpoint).unwrap_or("us-east-1");
        region.to_owned()
    }

    /// The URL before the object's path, with the bucket where the style wants it; `None` for Amazon's own.
    pub(super) fn endpoint_of_requests(&self) -> Result<Option<String>, String> {
        let Some(endpoint) = &self.bucket.endpoint else { return Ok(None) };
        let endpoint = endpoint.trim_end_matches('/');
        let Some((protocol, host)) = endpoint.split_once("://") else {
            return Err(format!("the endpoint {endpoint:?} must begin with https:// or http://"));
        };
        if protocol == "http" && !self.allow_http {
            return Err(format!(
                "the endpoint {endpoint:?} is without TLS, which has to be allowed explicitly"
            ));
        }
        Ok(Some(match self.path_style {
            true => endpoint.to_owned(),
            false => format!("{protocol}://{}.{host}", self.bucket.bucket),
        }))
    }
}

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum S3Credentials {
    /// A key and its secret.
    Keys {
        /// The name of the key.
        access_key_id: String,
        /// The secret that signs.
        secret_access_key: String,
        /// Belongs to keys that are lent for a time.
        session_token: Option<String>,
    },
    /// A role that is assumed with a token from a file, as in Kubernetes on Amazon.
    WebIdentity {
        /// The file with the token.
        token_file: String,
        /// The role.
        role_arn: String,
    },
    /// What the container's agent hands out at this path.
    Container {
        /// `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`
        relative_uri: String,
    },
    /// What the metadata service of the machine hands out.
    Instance,
    /// Nobody; for public buckets.
    Anonymous,
}

impl S3Credentials {
    pub(super) fn apply(&self, builder: AmazonS3Builder) -> AmazonS3Builder {
        match self {
            Self::Keys { access_key_id, secret_access_key, session_token } => {
                let builder =
                    builder.with_access_key_id(access_key_id).with_secret_access_key(secret_access_key);
                match session_token {
                    Some(token) => builder.with_token(token),
                    None => builder,
                }
            }
            Self::WebIdentity { token_file, role_arn } => builder
                .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token_file)
                .with_config(AmazonS3ConfigKey::RoleArn, role_arn),
            Self::Container { relative_uri } => {
                builder.with_config(AmazonS3ConfigKey::ContainerCredentialsRelativeUri, relative_uri)
            }
            Self::Instance => builder,
            Self::Anonymous => builder.with_skip_signature(true),
        }
    }
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys { access_key_id, .. } => write!(f, "Keys({access_key_id}, …)"),
            Self::WebIdentity { role_arn, .. } => write!(f, "WebIdentity({role_arn})"),
            Self::Container { .. } => f.write_str("Container"),
            Self::Instance => f.write_str("Instance"),
            Self::Anonymous => f.write_str("Anonymous"),
        }
    }
}

/// The contents of Amazon's two files, where they exist.
#[derive(Clone, Copy, Default)]
pub struct AwsFiles<'a> {
    /// `~/.aws/credentials`, or what `AWS_SHARED_CREDENTIALS_FILE` names.
    pub credentials: Option<&'a str>,
    /// `~/.aws/config`, or what `AWS_CONFIG_FILE` names.
    pub config: Option<&'a str>,
}

/// What the environment and Amazon's files say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsualPlaces {
    /// Who asks; the metadata service when nothing else is set.
    pub credentials: S3Credentials,
    /// `AWS_REGION`, `AWS_DEFAULT_REGION` or the profile's.
    pub region: Option<String>,
    /// `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` or the profile's; for locations that name no server.
    pub endpoint: Option<String>,
    /// `HTTPS_PROXY` or `https_proxy`.
    pub proxy: Option<String>,
}

/// The usual places contradict themselves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsualPlacesError {
    /// Half of a pair is set.
    #[error("{present} is set, but {missing} is not")]
    Half {
        /// What is set.
        present: String,
        /// What is not.
        missing: String,
    },
    /// `AWS_PROFILE` names a profile that is in neither file.
    #[error("AWS_PROFILE names {profile:?}, which is neither in ~/.aws/credentials nor in ~/.aws/config")]
    NoProfile {
        /// Its name.
        profile: String,
    },
}

impl UsualPlaces {
    /// Looks for credentials where Amazon's own tools do, in their order: variables, web identity, profile,
    /// container, machine.
    ///
    /// `variable` returns the value of an environment variable. A profile that starts a program
    /// (`credential_process`) or a login (`sso_…`) is not understood and counts as having no keys.
    pub fn look_up(
        variable: &dyn Fn(&str) -> Option<String>,
        files: AwsFiles<'_>,
    ) -> Result<Self, UsualPlacesError> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let named = variable("AWS_PROFILE");
        let profile = Profile::find(named.as_deref().unwrap_or("default"), files);
        if let (Some(profile_name), false) = (&named, profile.exists) {
            return Err(UsualPlacesError::NoProfile { profile: profile_name.clone() });
        }
        let keys =
            match keys_of(&variable, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")? {
                Some(keys) => Some(keys),
                None => web_identity(&variable)?,
            };
        let keys = match keys {
            Some(keys) => Some(keys),
            None => {
                let value = |name: &str| profile.value(name);
                keys_of(&value, "aws_access_key_id", "aws_secret_access_key", "aws_session_token")?
            }
        };
        let container = || {
            let relative_uri = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")?;
            Some(S3Credentials::Container { relative_uri })
        };
        let first = |names: &[&str]| names.iter().find_map(|name| variable(name));
        Ok(Self {
            credentials: keys.or_else(container).unwrap_or(S3Credentials::Instance),
            region: first(&["AWS_REGION", "AWS_DEFAULT_REGION"]).or_else(|| profile.value("region")),
            endpoint: first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
                .or_else(|| profile.value("endpoint_url")),
            proxy: first(&["HTTPS_PROXY", "https_proxy"]),
        })
    }

    /// The options for `bucket` with all that was found.
    pub fn options(self, mut bucket: Bucket) -> S3Options {
        bucket.endpoint = bucket.endpoint.or(self.endpoint);
        let options = S3Options::new(bucket, self.credentials);
        // A proxy for HTTPS is none for a server on the local network without it.
        let proxy = if options.allow_http { None } else { self.proxy };
        S3Options { region: self.region, proxy, ..options }
    }
}

/// A pair of key and secret by the names that `value` knows them under.
fn keys_of(
    value: &dyn Fn(&str) -> Option<String>,
    key: &str,
    secret: &str,
    token: &str,
) -> Result<Option<S3Credentials>, UsualPlacesError> {
    Ok(pair(value, key, secret)?.map(|(access_key_id, secret_access_key)| S3Credentials::Keys {
        access_key_id,
        secret_access_key,
        session_token: value(token),
    }))
}

fn web_identity(value: &dyn Fn(&str) -> Option<String>) -> Result<Option<S3Credentials>, UsualPlacesError> {
    let found = pair(value, "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN");
    match found {
        // A role alone also belongs to other ways of assuming it.
        Err(_) => Ok(None),
        found => Ok(found?.map(|(token_file, role_arn)| S3Credentials::WebIdentity { token_file, role_arn })),
    }
}

/// Both values, or neither.
fn pair(
    value: &dyn Fn(&str) -> Option<String>,
    first: &str,
    second: &str,
) -> Result<Option<(String, String)>, UsualPlacesError> {
    let half = |present: &str, missing: &str| {
        Err(UsualPlacesError::Half { present: present.to_owned(), missing: missing.to_owned() })
    };
    match (value(first), value(second)) {
        (Some(a), Some(b)) => Ok(Some((a, b))),
        (Some(_), None) => half(first, second),
        (None, Some(_)) => half(second, first),
        (None, None) => Ok(None),
    }
}

/// The lines of one profile in both files, those of `credentials` first.
struct Profile<'a> {
    exists: bool,
    values: Vec<(&'a str, &'a str)>,
}

impl<'a> Profile<'a> {
    fn find(name: &str, files: AwsFiles<'a>) -> Self {
        let mut profile = Self { exists: false, values: Vec::new() };
        profile.read(files.credentials, |section| section == name);
        // In `config` every profile but the default one carries the word before its name.
        profile.read(files.config, |section| {
            let named = section.strip_prefix("profile").filter(|rest| rest.starts_with([' ', '\t']));
            named.map_or(section == name && name == "default", |rest| rest.trim() == name)
        });
        profile
    }

    fn read(&mut self, file: Option<&'a str>, is_ours: impl Fn(&str) -> bool) {
        let mut inside = false;
        for line in file.unwrap_or_default().lines() {
            let text = line.trim();
            if let Some(section) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                inside = is_ours(section.trim());
                self.exists |= inside;
            } else if inside
                // Indented lines belong to nested settings such as `s3 =`.
                && !line.starts_with([' ', '\t', '#', ';'])
                && let Some((name, value)) = text.split_once('=')
            {
                self.values.push((name.trim(), value.trim()));
            }
        }
    }

    fn value(&self, name: &str) -> Option<String> {
        let found =
            self.values.iter().find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_empty());
        found.map(|(_, value)| (*value).to_owned())
    }
}

/// The host and port of a URL.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split_once('/').map_or(rest, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "\
# comment
[default]
aws_access_key_id = D
aws_secret_access_key=DS

[work]
aws_access_key_id = W
aws_secret_access_key = WS=with=signs
aws_session_token = WT
";
    const CONFIG: &str = "\
[default]
region = eu-central-1
[profile work]
region = eu-west-3
s3 =
  region = nested
endpoint_url = https://s3.work.example
[profile half]
aws_access_key_id = H
";
    const FILES: AwsFiles<'static> = AwsFiles { credentials: Some(CREDENTIALS), config: Some(CONFIG) };

    fn keys(id: &str, secret: &str, token: Option<&str>) -> S3Credentials {
        S3Credentials::Keys {
            access_key_id: id.to_owned(),
            secret_access_key: secret.to_owned(),
            session_token: token.map(str::to_owned),
        }
    }

    fn look_up(variables: &[(&str, &str)], files: AwsFiles<'_>) -> Result<UsualPlaces, UsualPlacesError> {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        UsualPlaces::look_up(&find, files)
    }

    #[test]
    fn variables_come_before_files() {
        let set = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "ES"), ("AWS_REGION", "r")];
        let found = look_up(&set, FILES).unwrap();
        assert_eq!((found.credentials, found.region), (keys("E", "ES", None), Some("r".to_owned())));
    }

    #[test]
    fn profiles_are_read_from_both_files() {
        let found = look_up(&[], FILES).unwrap();
        assert_eq!(found.credentials, keys("D", "DS", None));
        assert_eq!((found.region.as_deref(), found.endpoint), (Some("eu-central-1"), None));

        let found = look_up(&[("AWS_PROFILE", "work")], FILES).unwrap();
        assert_eq!(found.credentials, keys("W", "WS=with=signs", Some("WT")));
        assert_eq!(found.region.as_deref(), Some("eu-west-3"));
        assert_eq!(found.endpoint.as_deref(), Some("https://s3.work.example"));
    }

    #[test]
    fn what_is_half_set_is_an_error_and_not_passed_over() {
        let error = look_up(&[("AWS_ACCESS_KEY_ID", "E")], FILES).unwrap_err().to_string();
        assert_eq!(error, "AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not");
        let error = look_up(&[("AWS_PROFILE", "half")], FILES).unwrap_err().to_string();
        assert_eq!(error, "aws_access_key_id is set, but aws_secret_access_key is not");
        let error = look_up(&[("AWS_PROFILE", "absent")], FILES).unwrap_err();
        assert_eq!(error, UsualPlacesError::NoProfile { profile: "absent".to_owned() });
    }

    #[test]
    fn roles_come_last() {
        let none = AwsFiles::default();
        assert_eq!(look_up(&[], none).unwrap().credentials, S3Credentials::Instance);
        let set = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")];
        let container = S3Credentials::Container { relative_uri: "/v2/x".to_owned() };
        assert_eq!(look_up(&set, none).unwrap().credentials, container);
        let set = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn")];
        let found = look_up(&set, none).unwrap().credentials;
        assert!(matches!(found, S3Credentials::WebIdentity { .. }), "{found:?}");
    }

    #[test]
    fn endpoints_and_regions_follow_the_server() {
        let bucket = |endpoint: Option<&str>| Bucket {
            endpoint: endpoint.map(str::to_owned),
            bucket: "b".to_owned(),
            prefix: String::new(),
        };
        let options = |endpoint| S3Options::new(bucket(endpoint), S3Credentials::Anonymous);
        let amazon = options(Some("https://s3.eu-west-1.amazonaws.com"));
        assert_eq!(amazon.region(), "eu-west-1");
        let url = amazon.endpoint_of_requests().unwrap().unwrap();
        assert_eq!(url, "https://b.s3.eu-west-1.amazonaws.com");
        assert_eq!(
            (options(None).region(), options(None).endpoint_of_requests()),
            ("us-east-1".to_owned(), Ok(None))
        );
        let other = options(Some("http://localhost:3900"));
        assert_eq!(other.endpoint_of_requests().unwrap().unwrap(), "http://localhost:3900");
        let forbidden = S3Options { allow_http: false, ..other };
        assert!(forbidden.endpoint_of_requests().unwrap_err().contains("without TLS"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!(
            "{:?}",
            S3Options::new(
                Bucket { endpoint: None, bucket: "b".to_owned(), prefix: String::new() },
                keys("id", "hidden", Some("hidden")),
            )
        );
        assert!(shown.contains("id") && !shown.contains("hidden"), "{shown}");
    }
}
