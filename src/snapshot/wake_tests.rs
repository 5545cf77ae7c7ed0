//! Claims about who is woken by a publish, and how far a cursor reaches that no publish has moved.

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use ResourceType::{Cluster, Endpoints, Listener, Route};

use super::*;
use crate::{
    model::{Audience, Revision, Role},
    xds::{NeedAt, Resource, ServiceNeed, Subscription},
};

struct Stage {
    views: Views,
    reader: Reader,
}

impl Stage {
    fn new() -> Self {
        let views = Views::default();
        let audience = Audience { site: "fra".into(), role: Role::Edge, proven: true, cohort: "".into(), delta: true };
        let reader = views.open(&audience);
        let stage = Self { views, reader };
        stage.publish(vec![], &[]);
        stage
    }

    fn publish(&self, upserts: Vec<Resource>, removals: &[(ResourceType, &str)]) -> Seq {
        let upserts = upserts.into_iter().map(Arc::new).collect();
        let removals = removals.iter().map(|(kind, name)| (*kind, (*name).into())).collect();
        let seq = self.views.next_seq();
        self.reader.view().publish(seq, Revision(seq.0), Publish { upserts, removals });
        seq
    }

    fn change(&self, kind: ResourceType, name: &str) -> Seq {
        let payload = self.reader.view().read().seq().to_string();
        self.publish(vec![Resource::new(kind, name, payload.into())], &[])
    }

    fn group(&self, kind: ResourceType, names: &[&str]) -> Arc<Group> {
        self.reader.view().read().join(kind, &asked(names))
    }

    fn seat(&self, groups: &[&Arc<Group>]) -> Seat {
        let mut seat = self.reader.seat();
        seat.follow(Some(groups.iter().copied()), &self.reader.view().read());
        woken(&seat);
        seat
    }
}

fn asked(names: &[&str]) -> Arc<Subscription> {
    let mut subscription = Subscription::default();
    for name in names {
        if *name == "*" {
            subscription.set_wildcard(true);
        } else {
            subscription.insert((*name).into());
        }
    }
    Arc::new(subscription)
}

fn woken(seat: &Seat) -> bool {
    seat.poll_woken(&Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn a_stream_is_woken_by_what_it_asks_for_and_by_nothing_else() {
    let stage = Stage::new();
    let (one, all) = (stage.group(Endpoints, &["a", "b"]), stage.group(Cluster, &["*"]));
    let (both, named) = (stage.seat(&[&one, &all]), stage.seat(&[&one]));
    let restless = stage.reader.seat();
    let seen = || (woken(&both), woken(&named), woken(&restless));
    stage.change(Endpoints, "c");
    assert_eq!(seen(), (false, false, true));
    stage.change(Endpoints, "a");
    assert_eq!(seen(), (true, true, true));
    stage.change(Cluster, "a");
    assert_eq!(seen(), (true, false, true));
    stage.publish(vec![], &[(Endpoints, "a"), (Endpoints, "never there")]);
    assert_eq!(seen(), (true, true, true));
    stage.publish(vec![], &[(Endpoints, "a")]);
    assert_eq!(seen(), (false, false, false), "nothing changed");
}

#[test]
fn children_that_follow_their_parent_wake_whoever_asks_for_them() {
    let stage = Stage::new();
    let cluster = |payload: &'static str| {
        let mut cluster = Resource::new(Cluster, "a", payload.as_bytes().into());
        cluster.children = vec![(Endpoints, "a".into())];
        cluster
    };
    stage.publish(vec![cluster("1"), Resource::new(Endpoints, "a", "e".into())], &[]);
    let seat = stage.seat(&[&stage.group(Endpoints, &["a"])]);
    stage.publish(vec![cluster("2")], &[]);
    assert!(woken(&seat));
}

#[test]
fn what_a_resource_waits_for_wakes_whoever_follows_everything_and_is_no_change() {
    let stage = Stage::new();
    let route = |sites: &[&str]| {
        let need = |site: &&str| NeedAt { site: (*site).into(), revision: Revision(1) };
        let sites = sites.iter().map(need).collect();
        let services = vec![ServiceNeed { service: "s".into(), group: "g".into(), sites }];
        Resource { services, ..Resource::new(Route, "r", "r".into()) }
    };
    stage.publish(vec![route(&["ams", "fra"])], &[]);
    let (settled, waiting) = (stage.seat(&[&stage.group(Route, &["r"])]), stage.reader.seat());
    let (mut told, before) = (stage.reader.view().subscribe(), stage.reader.view().read().newest(Route));
    told.mark_unchanged();
    stage.publish(vec![route(&["ams"])], &[]);
    assert_eq!((woken(&settled), woken(&waiting), told.has_changed().unwrap()), (false, true, false));
    assert_eq!(stage.reader.view().read().newest(Route), before);
}

#[test]
fn who_has_left_is_not_woken_and_who_follows_everything_again_is() {
    let stage = Stage::new();
    let group = stage.group(Endpoints, &["a"]);
    let mut seat = stage.seat(&[&group]);
    seat.follow(Some([].iter()), &stage.reader.view().read());
    stage.change(Endpoints, "a");
    assert!(!woken(&seat));
    seat.follow(None::<std::iter::Empty<_>>, &stage.reader.view().read());
    stage.change(Listener, "l");
    assert!(woken(&seat));
}

#[test]
fn a_cursor_reaches_to_the_next_publish_that_concerns_it() {
    let stage = Stage::new();
    let subscription = asked(&["a"]);
    let group = stage.group(Endpoints, &["a"]);
    let extent = |seq| stage.reader.view().read().extent(Endpoints, &subscription, [seq])[0];
    let had = stage.change(Endpoints, "a");
    stage.change(Endpoints, "b");
    let later = stage.change(Cluster, "a");
    assert_eq!(extent(had), later);
    assert_eq!(extent(Seq(had.0 - 1)), Seq(had.0 - 1), "it lacks that");
    let next = stage.change(Endpoints, "a");
    stage.change(Endpoints, "b");
    assert_eq!((extent(had), group.base(later)), (later, had));
    assert_eq!(extent(next), Seq(next.0 + 1));
    let gone = stage.publish(vec![], &[(Endpoints, "a")]);
    assert_eq!((extent(next), extent(gone)), (Seq(gone.0 - 1), gone));
    let other = asked(&["b"]);
    let unknown = stage.reader.view().read().extent(Endpoints, &other, [had])[0];
    assert_eq!(unknown, had, "of what nobody follows nothing is known");
    let nothing = stage.reader.view().read().extent(Endpoints, &asked(&[]), [had])[0];
    assert_eq!(nothing, gone, "nothing concerns who asks for nothing");
}

#[test]
fn what_a_group_has_forgotten_counts_as_lacking() {
    let stage = Stage::new();
    let group = stage.group(Endpoints, &["a"]);
    let first = stage.change(Endpoints, "a");
    stage.change(Endpoints, "b");
    let last = (0..40).map(|_| stage.change(Endpoints, "a")).last().unwrap();
    let extent = |seq| stage.reader.view().read().extent(Endpoints, group.subscription(), [seq])[0];
    assert_eq!((extent(first), group.base(first)), (first, first));
    assert!(group.touched(first) && !group.touched(last));
    // One that was made later knows nothing of what was before.
    let late = stage.group(Endpoints, &["a", "b"]);
    assert!(late.touched(first) && !late.touched(last));
}

#[test]
fn a_publish_that_concerns_a_group_by_many_names_concerns_it_once() {
    let stage = Stage::new();
    let names: Vec<_> = (0..40).map(|n| format!("n{n}")).collect();
    let group = stage.group(Endpoints, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let first = stage.change(Endpoints, "n0");
    let other = stage.change(Endpoints, "other");
    stage.publish(names.iter().map(|name| Resource::new(Endpoints, name, "all".into())).collect(), &[]);
    assert_eq!(stage.reader.view().read().extent(Endpoints, group.subscription(), [first]), [other]);
}

#[test]
fn equal_subscriptions_are_one_group_and_those_that_are_gone_leave_nothing() {
    let stage = Stage::new();
    let kept = stage.group(Endpoints, &["a", "b"]);
    assert!(Arc::ptr_eq(&kept, &stage.group(Endpoints, &["b", "a"])));
    assert!(!Arc::ptr_eq(&kept, &stage.group(Cluster, &["b", "a"])));
    for i in 0..5000 {
        stage.group(Endpoints, &["a", &format!("n{i}")]);
    }
    let left = || stage.reader.view().read().kept();
    assert!(left().0 < 1500 && left().1 < 3000);
    // Nor do those that no publish is ever looked up for.
    for _ in 0..3 {
        stage.group(Cluster, &[]);
    }
    let one = stage.group(Cluster, &[]);
    let before = left().0;
    drop(one);
    let _again = stage.group(Cluster, &[]);
    assert_eq!(left().0, before);
    assert!(Arc::ptr_eq(&kept, &stage.group(Endpoints, &["a", "b"])));
    let seat = stage.seat(&[&kept]);
    stage.change(Endpoints, "a");
    assert!(woken(&seat));
}
