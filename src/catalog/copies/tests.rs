//! Which of an object and its accepted copy is in service, sentence by sentence.

use bytes::Bytes;

use super::*;
use crate::{
    catalog::{Read, testing::*},
    model::Kind,
};

fn web() -> ObjectRef {
    ObjectRef::new(Kind::Service, "shop", "web")
}

/// An accepted Service with port 80, two revisions old.
fn accepted_web() -> World {
    let mut world = World::of([service("shop/other", &[80])]);
    world.apply(service("shop/web", &[80]));
    world
}

fn served(world: &World) -> Option<Arc<Stored>> {
    world.catalog.configuration().get(&web()).cloned()
}

fn port(world: &World) -> Option<u16> {
    served(world).and_then(|stored| stored.service().map(|spec| spec.ports[0].port))
}

/// Reason and key of each problem.
fn problems(world: &World) -> Vec<(String, String)> {
    world.catalog.problems().into_iter().map(|problem| (problem.reason, problem.key)).collect()
}

const OBJECT: &str = "/tidegate/v1/objects/services/shop/web";
const COPY: &str = "/tidegate/v1/accepted/services/shop/web";

fn told(reason: &str, key: &str) -> Vec<(String, String)> {
    vec![(reason.to_owned(), key.to_owned())]
}

#[test]
fn an_object_equal_to_its_accepted_copy_is_served_and_waits_for_nobody() {
    let mut world = accepted_web();
    world.agree();
    let stored = served(&world).unwrap();
    assert_eq!((stored.accepted, stored.as_accepted(), stored.create_revision), (true, true, Revision(2)));
    assert!(world.catalog.problems().is_empty() && world.catalog.unagreed().is_empty());
}

#[test]
fn garbage_over_a_good_object_leaves_the_accepted_copy_in_service_and_names_key_and_fault() {
    let mut world = accepted_web();
    assert!(world.put_raw(OBJECT, Bytes::from_static(b"{")).is_empty(), "nothing that is served has changed");
    assert_eq!(port(&world), Some(80));
    let [problem] = world.catalog.problems().try_into().unwrap();
    assert_eq!((problem.key.as_str(), problem.severity, problem.revision), (OBJECT, Severity::Error, Revision(3)));
    assert!(problem.message.contains("garbage") && problem.message.contains("accepted copy, of revision 2"));
    assert!(!world.catalog.unagreed().writes.contains_key(&web()), "nobody accepts garbage");
    assert!(world.put(service("shop/web", &[81])).configuration.contains(&Read::Object(web())));
    assert_eq!((port(&world), problems(&world)), (Some(81), Vec::new()));
}

#[test]
fn what_came_past_admission_is_read_strictly_and_what_was_accepted_is_read_tolerantly() {
    let mut world = accepted_web();
    let later = newer(&value(service("shop/web", &[81])));
    world.put_raw(OBJECT, later.clone());
    assert_eq!((port(&world), problems(&world)), (Some(80), told("InvalidObject", OBJECT)));
    world.put_raw(COPY, accepted::encode(Some(Revision(2)), &later));
    assert_eq!((port(&world), problems(&world)), (Some(81), Vec::new()));
    world.put_raw(OBJECT, Bytes::from_static(b"{"));
    assert_eq!(port(&world), Some(81), "the accepted copy is read tolerantly when it serves, too");
    let mut alone = World::new();
    alone.put_raw(OBJECT, later);
    assert_eq!((port(&alone), problems(&alone)), (None, told("InvalidObject", OBJECT)));
    assert!(alone.catalog.problems()[0].message.contains("out of service"));
}

#[test]
fn a_valid_object_past_admission_is_served_at_once_and_waits_for_the_leader() {
    let mut world = accepted_web();
    world.put(service("shop/web", &[81]));
    let stored = served(&world).unwrap();
    assert_eq!((port(&world), stored.accepted, stored.as_accepted()), (Some(81), true, false));
    assert_eq!(stored.fallback.as_deref(), Some(&service("shop/web", &[80])));
    let unagreed = Arc::clone(world.catalog.unagreed());
    let write = &unagreed.writes[&web()];
    assert_eq!((write.mod_revision, write.accepted, write.age), (Revision(3), Revision(2), Revision(2)));
    assert_eq!(write.value, world.store[OBJECT].value);
    let new = &unagreed.writes[&ObjectRef::new(Kind::Service, "shop", "other")];
    assert_eq!((new.mod_revision, new.accepted, new.age), (Revision(1), Revision(0), Revision(1)));
    world.agree();
    let stored = served(&world).unwrap();
    assert!(stored.as_accepted() && world.catalog.unagreed().is_empty());
    assert_eq!(stored.create_revision, Revision(2), "the age is kept");
    assert_eq!(unagreed.writes.len(), 2, "what readers hold is left as it is");
}

#[test]
fn what_waits_is_another_value_only_when_it_changed() {
    let mut world = accepted_web();
    let before = Arc::clone(world.catalog.unagreed());
    world.apply(service("shop/api", &[80]));
    assert!(Arc::ptr_eq(&before, world.catalog.unagreed()));
}

#[test]
fn a_raw_deletion_serves_on_until_it_is_agreed_to() {
    let mut world = accepted_web();
    assert!(world.remove(&web()).is_empty());
    assert_eq!((port(&world), problems(&world)), (Some(80), told("DeletionNotAgreed", OBJECT)));
    let [problem] = world.catalog.problems().try_into().unwrap();
    assert!(problem.message.contains("deletion not yet agreed") && problem.severity == Severity::Warning);
    assert_eq!(world.catalog.unagreed().deletions[&web()], Revision(2));
    assert!(world.agree().configuration.contains(&Read::Object(web())));
    assert_eq!((port(&world), problems(&world)), (None, Vec::new()));
    assert!(world.catalog.unagreed().deletions.is_empty());
}

#[test]
fn an_object_without_an_accepted_copy_is_gone_when_its_key_is() {
    let mut world = World::of([service("shop/web", &[80])]);
    assert!(world.remove(&web()).configuration.contains(&Read::Object(web())));
    assert_eq!((port(&world), world.catalog.unagreed().is_empty()), (None, true));
}

#[test]
fn the_age_is_kept_while_the_accepted_copy_stands_and_begins_anew_after_it() {
    let mut world = accepted_web();
    world.remove(&web());
    world.put(service("shop/web", &[81]));
    assert_eq!(served(&world).unwrap().create_revision, Revision(2));
    world.remove(&web());
    world.agree();
    world.put(service("shop/web", &[81]));
    assert_eq!(served(&world).unwrap().create_revision, Revision(7));
}

#[test]
fn an_accepted_copy_that_cannot_be_read_counts_as_absent_and_is_told_of() {
    let mut world = accepted_web();
    let changed = world.put_raw(COPY, Bytes::from_static(b"nonsense"));
    assert!(changed.configuration.contains(&Read::Object(web())), "conflicts may read that it is not accepted");
    let stored = served(&world).unwrap();
    assert_eq!((stored.accepted, stored.create_revision), (false, Revision(2)));
    assert_eq!(problems(&world), told("InvalidAcceptedCopy", COPY));
    assert_eq!(world.catalog.unagreed().writes[&web()].accepted, Revision(3), "the leader writes it anew");
    world.remove(&web());
    assert_eq!((port(&world), world.catalog.unagreed().deletions[&web()]), (None, Revision(3)));
    world.put_raw(COPY, accepted::encode(Some(Revision(2)), b"garbage"));
    assert_eq!((port(&world), problems(&world)), (None, told("InvalidAcceptedCopy", COPY)));
}

#[test]
fn acceptance_is_a_change_exactly_where_somebody_can_read_it() {
    let mut world = World::of([service("shop/web", &[80])]);
    let read = Read::Object(web());
    assert!(world.agree().configuration.contains(&read), "accepted now: conflicts read it");
    let again = accepted::encode(Some(Revision(1)), &world.store[OBJECT].value);
    assert!(world.put_raw(COPY, again.clone()).is_empty());
    let older = accepted::encode(Some(Revision(0)), &world.store[OBJECT].value);
    assert!(world.put_raw(COPY, older).configuration.contains(&read), "another age");
    world.put_raw(COPY, again);
    world.put(service("shop/web", &[81]));
    assert!(world.agree().configuration.contains(&read), "nothing to fall back to any more");
}

#[test]
fn whom_an_object_named_when_it_was_accepted_hears_of_its_changes() {
    let mut world = World::new();
    world.apply(route("shop/web", "infra/old"));
    world.put(route("shop/web", "infra/new"));
    let changed = world.put(route("shop/web", "infra/newest"));
    for gateway in ["old", "new", "newest"] {
        let target = ObjectRef::new(Kind::Gateway, "infra", gateway);
        assert!(changed.configuration.contains(&Read::Referrers(target)), "{gateway}");
    }
}
