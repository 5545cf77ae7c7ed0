//! Loopback addresses: every holder gets a block 127.x.y.0/24 of its own, so that fixed ports never collide.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// The port on a block's last address whose listener says, to other test processes too, that the block is taken.
const LOCK_PORT: u16 = 64_999;

/// A block of loopback addresses, its own while this lives.
pub(crate) struct Addresses {
    block: [u8; 2],
    next: AtomicU8,
    _lock: TcpListener,
}

impl Addresses {
    /// A block that nobody else on this machine holds.
    pub(crate) fn next() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        // 127.0 is left to everybody else; the process id keeps two test processes from the same first guesses.
        let salt = std::process::id().wrapping_mul(97);
        for _ in 0..1_000 {
            let number = salt.wrapping_add(COUNTER.fetch_add(1, Ordering::Relaxed)) % (254 * 256);
            let block = [u8::try_from(number / 256 + 1).unwrap(), u8::try_from(number % 256).unwrap()];
            if let Ok(lock) = TcpListener::bind((Ipv4Addr::new(127, block[0], block[1], 254), LOCK_PORT)) {
                return Self { block, next: AtomicU8::new(1), _lock: lock };
            }
        }
        panic!("no block of loopback addresses is free");
    }

    /// The next unused address of the block.
    pub(crate) fn take(&self) -> Ipv4Addr {
        let host = self.next.fetch_add(1, Ordering::Relaxed);
        assert!(host < 254, "the block has 253 addresses");
        Ipv4Addr::new(127, self.block[0], self.block[1], host)
    }
}
