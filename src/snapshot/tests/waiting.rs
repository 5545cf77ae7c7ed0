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
fn a_wake_is_a_waker_and_ready_once_for_all_that_woke_it() {
    let wake = Arc::new(crate::snapshot::Wake::default());
    let (context, waker) = (Context::from_waker(Waker::noop()), Waker::from(Arc::clone(&wake)));
    let seen = || [wake.poll(&context).is_ready(), wake.poll(&context).is_ready()];
    waker.wake_by_ref();
    assert_eq!(seen(), [true, false]);
    waker.wake_by_ref();
    waker.wake();
    assert_eq!(seen(), [true, false]);
}

#[test]
fn an_edition_is_another_after_a_publish_and_when_a_view_was_opened_or_closed() {
    let views = Views::default();
    let mut editions = vec![views.edition()];
    let mut other = || {
        editions.push(views.edition());
        let (last, before) = editions.split_last().unwrap();
        !before.contains(last)
    };
    let reader = views.open(&audience());
    assert!(other());
    reader.view().publish(views.next_seq(), Revision(1), up(vec![]));
    assert!(other());
    let second = views.open(&Audience { proven: false, ..audience() });
    assert!(other());
    second.view().publish(views.next_seq(), Revision(1), up(vec![]));
    assert!(other());
    drop(reader);
    let now = Instant::now();
    views.idle(now);
    assert_eq!(views.idle(now + Duration::from_secs(600)), [audience()]);
    assert!(other());
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
