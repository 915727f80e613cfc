//! The store from outside: what comes back, after which accidents.

mod cache;
mod disk_full;
mod kill;
mod loads;
mod model;
mod reopen;
mod retention;
mod torn;
mod world;
