//! How many connections there may be: in total, and from one address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The places of a listener.
#[derive(Debug)]
pub(super) struct Places {
    total: usize,
    per_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All places are taken.
    Total,
    /// This address has all that one may have.
    Address,
}

impl Places {
    pub(super) fn new(total: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self { total, per_address, taken: Mutex::default() })
    }

    /// Takes a place for a connection from `address`.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let address = one_host(address);
        let mut taken = self.taken();
        if taken.total >= self.total {
            return Err(Full::Total);
        }
        let own = taken.by_address.entry(address).or_default();
        if *own >= self.per_address {
            return Err(Full::Address);
        }
        *own += 1;
        taken.total += 1;
        drop(taken);
        Ok(Place { places: Arc::clone(self), address })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever has one address of an IPv6 network of 64 bits has them all.
pub(super) fn one_host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.total = taken.total.saturating_sub(1);
        if let Some(own) = taken.by_address.get_mut(&self.address) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_in_total_and_by_address_and_come_back() {
        let places = Places::new(3, 2);
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let first = places.take(one).unwrap();
        let _second = places.take(one).unwrap();
        assert_eq!(places.take(one).unwrap_err(), Full::Address);
        let third = places.take(other).unwrap();
        assert_eq!(places.take(other).unwrap_err(), Full::Total);
        drop((first, third));
        let _again = places.take(one).unwrap();
        assert_eq!(places.taken().by_address.len(), 1, "nothing is kept of an address without connections");
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let places = Places::new(9, 1);
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let _one = places.take(address("2001:db8:0:1::1")).unwrap();
        assert_eq!(places.take(address("2001:db8:0:1:ffff::2")).unwrap_err(), Full::Address);
        let _other = places.take(address("2001:db8:0:2::1")).unwrap();
        let _v4 = places.take(address("::ffff:10.0.0.1")).unwrap();
        assert_eq!(places.take(address("10.0.0.1")).unwrap_err(), Full::Address);
    }
}
