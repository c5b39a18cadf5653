//! A pool of tasks that several workers share, the newest task first.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// Tasks waiting, and how many are being done.
pub(super) struct Pool<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    waiting: Vec<T>,
    active: usize,
    stopped: bool,
}

impl<T> Pool<T> {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State { waiting: Vec::new(), active: 0, stopped: false }),
            changed: Condvar::new(),
        }
    }

    /// Adds tasks; the last is done first.
    pub fn push(&self, tasks: impl IntoIterator<Item = T>) {
        let mut state = self.state.lock().expect("no holder panics");
        state.waiting.extend(tasks);
        drop(state);
        self.changed.notify_all();
    }

    /// Does tasks until none is left and none is being done, or the pool is stopped.
    pub fn work(&self, mut task: impl FnMut(T)) {
        let mut state = self.state.lock().expect("no holder panics");
        loop {
            if state.stopped {
                return;
            }
            if let Some(next) = state.waiting.pop() {
                state.active += 1;
                drop(state);
                task(next);
                state = self.state.lock().expect("no holder panics");
                state.active -= 1;
                if state.active == 0 && state.waiting.is_empty() {
                    self.changed.notify_all();
                }
            } else if state.active == 0 {
                return;
            } else {
                state = self.changed.wait(state).expect("no holder panics");
            }
        }
    }

    /// Keeps idle workers waiting for tasks to come, until [`release`](Self::release).
    pub fn hold(&self) {
        self.state.lock().expect("no holder panics").active += 1;
    }

    /// Takes back a [`hold`](Self::hold).
    pub fn release(&self) {
        self.state.lock().expect("no holder panics").active -= 1;
        self.changed.notify_all();
    }

    /// Makes all workers return after their present task.
    pub fn stop(&self) {
        self.state.lock().expect("no holder panics").stopped = true;
        self.changed.notify_all();
    }

    /// Waits until the workers have nothing left to do or are stopped, at most `limit`; tells whether that is so.
    pub fn wait(&self, limit: Duration) -> bool {
        let state = self.state.lock().expect("no holder panics");
        let busy = |state: &mut State<T>| !state.stopped && (state.active > 0 || !state.waiting.is_empty());
        let (mut state, _) = self.changed.wait_timeout_while(state, limit, busy).expect("no holder panics");
        !busy(&mut state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn does_every_task_once_though_tasks_add_tasks() {
        let pool = Pool::new();
        let done = AtomicU32::new(0);
        pool.push([10u32]);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    pool.work(|task| {
                        done.fetch_add(1, Ordering::Relaxed);
                        if task > 0 {
                            pool.push([task - 1, task - 1]);
                        }
                    });
                });
            }
            assert!(pool.wait(Duration::from_secs(60)));
        });
        assert_eq!(done.into_inner(), (1 << 11) - 1);
    }

    #[test]
    fn stops() {
        let pool = Pool::new();
        pool.push(0..1000);
        let mut done = 0;
        pool.work(|_| {
            done += 1;
            pool.stop();
        });
        assert_eq!(done, 1);
    }
}
