//! What waits for cores, and what a stream is woken by.

use super::*;
use crate::{
    model::Watermark,
    xds::{NeedAt, ServiceNeed},
};

/// A route that needs these services at these cores, whatever else it says.
fn route(payload: &'static str, services: &[&str], cores: &[&str]) -> Resource {
    let at = |core: &&str| NeedAt { site: (*core).into(), revision: Revision(7) };
    let need = |service: &&str| ServiceNeed {
        service: (*service).into(),
        group: "g".into(),
        sites: cores.iter().map(at).collect(),
    };
    Resource { services: services.iter().map(need).collect(), ..naming(Route, "r", payload, &[]) }
}

/// One core is so far.
fn polled(world: &mut World, revision: u64, now: Instant) -> Option<ResourceType> {
    let at = Watermark { revision: Revision(revision), connected: true, ..Watermark::default() };
    let (sites, watermarks) = (Sites::default(), Watermarks::from([("ams".into(), at)]));
    let moment = Moment { now, fresh: true, sites: &sites, watermarks: &watermarks };
    let view = Arc::clone(world.reader.view());
    world.session.poll(&view.read(), &moment).map(|response| response.kind)
}

/// A route that its client has, and that waits for a core in its second version; since when.
fn waiting() -> (World, Instant) {
    let mut world = World::new(vec![cluster("a", "1"), route("1", &[], &[])]);
    world.takes(Cluster, &[], &["a"]);
    world.takes(Route, &["r"], &["r"]);
    world.stands();
    world.publish(vec![route("2", &["s"], &["ams"])], &[]);
    let now = world.now;
    assert_eq!(polled(&mut world, 6, now), None);
    (world, now)
}

#[test]
fn a_route_that_waits_is_looked_at_again_when_what_it_waits_for_changes_though_its_content_does_not() {
    let (mut world, now) = waiting();
    let seat = world.seat();
    world.publish(vec![route("2", &["s"], &[])], &[]);
    assert!(woken(&seat));
    assert_eq!(polled(&mut world, 6, now), Some(Route));
}

#[test]
fn a_name_that_is_asked_for_wakes_its_stream_before_its_set_has_stood_and_is_a_group() {
    let mut world = World::new(vec![resource(Endpoints, "a", "1")]);
    world.takes(Endpoints, &["a"], &["a"]);
    assert!(world.poll().is_none());
    let seat = world.seat();
    world.publish(vec![resource(Endpoints, "a", "2")], &[]);
    assert!(woken(&seat));
    world.sent(Endpoints, &["a"]);
}

#[test]
fn a_route_waits_for_a_service_until_a_core_has_it_or_the_time_is_over() {
    for covered in [true, false] {
        let (mut world, now) = waiting();
        assert!(world.session.awaits_watermarks());
        assert_eq!(world.session.next_deadline(), Some(now + WARM));
        if covered {
            assert_eq!(polled(&mut world, 7, now), Some(Route));
        } else {
            assert_eq!(polled(&mut world, 6, now + WARM - Duration::from_millis(1)), None);
            assert!(world.session.awaits_watermarks());
            assert_eq!(polled(&mut world, 6, now + WARM), Some(Route));
        }
        assert!(!world.session.awaits_watermarks());
    }
}

#[test]
fn a_stream_that_asks_for_nothing_is_woken_by_the_first_publish_and_has_all_then() {
    let mut world = World::pending(Role::Grpc);
    for kind in [Cluster, Listener] {
        world.request(kind, &[], 0, None);
    }
    assert!(world.poll().is_none());
    let seat = world.seat();
    world.publish(vec![], &[]);
    assert!(woken(&seat));
    world.quiet();
    assert!(world.session.complete(&world.reader.view().read(), None));
}
