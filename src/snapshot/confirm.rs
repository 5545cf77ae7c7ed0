//! The second arrow against the flow: streams ask whether the replica has read everything, one probe answers them all.

use std::future::Future;

use tokio::sync::watch;

/// Who asks, and how far the answers are. Probes are numbered; one that began before a question says nothing about it.
#[derive(Debug)]
pub(super) struct Confirmations {
    /// The probe that is wanted, and the last one that began.
    wanted: watch::Sender<(u64, u64)>,
    /// The last one that ended, and what it found.
    ended: watch::Sender<(u64, bool)>,
}

impl Default for Confirmations {
    fn default() -> Self {
        Self { wanted: watch::Sender::new((0, 0)), ended: watch::Sender::new((0, false)) }
    }
}

impl Confirmations {
    /// Asks at once; the future waits for the answer, and is false if there is nobody to give one.
    pub(super) fn ask(&self) -> impl Future<Output = bool> + Send + 'static {
        let mut number = 0;
        self.wanted.send_if_modified(|(wanted, begun)| {
            number = *begun + 1;
            let new = *wanted < number;
            *wanted = number.max(*wanted);
            new
        });
        let mut ended = self.ended.subscribe();
        async move { ended.wait_for(|(done, _)| *done >= number).await.is_ok_and(|answer| answer.1) }
    }

    /// Waits until somebody asks; the probe begins when this returns its number. Safe to cancel.
    pub(super) async fn next(&self) -> u64 {
        loop {
            let mut begin = None;
            self.wanted.send_if_modified(|(wanted, begun)| {
                if *wanted > *begun {
                    *begun = *wanted;
                    begin = Some(*wanted);
                }
                false
            });
            if let Some(number) = begin {
                return number;
            }
            // The sender is ours, so this cannot fail; what is asked in between is seen at once.
            drop(self.wanted.subscribe().wait_for(|(wanted, begun)| wanted > begun).await);
        }
    }

    /// What the probe of that number found.
    pub(super) fn answer(&self, number: u64, confirmed: bool) {
        self.ended.send_replace((number, confirmed));
    }
}
