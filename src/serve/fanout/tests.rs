//! Frames: where they are cut, what they share, and that nothing of them is kept for nobody.

use super::*;
use crate::{
    model::{Audience, Revision, Role},
    snapshot::{Publish, Views},
};

fn resource(name: &str, bytes: usize) -> Arc<Resource> {
    Arc::new(Resource::new(ResourceType::Endpoints, name, vec![b'x'; bytes].into()))
}

/// One whose encoded form is exactly so long.
fn sized(name: &str, bytes: usize) -> Arc<Resource> {
    let over = resource(name, bytes).body.len() - bytes;
    let exact = resource(name, bytes - over);
    assert_eq!(exact.body.len(), bytes);
    exact
}

fn cut(resources: Vec<Arc<Resource>>, removed: &[&str], whole: bool) -> Vec<(usize, usize)> {
    let removed = removed.iter().map(|name| (*name).into()).collect();
    let frames = frames(&"test".into(), ResourceType::Endpoints, Seq(1), resources, removed, whole);
    frames.iter().map(|frame| (frame.resources.len(), frame.removed.len())).collect()
}

#[test]
fn a_response_is_cut_where_it_would_be_larger_than_a_mebibyte_and_never_within_a_resource() {
    let half = SPLIT / 2;
    assert_eq!(cut(vec![], &[], false), [(0, 0)]);
    assert_eq!(cut(vec![sized("a", half), sized("b", half)], &[], false), [(2, 0)]);
    assert_eq!(cut(vec![sized("a", half), sized("b", half + 1)], &[], false), [(1, 0), (1, 0)]);
    assert_eq!(cut(vec![sized("a", half), sized("b", half), sized("c", half)], &[], false), [(2, 0), (1, 0)]);
    assert_eq!(cut(vec![sized("a", half), sized("b", half), sized("c", half)], &[], true), [(3, 0)]);
    assert_eq!(cut(vec![sized("a", 3 * SPLIT), resource("b", 1)], &[], false), [(1, 0), (1, 0)]);
    // Removals go with the first part, and count.
    assert_eq!(cut(vec![sized("a", half), sized("b", half)], &["gone"], false), [(1, 1), (1, 0)]);
}

fn names(all: &[&str]) -> Arc<Subscription> {
    let mut subscription = Subscription::default();
    for name in all {
        subscription.insert((*name).into());
    }
    Arc::new(subscription)
}

#[test]
fn streams_with_equal_subscriptions_share_a_fan_out_and_one_that_nobody_has_is_forgotten() {
    let fanouts = Fanouts::new("test".into());
    let kind = ResourceType::Endpoints;
    let held = fanouts.join(kind, &names(&["a", "b"]));
    assert!(Arc::ptr_eq(&held, &fanouts.join(kind, &names(&["b", "a"]))));
    assert!(!Arc::ptr_eq(&held, &fanouts.join(kind, &names(&["a"]))));
    assert!(!Arc::ptr_eq(&held, &fanouts.join(ResourceType::Secret, &names(&["a", "b"]))));
    for number in 0..5_000 {
        drop(fanouts.join(kind, &names(&[&number.to_string()])));
    }
    assert!(fanouts.interned.lock().unwrap().len() < 1_000, "{}", fanouts.interned.lock().unwrap().len());
    assert!(Arc::ptr_eq(&held, &fanouts.join(kind, &names(&["a", "b"]))), "one that somebody has stays");
}

#[test]
fn a_fan_out_that_is_joined_and_left_again_and_again_is_kept_once() {
    let fanouts = Fanouts::new("test".into());
    for _ in 0..100 {
        drop(fanouts.join(ResourceType::Endpoints, &names(&["a"])));
    }
    let kept: usize = fanouts.interned.lock().unwrap().values().map(Vec::len).sum();
    assert_eq!(kept, 1);
}

#[test]
fn a_range_is_built_once_and_forgotten_after_some_others() {
    let views = Views::default();
    let reader =
        views.open(&Audience { site: "s".into(), role: Role::Edge, proven: true, delta: true, cohort: "".into() });
    let publish = |payload: usize| {
        let upserts = vec![resource("a", payload)];
        reader.view().publish(views.next_seq(), Revision(1), Publish { upserts, removals: vec![] });
        reader.view().read().seq()
    };
    let fanout = Fanouts::new("test".into()).join(ResourceType::Endpoints, &names(&["a"]));
    let frames = |from| fanout.frames(&reader.view().read(), from);
    let first = publish(1);
    let once = frames(Seq(0));
    assert_eq!((once.len(), frames(first).len()), (1, 0));
    assert!(Arc::ptr_eq(&once, &frames(Seq(0))));
    for payload in 2..2 + REMEMBERED {
        let before = reader.view().read().seq();
        publish(payload);
        assert_eq!(frames(before).len(), 1);
        assert!(fanout.recent.lock().unwrap().len() <= REMEMBERED);
    }
}
