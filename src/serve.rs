//! The xDS server: sessions decide, fan-outs share frames, the service moves bytes, the intake admits.

pub mod fanout;
pub mod intake;
mod machine;
pub mod service;
pub mod session;
pub mod sotw;
mod stream;
#[cfg(test)]
mod tests;
mod wire;
