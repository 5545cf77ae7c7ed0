//! Tests of the whole: the built binary with real Envoys and etcd, as processes on loopback addresses.
#![allow(clippy::unwrap_used, reason = "this crate is tests and their tools: a failed unwrap is a failed test")]

mod harness;
mod harness_works;

mod accepted;
mod attacks;
mod change;
mod corner;
mod csds;
mod failover;
mod faults;
mod features;
mod fleet;
mod flow;
mod forms;
mod grpc;
mod hostile;
mod https;
mod load;
mod rotation;
mod moves;
mod outage;
mod roles;
mod sharing;
mod stack;
mod swarm;
mod tiers;
mod tour;
mod validate;
mod vhosts;
mod world;
mod xds_client;
