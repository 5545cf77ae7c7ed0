//! Frames: where they are cut, what they share, and that nothing of them is kept for nobody.

use super::*;
use crate::{
    model::{Audience, Revision, Role},
    snapshot::{Publish, Reader, Views},
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
    // The next part begins at nothing.
    assert_eq!(cut(vec![sized("a", SPLIT), resource("b", 1), resource("c", 1)], &[], false), [(1, 0), (2, 0)]);
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

fn reader(views: &Views) -> Reader {
    views.open(&Audience { site: "s".into(), role: Role::Edge, proven: true, delta: true, cohort: "".into() })
}

#[test]
fn streams_with_equal_subscriptions_share_a_fan_out_and_one_that_nobody_has_is_forgotten() {
    let fanouts = Fanouts::new("test".into());
    let content = Content::default();
    let kind = ResourceType::Endpoints;
    let held = fanouts.join(kind, &names(&["a", "b"]), &content);
    assert!(Arc::ptr_eq(&held, &fanouts.join(kind, &names(&["b", "a"]), &content)));
    assert!(!Arc::ptr_eq(&held, &fanouts.join(kind, &names(&["a"]), &content)));
    assert!(!Arc::ptr_eq(&held, &fanouts.join(ResourceType::Secret, &names(&["a", "b"]), &content)));
    for number in 0..5_000 {
        drop(fanouts.join(kind, &names(&[&number.to_string()]), &content));
    }
    assert!(fanouts.interned.lock().unwrap().len() < 1_000, "{}", fanouts.interned.lock().unwrap().len());
    assert!(Arc::ptr_eq(&held, &fanouts.join(kind, &names(&["a", "b"]), &content)), "one that somebody has stays");
}

#[test]
fn a_fan_out_that_is_joined_and_left_again_and_again_is_kept_once() {
    let fanouts = Fanouts::new("test".into());
    let content = Content::default();
    for _ in 0..100 {
        drop(fanouts.join(ResourceType::Endpoints, &names(&["a"]), &content));
    }
    let kept: usize = fanouts.interned.lock().unwrap().values().map(Vec::len).sum();
    assert_eq!(kept, 1);
}

#[test]
fn a_range_is_built_once_and_forgotten_after_some_others() {
    let views = Views::default();
    let reader = reader(&views);
    let publish = |payload: usize| {
        let upserts = vec![resource("a", payload)];
        reader.view().publish(views.next_seq(), Revision(1), Publish { upserts, removals: vec![] });
        reader.view().read().seq()
    };
    let fanout = Fanouts::new("test".into()).join(ResourceType::Endpoints, &names(&["a"]), &reader.view().read());
    let frames = |from| fanout.frames(&reader.view().read(), from);
    let first = publish(1);
    let once = frames(Seq(0));
    assert_eq!((once.len(), frames(first).len()), (1, 0));
    assert!(Arc::ptr_eq(&once, &frames(Seq(0))));
    let kept = || fanout.recent.lock().unwrap().iter().map(|(from, ..)| from.0).collect::<Vec<_>>();
    assert_eq!(kept(), [0], "nothing is kept of a range without changes");
    for payload in 2..2 + REMEMBERED {
        let before = reader.view().read().seq();
        publish(payload);
        assert_eq!(frames(before).len(), 1);
    }
    assert_eq!(kept(), (1..=REMEMBERED as u64).collect::<Vec<_>>());
}

#[test]
fn what_is_gone_and_why_something_is_absent_is_read_by_other_decoders() {
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
    use prost::Message;
    let removed = vec!["b".into(), "c".into()];
    let mut frame = Frame::new(&"cp1".into(), ResourceType::Secret.url(), Seq(7), vec![resource("a", 1)], removed);
    frame.errors = vec![Absent::of(ResourceType::Secret, "c".into(), false)];
    let read = DeltaDiscoveryResponse::decode(&frame.bytes()[5..]).unwrap();
    assert_eq!((read.resources[0].name.as_str(), read.removed_resources), ("a", vec!["b".to_owned(), "c".to_owned()]));
    assert_eq!((read.system_version_info.as_str(), read.control_plane.unwrap().identifier.as_str()), ("7", "cp1"));
    assert_eq!((read.nonce, read.type_url.as_str()), (format!("{:x}", frame.nonce), ResourceType::Secret.url()));
    let error = read.resource_errors[0].clone();
    assert_eq!(error.resource_name.unwrap().name, "c");
    let (code, why) = (tonic::Code::PermissionDenied, "secrets are served to clients that show a certificate only");
    let status = error.error_detail.unwrap();
    assert_eq!((status.code, status.message.as_str()), (i32::from(code), why));
}
