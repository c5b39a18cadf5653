//! The bucket store against a real server.

use std::cell::Cell;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use s3_for_tests::{ACCESS_KEY_ID, BUCKET, Garage, Moto, REGION, SECRET_ACCESS_KEY};
use store::conformance::{self, Promises};
use store::limit::Bandwidth;
use store::location::Bucket;
use store::retry::Budget;
use store::s3::{S3Credentials, S3Options};
use store::{ErrorKind, Limit, Retry, S3, Store};

use crate::keys;

fn options(garage: &Garage, prefix: &str) -> S3Options {
    let bucket =
        Bucket { endpoint: Some(garage.endpoint()), bucket: BUCKET.to_owned(), prefix: prefix.to_owned() };
    let credentials = S3Credentials::Keys {
        access_key_id: ACCESS_KEY_ID.to_owned(),
        secret_access_key: SECRET_ACCESS_KEY.to_owned(),
        session_token: None,
    };
    S3Options { region: Some(REGION.to_owned()), ..S3Options::new(bucket, credentials) }
}

fn open(garage: &Garage, prefix: &str) -> S3 {
    S3::open(&options(garage, prefix)).unwrap()
}

#[test]
fn conforms() {
    let garage = Garage::start();
    let next = Cell::new(0);
    // This version of Garage ignores the condition of a conditional write.
    let promises = Promises { exclusive_create: false };
    conformance::run(promises, &|| {
        next.set(next.get() + 1);
        Box::new(open(&garage, &format!("case/{}", next.get())))
    });
    // A prefix must hide what lies beside it, and the whole bucket shows everything.
    let all = keys(&open(&garage, ""));
    assert!(all.iter().any(|key| key == "case/1/a/b/c/d/e"), "{} objects", all.len());
    let wrapped = open(&garage, "wrapped");
    let limit = NonZeroU64::new(1 << 40);
    let wrapped = Limit::new(wrapped, Bandwidth { upload: limit, download: limit });
    conformance::read_back(&Retry::new(wrapped, Budget::DEFAULT));
}

#[test]
fn a_server_that_ignores_the_condition_is_found_out() {
    let garage = Garage::start();
    let store = open(&garage, "p");
    assert_eq!(store.has_exclusive_create(), None);
    store.create("locks/a", Bytes::from_static(b"a")).unwrap();
    assert_eq!(store.has_exclusive_create(), Some(false), "Garage has learned it: correct `conforms`");
    let error = store.create("locks/a", Bytes::from_static(b"b")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert_eq!(store.get("locks/a").unwrap(), b"a");
}

fn moto_options(moto: &Moto, prefix: &str) -> S3Options {
    let bucket =
        Bucket { endpoint: Some(moto.endpoint()), bucket: BUCKET.to_owned(), prefix: prefix.to_owned() };
    let credentials = S3Credentials::Keys {
        access_key_id: ACCESS_KEY_ID.to_owned(),
        secret_access_key: SECRET_ACCESS_KEY.to_owned(),
        session_token: None,
    };
    let certificate = std::fs::read(moto.certificate()).unwrap();
    S3Options {
        region: Some("us-east-1".to_owned()),
        root_certificates: Some(certificate),
        ..S3Options::new(bucket, credentials)
    }
}

#[test]
fn a_server_that_keeps_the_condition_excludes_over_tls() {
    let moto = Moto::start();
    let store = S3::open(&moto_options(&moto, "p")).unwrap();
    assert_eq!(store.has_exclusive_create(), None);
    store.create("locks/a", Bytes::from_static(b"a")).unwrap();
    assert_eq!(store.has_exclusive_create(), Some(true));
    // From now on the server alone decides: nobody looks first.
    let error = store.create("locks/a", Bytes::from_static(b"b")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    store.create("locks/b", Bytes::from_static(b"b")).unwrap();
    assert_eq!(store.get("locks/a").unwrap(), b"a");
    assert_eq!(keys(&store), ["locks/a", "locks/b"]);

    let other = S3::open(&moto_options(&moto, "p")).unwrap();
    let error = other.create("locks/b", Bytes::from_static(b"c")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert_eq!(other.get("locks/b").unwrap(), b"b");
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let moto = Moto::start();
    let store = S3::open(&S3Options { root_certificates: None, ..moto_options(&moto, "p") }).unwrap();
    let error = store.put("config", Bytes::from_static(b"c")).unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[test]
fn errors_are_told_apart() {
    let garage = Garage::start();
    let bucket = |name: &str| {
        let options = options(&garage, "");
        S3Options { bucket: Bucket { bucket: name.to_owned(), ..options.bucket }, ..options }
    };
    let missing = S3::open(&bucket("no-such-bucket")).unwrap();
    for result in [
        missing.get("config").map(drop),
        missing.size("config").map(drop),
        missing.put("config", Bytes::new()),
        missing.list("", &mut |_| Ok(())),
        missing.create("config", Bytes::new()),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Other, "{error}");
        assert!(error.to_string().contains("create the bucket first"), "{error}");
    }

    let wrong = S3Credentials::Keys {
        access_key_id: ACCESS_KEY_ID.to_owned(),
        secret_access_key: "0".repeat(64),
        session_token: None,
    };
    let store = S3::open(&S3Options { credentials: wrong, ..options(&garage, "") }).unwrap();
    for result in [
        store.get("config").map(drop),
        store.size("config").map(drop),
        store.put("config", Bytes::new()),
        store.delete("config"),
        store.list("", &mut |_| Ok(())),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied, "{error}");
        assert!(!error.to_string().contains("000000"), "{error}");
    }
}

#[test]
fn a_server_that_goes_away_is_unavailable_and_retried() {
    let mut garage = Garage::start();
    let store = open(&garage, "r");
    store.put("config", Bytes::from_static(b"c")).unwrap();
    garage.stop();
    let begin = Instant::now();
    for result in [
        store.get("config").map(drop),
        store.size("config").map(drop),
        store.put("config", Bytes::new()),
        store.create("other", Bytes::new()),
        store.delete("config"),
        store.list("", &mut |_| Ok(())),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        // A request may still go out on a kept connection, and break there.
        let why = error.to_string();
        assert!(why.contains("cannot connect") || why.contains("the connection broke"), "{why}");
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());

    let failures = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = failures.clone();
    let retrying = Retry::new(store, Budget { first_delay: Duration::from_millis(100), ..Budget::DEFAULT })
        .observed_by(Arc::new(move |_, _| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| retrying.get("config").unwrap());
        std::thread::sleep(Duration::from_millis(500));
        garage.start_again();
        assert_eq!(reader.join().unwrap(), b"c");
    });
    assert!(failures.load(std::sync::atomic::Ordering::Relaxed) > 0);
}
