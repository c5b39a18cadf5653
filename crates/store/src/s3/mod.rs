//! The store in a bucket of S3, or of any server that speaks its protocol.
//!
//! An object's key is the bucket's key, below an optional prefix. The client library is asynchronous; a small
//! runtime of our own hides that, so the methods block and must not be called from within another runtime's
//! task.
//!
//! **Create.** The condition `If-None-Match: *` makes it exclusive. Many servers ignore that condition and
//! overwrite, so the first successful `create` of a store is sent twice: a server that knows the condition
//! refuses the second. One that does not (Garage 2 among them) gets a look before each write instead, and of
//! two creators within the same round trip both may succeed then;
//! [`S3::has_exclusive_create`] tells.
//!
//! **Retry.** None in here ([`Retry`](crate::Retry) does it); requests have the time limits below.

mod http;
mod options;

use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    Certificate, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    RetryConfig,
};
use tokio::runtime::Runtime;

pub use self::options::{AwsFiles, S3Credentials, S3Options, UsualPlaces, UsualPlacesError};

use crate::{Error, ErrorKind, Object, Result, Store, key};

/// A server that cannot be connected to in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent while an answer is read.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one request may take altogether: 128 MiB, the largest pack, at 250 kB/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(9 * 60);
/// Connections that have been idle for longer are often cut by firewalls without notice.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Threads that move bytes and encrypt them; more than this outruns any network that two of them cannot fill.
const RUNTIME_THREADS: usize = 2;

/// The largest object that is read whole; far above any that is written here.
const OBJECT_BYTES_MAX: u64 = 4 << 30;

/// Requests at once that make up for the latency of a network.
const PARALLELISM: usize = 16;

/// Keeps each object in a bucket.
#[derive(Debug)]
pub struct S3 {
    client: AmazonS3,
    runtime: Runtime,
    location: String,
    /// The prefix with a slash at its end, or empty.
    prefix: String,
    condition: AtomicU8,
}

/// What is known about the server and `If-None-Match`.
const CONDITION_UNKNOWN: u8 = 0;
const CONDITION_KEPT: u8 = 1;
const CONDITION_IGNORED: u8 = 2;

impl S3 {
    /// Prepares the connection; the server is not asked before the first operation.
    pub fn open(options: &S3Options) -> Result<Self> {
        let location = options.bucket.to_string();
        let fail = |reason: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Other, "open", "", location.clone(), reason)
        };
        let prefix = &options.bucket.prefix;
        if !prefix.is_empty() && !key::is_key(prefix) {
            return Err(fail("the prefix may hold letters, digits, '.', '_' and '-' between slashes".into()));
        }
        let client = client(options).map_err(fail)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("store-s3")
            .enable_all()
            .build()
            .map_err(|error| fail(Box::new(error)))?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { client, runtime, location, prefix, condition: AtomicU8::new(CONDITION_UNKNOWN) })
    }

    /// Whether `create` excludes others on this server; `None` before the first object was created.
    pub fn has_exclusive_create(&self) -> Option<bool> {
        match self.condition.load(Ordering::Relaxed) {
            CONDITION_KEPT => Some(true),
            CONDITION_IGNORED => Some(false),
            _ => None,
        }
    }

    fn path(&self, key: &str) -> Path {
        // Keys consist of letters that the library leaves as they are.
        Path::from(format!("{}{key}", self.prefix))
    }

    fn write(&self, key: &str, data: Bytes, mode: PutMode) -> Result<()> {
        let options = PutOptions { mode, ..PutOptions::default() };
        let written = self.runtime.block_on(self.client.put_opts(&self.path(key), data.into(), options));
        written.map(drop).map_err(|error| self.error("write", key, error))
    }

    /// Writes on the condition that the object does not exist, and learns whether the server minds it.
    fn write_if_absent(&self, key: &str, data: Bytes) -> Result<()> {
        let keeps_condition = |kept: bool| {
            let known = if kept { CONDITION_KEPT } else { CONDITION_IGNORED };
            self.condition.store(known, Ordering::Relaxed);
        };
        match self.write(key, data.clone(), PutMode::Create) {
            Err(error) if error.kind == ErrorKind::AlreadyExists => {
                keeps_condition(true);
                Err(error)
            }
            Ok(()) if self.has_exclusive_create().is_none() => {
                match self.write(key, data, PutMode::Create) {
                    Ok(()) => keeps_condition(false),
                    Err(error) if error.kind == ErrorKind::AlreadyExists => keeps_condition(true),
                    // The object is written; what the server thinks can be learned another time.
                    Err(_) => {}
                }
                Ok(())
            }
            done => done,
        }
    }

    /// Reads the object, or a range of it, into `buffer`.
    fn read(&self, key: &str, range: Option<&Range<u64>>, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.clear();
        let fail = |kind, reason: String| Error::new(kind, "read", key, self.location.clone(), reason);
        let options = GetOptions { range: range.cloned().map(GetRange::Bounded), ..GetOptions::default() };
        let read = async {
            let library = |error| self.error("read", key, error);
            let found = self.client.get_opts(&self.path(key), options).await.map_err(library)?;
            let comes = found.range.end.saturating_sub(found.range.start);
            if let Some(range) = range
                && comes != range.end - range.start
            {
                let reason = format!("bytes {} to {} wanted, {comes} come", range.start, range.end);
                return Err(fail(ErrorKind::Truncated, reason));
            }
            // What the server announces is believed only as far as it can be held.
            let room = usize::try_from(comes).ok().filter(|_| comes <= OBJECT_BYTES_MAX);
            if room.is_none_or(|room| buffer.try_reserve_exact(room).is_err()) {
                return Err(fail(ErrorKind::Other, format!("{comes} bytes do not fit into memory")));
            }
            let mut chunks = found.into_stream();
            while let Some(chunk) = chunks.next().await {
                buffer.extend_from_slice(&chunk.map_err(library)?);
                if buffer.len() as u64 > comes {
                    break;
                }
            }
            if buffer.len() as u64 != comes {
                let reason = format!("{} bytes came, {comes} were announced", buffer.len());
                return Err(fail(ErrorKind::Unavailable, reason));
            }
            Ok(())
        };
        self.runtime.block_on(read)
    }

    fn error(&self, operation: &'static str, key: &str, error: object_store::Error) -> Error {
        let (kind, reason) = http::classify(error);
        Error::new(kind, operation, key, self.location.clone(), reason)
    }
}

impl Store for S3 {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn put(&self, key: &str, data: Bytes) -> Result<()> {
        key::check("write", key, || self.location())?;
        self.write(key, data, PutMode::Overwrite)
    }

    fn create(&self, key: &str, data: Bytes) -> Result<()> {
        key::check("write", key, || self.location())?;
        if self.has_exclusive_create() != Some(true) {
            match self.size(key) {
                Ok(_) => {
                    let reason = "the object exists already";
                    let location = self.location.clone();
                    return Err(Error::new(ErrorKind::AlreadyExists, "write", key, location, reason));
                }
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(Error { operation: "write", ..error }),
            }
        }
        self.write_if_absent(key, data)
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        key::check("read", key, || self.location())?;
        let mut buffer = Vec::new();
        self.read(key, None, &mut buffer)?;
        Ok(buffer)
    }

    fn get_range(&self, key: &str, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.clear();
        key::check("read", key, || self.location())?;
        if range.is_empty() {
            // There is no such request, but the object has to exist.
            return self.size(key).map(drop);
        }
        self.read(key, Some(&range), buffer)
    }

    fn size(&self, key: &str) -> Result<u64> {
        key::check("read", key, || self.location())?;
        match self.runtime.block_on(self.client.head(&self.path(key))) {
            Ok(meta) => Ok(meta.size),
            Err(error) => match self.error("read", key, error) {
                // The answer to HEAD has no text that would tell a missing object from a missing bucket.
                // (When the object has appeared in between, its bytes tell the size as well.)
                e if e.kind == ErrorKind::NotFound => self.get(key).map(|data| data.len() as u64),
                e => Err(e),
            },
        }
    }

    fn list(&self, prefix: &str, found: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        key::check_prefix(prefix, || self.location())?;
        let below = if prefix.is_empty() { self.prefix.clone() } else { format!("{}{prefix}/", self.prefix) };
        let mut page_token = None;
        loop {
            let options = PaginatedListOptions { page_token, ..PaginatedListOptions::default() };
            let page = self.client.list_paginated(Some(below.as_str()).filter(|p| !p.is_empty()), options);
            let page = self.runtime.block_on(page).map_err(|error| self.error("list", prefix, error))?;
            for meta in page.result.objects {
                // What no key can name was put there by someone else.
                if let Some(key) = meta.location.as_ref().strip_prefix(&self.prefix)
                    && key::is_key(key)
                {
                    found(Object { key: key.to_owned(), size: meta.size })?;
                }
            }
            page_token = page.page_token;
            if page_token.is_none() {
                return Ok(());
            }
        }
    }

    fn delete(&self, key: &str) -> Result<()> {
        key::check("delete", key, || self.location())?;
        match self.runtime.block_on(self.client.delete(&self.path(key))) {
            Ok(()) => Ok(()),
            Err(error) => match self.error("delete", key, error) {
                error if error.kind == ErrorKind::NotFound => Ok(()),
                error => Err(error),
            },
        }
    }

    fn parallelism(&self) -> usize {
        PARALLELISM
    }
}

/// Builds the client that the options describe.
fn client(options: &S3Options) -> std::result::Result<AmazonS3, Box<dyn std::error::Error + Send + Sync>> {
    // Without a provider set for the process, the TLS library panics. Whoever has set one before us may keep
    // it.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut client = ClientOptions::new()
        .with_allow_http(options.allow_http)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_read_timeout(READ_TIMEOUT)
        .with_timeout(REQUEST_TIMEOUT)
        .with_pool_idle_timeout(IDLE_TIMEOUT);
    if let Some(pem) = &options.root_certificates {
        for certificate in Certificate::from_pem_bundle(pem)? {
            client = client.with_root_certificate(certificate);
        }
    }
    if let Some(proxy) = &options.proxy {
        client = client.with_proxy_url(proxy);
    }
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let builder = AmazonS3Builder::new()
        .with_http_connector(http::Connector)
        .with_client_options(client)
        .with_retry(retry)
        .with_bucket_name(&options.bucket.bucket)
        .with_region(options.region())
        .with_virtual_hosted_style_request(!options.path_style);
    let builder = match options.endpoint_of_requests()? {
        Some(endpoint) => builder.with_endpoint(endpoint),
        None => builder,
    };
    let builder = options.credentials.apply(builder);
    Ok(builder.build()?)
}
