//! What is measured: servers and a generator are started, pinned, told what to do, and read from `/proc`.

mod cell;
mod chart;
mod etcd;
mod generator;
mod path;
mod process;
mod report;
mod runs;
mod server;
mod storms;
mod tidegate;

pub use self::runs::{Plan, run};
