//! What the process and the fleet tell a stream, each rarely: waited for once, not again whenever the stream is woken.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio_util::sync::CancellationToken;

use super::{seldom::Seldom, service::Fleet};

/// What a stream was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// The process stops.
    Stop,
    /// A newer stream of the proxy took over.
    Replaced,
    /// The sites changed.
    Sites,
    /// A watermark changed.
    Watermarks,
    /// The store's changes arrive again, or no more.
    Fresh,
}

/// The next signal, of those that a stream waits for.
pub(super) struct Signals {
    stop: CancellationToken,
    replaced: CancellationToken,
    next: Option<Seldom<'static, Signal>>,
    /// Whether `next` waits for watermarks too.
    watermarks: bool,
}

impl Signals {
    pub(super) fn new(stop: CancellationToken, replaced: CancellationToken) -> Self {
        Self { stop, replaced, next: None, watermarks: false }
    }

    /// Ready with the next signal; `watermarks` says whether theirs count. What `fleet` has seen is not told again.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, fleet: &Fleet, watermarks: bool) -> Poll<Signal> {
        if watermarks != self.watermarks {
            self.next = None;
        }
        self.watermarks = watermarks;
        let (stop, replaced) = (&self.stop, &self.replaced);
        let next = self
            .next
            .get_or_insert_with(|| Seldom::new(next(stop.clone(), replaced.clone(), fleet.clone(), watermarks)));
        let signal = ready!(Pin::new(next).poll(context));
        self.next = None;
        Poll::Ready(signal)
    }
}

/// A channel whose sender is gone is one that stops.
async fn next(stop: CancellationToken, replaced: CancellationToken, mut fleet: Fleet, watermarks: bool) -> Signal {
    let told = |told: Result<(), _>, signal| told.map_or(Signal::Stop, |()| signal);
    tokio::select! {
        () = stop.cancelled() => Signal::Stop,
        () = replaced.cancelled() => Signal::Replaced,
        changed = fleet.sites.changed() => told(changed, Signal::Sites),
        changed = fleet.watermarks.changed(), if watermarks => told(changed, Signal::Watermarks),
        changed = fleet.fresh.changed() => told(changed, Signal::Fresh),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Waker};

    use tokio::sync::watch;

    use super::*;

    #[test]
    fn each_change_is_told_once_and_watermarks_only_to_who_waits_for_them() {
        let (sites, sites_seen) = watch::channel(Arc::default());
        let (watermarks, watermarks_seen) = watch::channel(Arc::default());
        let (_fresh, fresh_seen) = watch::channel(true);
        let mut fleet = Fleet { sites: sites_seen, watermarks: watermarks_seen, fresh: fresh_seen };
        let mut signals = Signals::new(CancellationToken::new(), CancellationToken::new());
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            assert!(signals.poll(&mut context, &fleet, true).is_pending());
            watermarks.send_replace(Arc::default());
            assert_eq!(signals.poll(&mut context, &fleet, true), Poll::Ready(Signal::Watermarks));
            fleet.watermarks.mark_unchanged();
            // What is waited for no more is told no more.
            assert!(signals.poll(&mut context, &fleet, true).is_pending());
            assert!(signals.poll(&mut context, &fleet, false).is_pending());
            watermarks.send_replace(Arc::default());
            assert!(signals.poll(&mut context, &fleet, false).is_pending());
            fleet.watermarks.mark_unchanged();
            for _ in 0..2 {
                sites.send_replace(Arc::default());
                assert_eq!(signals.poll(&mut context, &fleet, false), Poll::Ready(Signal::Sites));
                fleet.sites.mark_unchanged();
            }
        }
    }
}
