//! Claims about the catalog.

use bytes::Bytes;

use super::{testing::*, *};
use crate::model::{FleetSpec, Kind, Metadata, Spec};

#[test]
fn garbage_takes_its_own_object_out_and_names_key_and_fault() {
    let mut world = World::of([service("shop/web", &[80]), service("shop/api", &[80])]);
    let key = "/tidegate/v1/objects/services/shop/web";
    let changed = world.put_raw(key, Bytes::from_static(b"{"));
    let web = ObjectRef::new(Kind::Service, "shop", "web");
    assert!(changed.configuration.contains(&Read::Object(web.clone())));
    assert!(world.catalog.configuration().get(&web).is_none());
    assert!(world.catalog.configuration().get(&ObjectRef::new(Kind::Service, "shop", "api")).is_some());
    let problems = world.catalog.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].key.as_str(), problems[0].reason.as_str()), (key, "InvalidObject"));
    assert_eq!(problems[0].object, Some(web));
    assert_eq!(problems[0].revision, Revision(3));
    world.put(service("shop/web", &[80]));
    assert_eq!(world.catalog.problems(), []);
}

#[test]
fn a_value_of_another_name_than_its_key_is_refused() {
    let mut world = World::new();
    world.put_raw("/tidegate/v1/objects/services/shop/web", value(service("shop/other", &[80])));
    assert_eq!(world.catalog.configuration().iter().count(), 0);
    assert!(world.catalog.problems()[0].message.contains("shop/other"));
}

#[test]
fn unknown_keys_are_named_and_reserved_ones_are_not() {
    let mut world = World::new();
    for key in ["head", "marks/x", "plans/1"] {
        assert!(world.put_raw(&format!("/tidegate/v1/{key}"), Bytes::new()).is_empty());
    }
    assert_eq!(world.catalog.problems(), []);
    world.put_raw("/tidegate/v1/objects/widgets/a", Bytes::new());
    let problem = &world.catalog.problems()[0];
    assert_eq!((&*problem.reason, problem.severity), ("UnknownKey", Severity::Error));
    world.delete("/tidegate/v1/objects/widgets/a");
    assert_eq!(world.catalog.problems(), []);
}

#[test]
fn a_live_endpoint_without_an_endpoint_set_there_is_a_warning() {
    let mut world = World::of([service("shop/web", &[80]), set("shop/web", "ams")]);
    world.live("fra", "shop/web", "a", Some("10.0.0.1:80"));
    world.live("ams", "shop/web", "a", Some("10.0.0.2:80"));
    let problems = world.catalog.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].key, "/tidegate/v1/endpoints/fra/shop/web/a");
    assert_eq!((problems[0].severity, problems[0].revision), (Severity::Warning, Revision(3)));
    world.put(set("shop/web", "fra"));
    assert_eq!(world.catalog.problems(), []);
}

#[test]
fn an_unreadable_endpoint_is_out_and_the_others_stay() {
    let mut world = World::of([set("shop/web", "fra")]);
    world.live("fra", "shop/web", "a", Some("10.0.0.1:80"));
    world.live("fra", "shop/web", "b", Some("10.0.0.2:80"));
    let changed = world.live("fra", "shop/web", "a", Some("nonsense"));
    let web = ObjectRef::new(Kind::Service, "shop", "web");
    assert_eq!(changed.runtime.len(), 1);
    assert_eq!(world.catalog.runtime().endpoints("fra", &web).unwrap().keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(world.catalog.problems()[0].reason, "InvalidEndpoint");
}

#[test]
fn an_equal_rewrite_changes_nothing_but_the_revision() {
    let mut world = World::of([service("shop/web", &[80])]);
    assert!(world.put(service("shop/web", &[80])).is_empty());
    let stored = world.catalog.configuration().get(&ObjectRef::new(Kind::Service, "shop", "web")).unwrap();
    assert_eq!((stored.create_revision, stored.mod_revision), (Revision(1), Revision(2)));
}

#[test]
fn an_equal_object_that_replaced_another_between_listings_is_younger() {
    let mut world = World::of([service("shop/web", &[80])]);
    let mut listing = world.listing();
    listing.entries[0].create_revision = Revision(7);
    listing.entries[0].mod_revision = Revision(7);
    let web = ObjectRef::new(Kind::Service, "shop", "web");
    assert!(world.catalog.reset(&listing).configuration.contains(&Read::Object(web.clone())));
    assert_eq!(world.catalog.configuration().get(&web).unwrap().create_revision, Revision(7));
}

#[test]
fn a_moved_reference_is_a_change_of_both_targets() {
    let mut world = World::of([route("shop/web", "infra/old")]);
    let changed = world.put(route("shop/web", "infra/new"));
    for gateway in ["old", "new"] {
        let target = ObjectRef::new(Kind::Gateway, "infra", gateway);
        assert!(changed.configuration.contains(&Read::Referrers(target)), "{gateway}");
    }
    let left = ObjectRef::new(Kind::Gateway, "infra", "old");
    assert_eq!(world.catalog.configuration().referrers(&left).count(), 0);
}

#[test]
fn a_listing_finds_what_was_deleted_and_skips_what_it_knows() {
    let mut world = World::of([service("shop/web", &[80]), service("shop/api", &[80])]);
    world.live("fra", "shop/web", "a", Some("10.0.0.1:80"));
    assert!(world.catalog.reset(&world.listing()).is_empty());
    let mut listing = world.listing();
    listing.entries.retain(|entry| entry.key.ends_with("/api"));
    let changed = world.catalog.reset(&listing);
    assert!(changed.configuration.contains(&Read::Object(ObjectRef::new(Kind::Service, "shop", "web"))));
    assert!(!changed.configuration.contains(&Read::Object(ObjectRef::new(Kind::Service, "shop", "api"))));
    assert_eq!(changed.runtime.len(), 1);
    let mut fresh = empty();
    fresh.reset(&listing);
    assert_eq!(fresh.configuration(), world.catalog.configuration());
    assert_eq!(fresh.runtime(), world.catalog.runtime());
}

#[test]
fn another_store_is_read_as_it_is_though_its_revisions_are_equal() {
    let mut world = World::of([service("shop/web", &[80]), set("shop/web", "fra")]);
    world.live("fra", "shop/web", "a", Some("10.0.0.1:80"));
    let mut other = world.listing();
    for entry in &mut other.entries {
        entry.value = match &*entry.key {
            key if key.ends_with("services/shop/web") => value(service("shop/web", &[90])),
            key if key.contains("/endpoints/") => Bytes::from_static(b"10.0.0.2:80"),
            _ => continue,
        };
    }
    let changed = world.catalog.reset(&other);
    assert!(changed.configuration.contains(&Read::Object(ObjectRef::new(Kind::Service, "shop", "web"))));
    assert_eq!(changed.runtime.len(), 1);
    let mut fresh = empty();
    fresh.reset(&other);
    assert_eq!(fresh.configuration(), world.catalog.configuration());
    assert_eq!(fresh.runtime(), world.catalog.runtime());
    assert_eq!(fresh.unagreed(), world.catalog.unagreed());
}

#[test]
fn a_clone_does_not_see_later_writes() {
    let mut world = World::of([service("shop/web", &[80])]);
    let before = world.catalog.configuration().clone();
    world.put(service("shop/api", &[80]));
    world.remove(&ObjectRef::new(Kind::Service, "shop", "web"));
    assert_eq!(before.all(Kind::Service).count(), 1);
    assert!(before.get(&ObjectRef::new(Kind::Service, "shop", "web")).is_some());
}

#[test]
fn identity_hears_what_the_fleet_says() {
    let mut world = World::of([edge("fra")]);
    let heard = |world: &World| world.catalog.configuration().sites().trust_domain;
    assert_eq!(&*heard(&world), "tidegate.local");
    let spec = FleetSpec { trust_domain: "corp.example".into(), ..FleetSpec::default() };
    let metadata = Metadata { name: "fleet".into(), ..Metadata::default() };
    world.put(Object { metadata, spec: Spec::Fleet(spec) });
    assert_eq!(&*heard(&world), "corp.example");
}

#[test]
fn watermarks_are_read_and_are_no_configuration() {
    let mut world = World::new();
    let key = "/tidegate/v1/acked/fra";
    let revision = |world: &World| world.catalog.watermarks().get("fra").map(|watermark| watermark.revision.0);
    assert!(world.put_raw(key, Bytes::from_static(b"{\"revision\":7}")).is_empty());
    assert_eq!(revision(&world), Some(7));
    let held = Arc::clone(world.catalog.watermarks());
    assert!(world.put_raw(key, Bytes::from_static(b"{")).is_empty());
    assert_eq!((revision(&world), held.len()), (None, 1));
    let problems = world.catalog.problems();
    assert_eq!((problems[0].key.as_str(), problems[0].reason.as_str()), (key, "InvalidWatermark"));
    world.put_raw(key, Bytes::from_static(b"{\"revision\":8}"));
    assert_eq!((revision(&world), world.catalog.problems().len()), (Some(8), 0));
    assert!(world.put_raw("/tidegate/v1/marks/one", Bytes::from_static(b"x")).is_empty());
    assert!(world.delete(key).is_empty());
    assert_eq!(revision(&world), None);
}
