//! How a bucket is reached: options, and the places where Amazon's own tools look.

use std::path::PathBuf;
use std::sync::Arc;

use store::limit::Bandwidth;
use store::location::Bucket;
use store::s3::{AwsFiles, S3Options, UsualPlaces};
use store::{Limit, Retry, S3, Store};

use crate::environment;
use crate::outcome::Failure;
use crate::ui::Ui;

/// How a bucket is reached; who asks is found where Amazon's own tools look.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "S3 (keys: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws)")]
pub struct S3Args {
    /// The server of an s3://BUCKET location [env: AWS_ENDPOINT_URL]
    #[arg(long, global = true, hide_short_help = true, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// The region to sign for [env: AWS_REGION]
    #[arg(long, global = true, hide_short_help = true, value_name = "REGION")]
    pub s3_region: Option<String>,
    /// Name the bucket in the path of URLs, also with Amazon
    #[arg(long, global = true, hide_short_help = true)]
    pub s3_path_style: bool,
    /// Trust the certificates in this PEM file as well
    #[arg(long, global = true, hide_short_help = true, value_name = "FILE")]
    pub s3_ca_file: Option<PathBuf>,
}

/// Opens the bucket, with retry around the limit so that what is sent again counts as well.
pub fn open(
    bucket: &Bucket,
    args: &S3Args,
    bandwidth: Bandwidth,
    ui: &Ui,
) -> Result<Arc<dyn Store>, Failure> {
    let options = resolve(bucket, args)?;
    let store = S3::open(&options)?;
    let ui = ui.clone();
    let retry = Retry::new(Limit::new(store, bandwidth), store::retry::Budget::DEFAULT);
    Ok(Arc::new(retry.observed_by(Arc::new(move |error, pause| ui.retry(error, pause)))))
}

fn resolve(bucket: &Bucket, args: &S3Args) -> Result<S3Options, Failure> {
    let file = |variable: &str, name: &str| {
        let home = || environment::path("HOME").map(|home| home.join(".aws").join(name));
        let path = environment::path(variable).or_else(home)?;
        std::fs::read_to_string(path).ok()
    };
    let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
    let config = file("AWS_CONFIG_FILE", "config");
    let files = AwsFiles { credentials: credentials.as_deref(), config: config.as_deref() };
    let places = UsualPlaces::look_up(&environment::text, files)
        .map_err(|error| Failure::usage(error.to_string(), "set both, or neither and use AWS_PROFILE"))?;

    let mut bucket = bucket.clone();
    bucket.endpoint = bucket.endpoint.or_else(|| args.s3_endpoint.clone());
    let mut options = places.options(bucket);
    options.region = args.s3_region.clone().or(options.region);
    options.path_style |= args.s3_path_style;
    if let Some(path) = &args.s3_ca_file {
        let pem = std::fs::read(path).map_err(|error| Failure::Usage {
            message: format!("failed to read {}: {error}", path.display()),
            hints: Vec::new(),
        })?;
        options.root_certificates = Some(pem);
    }
    Ok(options)
}
