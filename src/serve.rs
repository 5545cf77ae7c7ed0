//! The xDS server: sessions decide, fan-outs share frames, the service moves bytes, the intake admits.

mod absent;
pub mod csds;
mod doubts;
pub mod fanout;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod intake;
pub mod lrs;
mod machine;
mod requests;
mod seldom;
pub mod service;
pub mod session;
mod signals;
pub mod sotw;
mod stream;
#[cfg(test)]
mod tests;
mod wire;
