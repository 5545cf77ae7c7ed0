//! What happens seldom, to a task that is woken often.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use crate::snapshot::Wake;

/// A future that is polled when it was woken, and not whenever its task is: a task that waits for several things beside
/// its work would look at each of them ten thousand times for what happens once.
pub(super) struct Seldom<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    /// Set when it has to be polled.
    wake: Arc<Wake>,
}

impl<'a, T> Seldom<'a, T> {
    pub(super) fn new(future: impl Future<Output = T> + Send + 'a) -> Self {
        let wake = Arc::<Wake>::default();
        wake.wake();
        Self { future: Box::pin(future), wake }
    }
}

impl<T> Future for Seldom<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        ready!(self.wake.poll(context));
        let waker = Waker::from(Arc::clone(&self.wake));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicU32, Ordering::Relaxed},
    };

    use futures::FutureExt;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_at_first_and_when_it_is_woken_and_not_when_its_task_is() {
        let (polled, notify) = (AtomicU32::new(0), Notify::new());
        let mut notified = Box::pin(notify.notified());
        let mut seldom = Seldom::new(poll_fn(|context| {
            polled.fetch_add(1, Relaxed);
            notified.as_mut().poll(context)
        }));
        for _ in 0..3 {
            assert!((&mut seldom).now_or_never().is_none());
        }
        assert_eq!(polled.load(Relaxed), 1);
        notify.notify_one();
        seldom.await;
        assert_eq!(polled.load(Relaxed), 2);
    }
}
