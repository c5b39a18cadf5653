//! Retention against real repositories: refusals, what stays, crashes.
