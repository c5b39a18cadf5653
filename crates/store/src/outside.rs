//! A store that is always reached by threads of its own, whichever thread asks.
//!
//! A thread may live in another mount namespace than the process (a drill's twin), and would see a store that is a
//! directory of this host through an overlay: a lock that it wrote there would be seen by nobody else. So every
//! request is carried out by a thread that was started where [`Outside::new`] was called.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use crate::{Error, ErrorKind, Object, Result, Store};
use bytes::Bytes;

/// Hands every request to threads that were started when it was made.
#[derive(Debug)]
pub struct Outside {
    store: Arc<dyn Store>,
    requests: Sender<Request>,
}

type Request = Box<dyn FnOnce(&dyn Store) + Send>;

/// More threads than a store is asked by at once would only wait.
const THREADS_MAX: usize = 32;

impl Outside {
    /// Starts the threads, where the calling thread lives.
    pub fn new(store: Arc<dyn Store>) -> Self {
        let (requests, queue) = channel::<Request>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..store.parallelism().clamp(2, THREADS_MAX) {
            let (store, queue) = (Arc::clone(&store), Arc::clone(&queue));
            std::thread::spawn(move || serve(&*store, &queue));
        }
        Self { store, requests }
    }

    fn ask<T: Send + 'static>(
        &self,
        key: &str,
        request: impl FnOnce(&dyn Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = channel();
        let request: Request = Box::new(move |store| {
            // Nobody waits any more when the asking thread has died.
            let _gone = answer.send(request(store));
        });
        let lost = || {
            let what = "the thread that reaches the store has died";
            Error::new(ErrorKind::Other, "reach", key, self.store.location(), what)
        };
        self.requests.send(request).map_err(|_| lost())?;
        answered.recv().map_err(|_| lost())?
    }
}

fn serve(store: &dyn Store, queue: &Mutex<Receiver<Request>>) {
    loop {
        let next = queue.lock().expect("no thread panics while it waits").recv();
        match next {
            Ok(request) => request(store),
            Err(_) => return,
        }
    }
}

impl Store for Outside {
    fn location(&self) -> String {
        self.store.location()
    }

    fn put(&self, key: &str, data: Bytes) -> Result<()> {
        let own = key.to_owned();
        self.ask(key, move |store| store.put(&own, data))
    }

    fn create(&self, key: &str, data: Bytes) -> Result<()> {
        let own = key.to_owned();
        self.ask(key, move |store| store.create(&own, data))
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        let own = key.to_owned();
        self.ask(key, move |store| store.get(&own))
    }

    fn get_range(&self, key: &str, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
        let (own, mut carried) = (key.to_owned(), std::mem::take(buffer));
        let (result, carried) = self.ask(key, move |store| {
            let result = store.get_range(&own, range, &mut carried);
            Ok((result, carried))
        })?;
        *buffer = carried;
        result
    }

    fn size(&self, key: &str) -> Result<u64> {
        let own = key.to_owned();
        self.ask(key, move |store| store.size(&own))
    }

    fn list(&self, prefix: &str, found: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        let own = prefix.to_owned();
        let objects = self.ask(prefix, move |store| {
            let mut objects = Vec::new();
            store.list(&own, &mut |object| {
                objects.push(object);
                Ok(())
            })?;
            Ok(objects)
        })?;
        objects.into_iter().try_for_each(found)
    }

    fn delete(&self, key: &str) -> Result<()> {
        let own = key.to_owned();
        self.ask(key, move |store| store.delete(&own))
    }

    fn parallelism(&self) -> usize {
        self.store.parallelism()
    }
}
