//! The xDS server: sessions decide, fan-outs share frames, the service moves bytes, the intake admits.

pub mod csds;
pub mod fanout;
pub mod intake;
pub mod lrs;
mod machine;
pub mod service;
pub mod session;
mod signals;
pub mod sotw;
mod stream;
#[cfg(test)]
mod tests;
mod wire;
