//! Whoever waits is woken when there is something, and not before.

use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Wake, Waker},
};

use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn whoever_waits_for_questions_is_woken_by_the_first_and_by_no_other() {
    let views = Views::default();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    {
        let mut probe = pin!(views.probe());
        assert!(probe.as_mut().poll(&mut context).is_pending());
        // Whoever only gives way to others is woken now.
        tokio::task::yield_now().await;
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "it does not go round and round");
    }
    let ask = async {
        tokio::task::yield_now().await;
        [views.confirm(), views.confirm()]
    };
    let both = async { tokio::join!(views.probe(), ask) };
    let (probe, asked) = timeout(SOON, both).await.expect("it is woken");
    views.confirmed(probe, true);
    for question in asked {
        assert!(timeout(SOON, question).await.expect("an answer"));
    }
    let mut next = pin!(views.probe());
    assert!(next.as_mut().poll(&mut context).is_pending(), "nobody has asked since");
}

#[test]
fn a_stream_that_ends_is_kept_by_nothing_that_it_followed() {
    let views = Views::default();
    let reader = views.open(&audience());
    let woken = Arc::new(Woken::default());
    let group = reader.view().read().join(Cluster, &Arc::default());
    for follows in [None, Some([&group])] {
        let mut seat = reader.seat();
        seat.follow(follows.map(IntoIterator::into_iter), &reader.view().read());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(seat.poll_woken(&Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(Arc::strong_count(&woken), 1);
}

#[test]
fn a_publish_wakes_whoever_follows_the_view_when_something_changed() {
    let views = Views::default();
    let reader = views.open(&audience());
    let published = reader.view().subscribe();
    let publish = |seq, changes| {
        reader.view().publish(Seq(seq), Revision(seq), changes);
    };
    publish(1, up(vec![]));
    assert!(published.has_changed().unwrap(), "it is ready, and empty");
    let mut published = reader.view().subscribe();
    publish(2, up(vec![resource(Cluster, "a", "1")]));
    assert!(published.has_changed().unwrap());
    published.mark_unchanged();
    publish(3, up(vec![resource(Cluster, "a", "1")]));
    publish(4, down(Cluster, "unknown"));
    publish(5, up(vec![]));
    assert!(!published.has_changed().unwrap(), "nothing that anybody sees");
    assert_eq!(reader.view().revision(), Revision(5), "and yet it is in it");
    publish(6, down(Cluster, "a"));
    assert!(published.has_changed().unwrap());
}

#[test]
fn a_cursor_that_is_just_older_than_the_log_misses_nothing() {
    let views = Views::default();
    let reader = views.open(&audience());
    let publish = |name: &str, payload: u64| {
        let one = Resource::new(Cluster, name, payload.to_string().into());
        reader.view().publish(views.next_seq(), Revision(1), up(vec![one]));
        reader.view().read().seq().0
    };
    let first = publish("early", 0);
    publish("after", 0);
    for payload in 0..5_000 {
        publish("busy", payload);
    }
    let last = publish("busy", 5_000);
    let content = reader.view().read();
    assert_eq!(names(&content, Cluster, first), ["after", "busy"]);
    assert_eq!(names(&content, Cluster, first + 1), ["busy"]);
    assert_eq!(names(&content, Cluster, last - 1), ["busy"]);
    assert!(names(&content, Cluster, last).is_empty());
}
