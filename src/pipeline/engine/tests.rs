//! The promises of incremental compilation, over random small worlds and what is written past admission, by the API and
//! by the leader: whoever saw it all serves byte for byte what one serves that starts from a listing, what is told adds
//! up to the state, and a site that goes is met with silence.

use proptest::prelude::*;

use super::*;
use crate::{
    catalog::testing::{edits::*, *},
    compile::plan::UNRESOLVED,
    model::{Kind, Object, ObjectRef, PathMatch, Role, RouteRule, Scope, SiteState, VirtualHosts},
    xds::ResourceType,
};

/// What a client holds that applied every delta.
pub(in crate::pipeline) type Held = BTreeMap<(ResourceType, Arc<str>), Arc<Resource>>;

fn audience(site: &str, role: Role, proven: bool) -> Audience {
    Audience { site: site.into(), role, proven, cohort: "".into(), delta: true }
}

pub(in crate::pipeline) fn audiences() -> Vec<Audience> {
    let of = |site| {
        let [edge, unproven, core, grpc] =
            [(Role::Edge, true), (Role::Edge, false), (Role::Core, true), (Role::Grpc, true)]
                .map(|(role, proven)| audience(site, role, proven));
        [Audience { delta: false, ..edge.clone() }, edge, unproven, core, grpc]
    };
    SITES.into_iter().flat_map(of).collect()
}

pub(in crate::pipeline) fn take(held: &mut Held, delta: &Delta) {
    for unit in &delta.removals {
        held.remove(&(unit.kind, Arc::clone(&unit.name)));
    }
    held.extend(delta.upserts.iter().map(|r| ((r.kind, Arc::clone(&r.name)), Arc::clone(r))));
}

/// A world, an engine that follows it, and a client for each open audience.
struct Run {
    world: World,
    engine: Engine,
    clients: BTreeMap<Audience, Held>,
}

impl Run {
    fn new(world: World) -> Self {
        Self { world, engine: Engine::default(), clients: BTreeMap::new() }
    }

    fn update(&mut self, changed: &BTreeSet<Read>, opened: &[Audience]) -> BTreeMap<Audience, Delta> {
        for audience in opened {
            self.clients.entry(audience.clone()).or_default();
        }
        let (configuration, runtime) = (self.world.catalog.configuration(), self.world.catalog.runtime());
        let deltas = self.engine.update(configuration, runtime, changed, opened);
        let engine = &self.engine;
        let had: usize = engine.audiences.values().map(|names| names.own.union(&names.brought).count()).sum();
        let used: usize = engine.units.values().map(|memo| memo.users.len()).sum();
        assert!(used == had && engine.units.values().all(|memo| !memo.users.is_empty()), "{used} uses of {had} units");
        let faulty = engine.units.iter().filter(|(_, memo)| !memo.problems.is_empty()).map(|(unit, _)| unit);
        assert_eq!(faulty.collect::<BTreeSet<_>>(), engine.faulty.iter().collect());
        for (audience, delta) in &deltas {
            take(self.clients.get_mut(audience).expect("only open audiences are told something"), delta);
        }
        deltas
    }

    fn edit(&mut self, changed: crate::catalog::Changed) -> BTreeMap<Audience, Delta> {
        let reads = changed.configuration.into_iter().chain(changed.runtime).collect();
        self.update(&reads, &[])
    }

    /// What an engine that remembers nothing says to `audiences`, over a catalog that has just been listed; those that
    /// it is silent to are left out.
    fn full(&self, audiences: &[Audience]) -> BTreeMap<Audience, Held> {
        let catalog = self.world.listed();
        let (configuration, runtime) = (catalog.configuration(), catalog.runtime());
        let deltas = Engine::default().update(configuration, runtime, &BTreeSet::new(), audiences);
        let held = |(audience, delta)| {
            let mut held = Held::new();
            take(&mut held, &delta);
            (audience, held)
        };
        deltas.into_iter().map(held).collect()
    }
}

/// Every name that a resource needs is there, but those that failed their check.
fn check_closed(engine: &Engine, audience: &Audience, held: &Held) -> Result<(), TestCaseError> {
    let failed = |kind: ResourceType, name: &str| {
        let words = format!("{} {name} is left out", kind.short());
        engine.problems().any(|problem| problem.message.starts_with(&words))
    };
    for resource in held.values() {
        for (kind, name) in resource.requires.iter().chain(&resource.children) {
            prop_assert!(&**name != UNRESOLVED, "{resource:?}");
            prop_assert!(
                held.contains_key(&(*kind, Arc::clone(name))) || failed(*kind, name),
                "{audience:?}: {resource:?} needs {} {name}, which is not there",
                kind.short()
            );
        }
    }
    prop_assert!(held.keys().all(|(_, name)| &**name != UNRESOLVED));
    Ok(())
}

/// A catalog that saw every change holds what one holds that starts now: in service, out of service, and unagreed.
fn check_catalog(world: &World) -> Result<(), TestCaseError> {
    let (followed, listed) = (&world.catalog, world.listed());
    prop_assert_eq!(followed.configuration(), listed.configuration());
    prop_assert_eq!(followed.runtime(), listed.runtime());
    prop_assert_eq!(followed.unagreed(), listed.unagreed());
    prop_assert_eq!(followed.problems(), listed.problems());
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    /// One batch of changes, with the audiences that are opened at the same time.
    Batch(Vec<Edit>, Vec<Audience>),
    Close(Audience),
}

fn steps() -> impl Strategy<Value = Step> {
    let some = || prop::sample::select(audiences());
    prop_oneof![
        8 => (prop::collection::vec(histories(), 0..4), prop::collection::vec(some(), 0..3))
            .prop_map(|(edits, opened)| Step::Batch(edits, opened)),
        1 => some().prop_map(Step::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn deltas_add_up_to_what_a_replica_serves_that_starts_now_and_a_site_that_goes_is_met_with_silence(
        start in starts(),
        steps in prop::collection::vec(steps(), 1..16),
    ) {
        let mut run = Run::new(start.into_iter().fold(World::new(), World::with));
        run.update(&BTreeSet::new(), &audiences()[..6]);
        for step in steps {
            let before = run.clients.clone();
            let deltas = match step.clone() {
                Step::Batch(edits, opened) => {
                    let mut changed = BTreeSet::new();
                    for edit in edits {
                        let edited = edit.apply(&mut run.world);
                        changed.extend(edited.configuration.into_iter().chain(edited.runtime));
                    }
                    run.update(&changed, &opened)
                }
                Step::Close(audience) => {
                    run.engine.close(&audience);
                    run.clients.remove(&audience);
                    BTreeMap::new()
                }
            };
            for delta in deltas.values() {
                let gone = |r: &Arc<Resource>| delta.removals.iter().any(|u| u.kind == r.kind && u.name == r.name);
                prop_assert!(!delta.upserts.iter().any(gone), "a name is in both halves: {:?}", delta);
            }
            check_catalog(&run.world)?;
            let open: Vec<Audience> = run.clients.keys().cloned().collect();
            let full = run.full(&open);
            for (audience, held) in &run.clients {
                match full.get(audience) {
                    Some(full) => prop_assert_eq!(held, full, "{:?} after {:?}", audience, step),
                    None => {
                        prop_assert!(!deltas.contains_key(audience), "{:?} is told something: {:?}", audience, deltas);
                        prop_assert_eq!(held, &before.get(audience).cloned().unwrap_or_default());
                    }
                }
                check_closed(&run.engine, audience, held)?;
            }
        }
        let open: Vec<Audience> = run.clients.keys().cloned().collect();
        prop_assert_eq!(run.full(&open), run.full(&open));
        open.iter().for_each(|audience| run.engine.close(audience));
        let engine = &run.engine;
        prop_assert!(engine.units.is_empty() && engine.dependents.is_empty() && engine.brings.is_empty() && engine.hosts.is_empty(), "something is kept for nobody");
    }
}

const LONG: std::time::Duration = std::time::Duration::from_secs(90);

/// An edge, a core, and a route from one to the other.
fn shop() -> World {
    World::of([
        edge("e1"),
        core("c1"),
        service("a/s", &[80]),
        set("a/s", "c1").endpoints(&["10.0.0.1:80"]),
        gateway("a/g", vec![http(80, None)]),
        route("a/r", "a/g").rule(to("a/s", 80)),
    ])
}

fn names(held: &Held) -> Vec<String> {
    held.keys().map(|(kind, name)| format!("{} {name}", kind.short())).collect()
}

const EDGE: [&str; 4] = ["CDS backbone/-/c1", "EDS backbone/-/c1", "LDS gateway/80", "RDS http/80"];

#[test]
fn a_site_that_is_deleted_keeps_what_it_had_and_catches_up_when_it_is_back() {
    let e1 = audience("e1", Role::Edge, true);
    let mut run = Run::new(shop());
    run.update(&BTreeSet::new(), std::slice::from_ref(&e1));
    assert_eq!(names(&run.clients[&e1]), EDGE);
    let changes: [fn(&mut World) -> crate::catalog::Changed; 4] = [
        |world| world.put(edge("e1").site(|site| site.state = SiteState::Deleting)),
        |world| world.remove(&ObjectRef::new(Kind::Site, "", "e1")),
        |world| world.remove(&ObjectRef::new(Kind::Gateway, "a", "g")),
        |world| world.put(set("a/s", "c1").endpoints(&["10.0.0.2:80"])),
    ];
    for change in changes {
        let changed = change(&mut run.world);
        assert!(run.edit(changed).is_empty(), "a site that goes is told nothing");
        assert_eq!(names(&run.clients[&e1]), EDGE);
    }
    let changed = run.world.put(edge("e1"));
    run.edit(changed);
    assert_eq!(names(&run.clients[&e1]), Vec::<String>::new());
}

#[test]
fn what_changed_while_a_site_was_gone_is_told_when_it_is_back() {
    let e1 = audience("e1", Role::Edge, true);
    let mut run = Run::new(shop());
    run.update(&BTreeSet::new(), std::slice::from_ref(&e1));
    let before = run.clients[&e1].clone();
    let changed = run.world.put(edge("e1").site(|site| site.state = SiteState::Deleting));
    run.edit(changed);
    let changed = run.world.put(route("a/r", "a/g").hosts(&["new.test"]).rule(to("a/s", 80)));
    assert!(run.edit(changed).is_empty());
    let changed = run.world.put(edge("e1"));
    run.edit(changed);
    assert_eq!(run.clients[&e1], run.full(std::slice::from_ref(&e1))[&e1]);
    assert_ne!(run.clients[&e1], before);
}

#[test]
fn a_name_that_another_set_of_gateways_makes_now_is_changed_and_not_gone() {
    let e1 = audience("e1", Role::Edge, true);
    let mut run = Run::new(shop());
    run.update(&BTreeSet::new(), std::slice::from_ref(&e1));
    let changed = run.world.put(gateway("a/h", vec![http(80, Some("h.test"))]));
    let delta = run.edit(changed).remove(&e1).unwrap();
    assert!(delta.removals.is_empty(), "{delta:?}");
    assert!(delta.upserts.iter().any(|r| &*r.name == "http/80"), "{delta:?}");
}

#[test]
fn an_audience_of_an_unknown_site_is_pending_until_its_site_appears() {
    let e2 = audience("e2", Role::Edge, true);
    let mut run = Run::new(shop());
    assert!(run.update(&BTreeSet::new(), std::slice::from_ref(&e2)).is_empty());
    let changed = run.world.put(edge("e2"));
    assert!(run.edit(changed).contains_key(&e2));
    assert_eq!(names(&run.clients[&e2]), EDGE);
}

#[test]
fn a_resource_that_fails_its_check_costs_itself_alone_and_is_told_of() {
    let c1 = audience("c1", Role::Core, true);
    let mut world = shop();
    world.put(service("a/t", &[80]).service(|spec| spec.connect_timeout = std::time::Duration::ZERO));
    world.put(set("a/t", "c1"));
    let mut run = Run::new(world);
    run.update(&BTreeSet::new(), std::slice::from_ref(&c1));
    let clusters: Vec<_> = names(&run.clients[&c1]).into_iter().filter(|name| name.starts_with("CDS")).collect();
    assert_eq!(clusters, ["CDS a/s:80"]);
    let told: Vec<_> = run.engine.problems().filter_map(|p| p.object.as_ref()).map(ToString::to_string).collect();
    assert_eq!(told, [ObjectRef::new(Kind::Service, "a", "t").to_string()]);
    let changed = run.world.put(service("a/t", &[80]));
    run.edit(changed);
    assert!(names(&run.clients[&c1]).contains(&"CDS a/t:80".to_owned()));
    assert_eq!(run.engine.problems().count(), 0);
}

#[test]
fn what_two_sites_read_alike_is_one_resource() {
    let (e1, e2) = (audience("e1", Role::Edge, true), audience("e2", Role::Edge, true));
    let mut run = Run::new(shop().with(edge("e2")));
    run.update(&BTreeSet::new(), &[e1.clone(), e2.clone()]);
    let key = (ResourceType::Route, Arc::from("http/80"));
    assert!(Arc::ptr_eq(&run.clients[&e1][&key], &run.clients[&e2][&key]));
    assert!(
        run.engine.units.keys().all(|unit| unit.kind != ResourceType::Route || !matches!(unit.scope, Scope::Site(_)))
    );
}

/// `count` routes of one Gateway, each with a host of its own.
fn street(count: usize, virtual_hosts: VirtualHosts) -> World {
    let mut world = shop();
    world.put(gateway("a/g", vec![http(80, None)]).gateway(|spec| spec.virtual_hosts = virtual_hosts));
    for number in 0..count {
        world.put(route(&format!("a/r{number}"), "a/g").hosts(&[&format!("h{number}.test")]).rule(to("a/s", 80)));
    }
    world
}

#[test]
fn an_edit_of_a_route_compiles_the_host_that_it_names_and_no_other() {
    for (virtual_hosts, told) in
        [(VirtualHosts::Streamed, "VHDS streamed/http/80/h7.test"), (VirtualHosts::Whole, "RDS http/80")]
    {
        let e1 = audience("e1", Role::Edge, true);
        let mut run = Run::new(street(20, virtual_hosts));
        run.update(&BTreeSet::new(), std::slice::from_ref(&e1));
        let edited = route("a/r7", "a/g").hosts(&["h7.test"]).rule(rule("new", PathMatch::Exact("/new".into())));
        let changed = run.world.put(edited).configuration;
        let stale: Vec<Key> = run.engine.dependents.readers_of(&changed).into_iter().collect();
        let [Key::Host(_, domain)] = stale.as_slice() else { panic!("{stale:?}") };
        assert_eq!(&**domain, "h7.test");
        let delta = run.update(&changed, &[]).remove(&e1).unwrap();
        let shown: Vec<String> = delta.upserts.iter().map(|r| format!("{} {}", r.kind.short(), r.name)).collect();
        assert_eq!(shown, [told]);
        assert!(delta.removals.is_empty(), "{delta:?}");
        let changed = run.world.remove(&ObjectRef::new(Kind::HttpRoute, "a", "r7"));
        let gone = run.edit(changed).remove(&e1).unwrap().removals;
        assert_eq!(gone.len(), usize::from(virtual_hosts == VirtualHosts::Streamed), "{gone:?}");
    }
}

#[test]
fn an_edit_of_a_service_costs_its_callers_what_they_have_of_it_and_its_ports_alone_their_names() {
    let client = audience("c1", Role::Grpc, true);
    let mut world = World::of([core("c1"), core("c2").site(|site| site.region = "region-c1".into())]);
    for number in 0..20 {
        let name = format!("a/s{number}");
        world.put(service(&name, &[80]).h2c(&[80]));
        world.put(set(&name, if number % 2 == 0 { "c1" } else { "c2" }));
    }
    let mut run = Run::new(world);
    run.update(&BTreeSet::new(), std::slice::from_ref(&client));
    assert_eq!(run.clients[&client].len(), 20 * 5);
    let slow = service("a/s7", &[80]).h2c(&[80]).service(|spec| spec.request_timeout = Some(LONG));
    let two = service("a/s7", &[80, 81]).h2c(&[80, 81]);
    for (edited, renamed) in [(slow, false), (two, true)] {
        let changed = run.world.put(edited).configuration;
        let stale = run.engine.dependents.readers_of(&changed);
        let names: Vec<&Key> = stale.iter().filter(|key| !matches!(key, Key::Unit(_))).collect();
        let own = Key::Service(Arc::new(client.clone()), ObjectRef::new(Kind::Service, "a", "s7"));
        assert_eq!(names, [&own][..usize::from(renamed)]);
        assert_eq!(stale.len() - names.len(), 5, "what it has of that service: {stale:?}");
        run.update(&changed, &[]);
        assert_eq!(run.clients[&client], run.full(std::slice::from_ref(&client))[&client]);
    }
    assert_eq!(run.clients[&client].len(), 20 * 5 + 3, "two ports, and none that needs no number");
}

#[test]
fn hosts_are_streamed_to_those_who_can_be_where_all_gateways_of_the_port_say_so() {
    let e1 = audience("e1", Role::Edge, true);
    let world = Audience { delta: false, ..e1.clone() };
    let mut run = Run::new(street(1, VirtualHosts::Streamed));
    run.update(&BTreeSet::new(), &[e1.clone(), world.clone()]);
    let groups = ["CDS backbone/-/c1", "EDS backbone/-/c1", "LDS gateway/80"];
    let hosts = ["RDS streamed/http/80", "VHDS streamed/http/80/*", "VHDS streamed/http/80/h0.test"];
    assert_eq!(names(&run.clients[&e1]), [&groups[..], &hosts[..]].concat());
    assert_eq!(names(&run.clients[&world]), EDGE);
    let changed = run.world.put(gateway("a/h", vec![http(80, Some("h.test"))]));
    run.edit(changed);
    assert_eq!(names(&run.clients[&e1]), EDGE);
    assert_eq!(run.clients[&e1], run.clients[&world]);
}

/// Edits around one port and two services that make resources fall back often, and mend them.
fn falls() -> impl Strategy<Value = Edit> {
    let any_of = |words: [&'static str; 2]| prop::sample::select(words.to_vec());
    let services = any_of(["a/s", "a/t"]);
    let hosts = prop::collection::vec(any_of(["x.test", "y.test"]), 0..3);
    let routes = (any_of(["a/r", "a/q"]), services.clone(), hosts, any_of(["/", "/a"])).prop_map(
        |(name, service, hosts, path)| {
            let path = PathMatch::Prefix(path.into());
            route(name, "a/g").hosts(&hosts).rule(RouteRule { matches: rule("to", path).matches, ..to(service, 80) })
        },
    );
    let places = (services.clone(), any_of(["c1", "c2"]), any_of(["c1", "c2"]))
        .prop_map(|(name, called, site)| set(name, called).endpoint_set(|set| set.site = site.into()));
    let put = |object| Edit::Put(Box::new(object));
    let going =
        |going| edge("e1").site(|site| site.state = if going { SiteState::Deleting } else { SiteState::Active });
    prop_oneof![
        4 => routes.clone().prop_map(move |route| put(spoil(route))),
        2 => routes.clone().prop_map(put),
        2 => routes.clone().prop_map(|route| Edit::Apply(Box::new(route))),
        1 => routes.prop_map(|route| Edit::Remove(route.reference())),
        2 => places.clone().prop_map(put),
        2 => places.prop_map(|set| Edit::Delete(set.reference())),
        1 => services.prop_map(move |name| put(spoil(service(name, &[80])))),
        2 => any::<bool>().prop_map(move |yes| put(going(yes))),
        2 => Just(Edit::Agree),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_falls_back_and_is_mended_equals_what_a_replica_serves_that_starts_now(
        batches in prop::collection::vec(prop::collection::vec(falls(), 1..3), 1..20),
    ) {
        let all = [audience("e1", Role::Edge, true), audience("c1", Role::Core, true), audience("c2", Role::Core, true)];
        let mut run = Run::new(accepted_shop());
        run.update(&BTreeSet::new(), &all);
        for batch in batches {
            let mut changed = BTreeSet::new();
            for edit in batch.clone() {
                changed.extend(edit.apply(&mut run.world).configuration);
            }
            run.update(&changed, &[]);
            check_catalog(&run.world)?;
            for (audience, full) in run.full(&all) {
                prop_assert_eq!(&run.clients[&audience], &full, "{:?} after {:?}", audience, batch);
                check_closed(&run.engine, &audience, &full)?;
            }
        }
    }
}

/// The route `a/r`, with a header that Envoy refuses.
fn broken() -> Object {
    spoil(route("a/r", "a/g").rule(to("a/t", 80)))
}

/// A shop that is accepted, and a second service elsewhere.
fn accepted_shop() -> World {
    let mut world = shop();
    world.put(core("c2"));
    world.put(service("a/t", &[80]));
    world.put(set("a/t", "c2"));
    world.agree();
    world
}

/// What has become of the routes: reasons and messages of the engine's problems.
fn faults(run: &Run) -> Vec<String> {
    run.engine.problems().map(|problem| format!("{}: {}", problem.key, problem.message)).collect()
}

#[test]
fn a_resource_that_fails_its_check_is_served_as_it_was_accepted_last_with_all_that_it_needs() {
    let e1 = audience("e1", Role::Edge, true);
    let mut run = Run::new(accepted_shop());
    run.update(&BTreeSet::new(), std::slice::from_ref(&e1));
    let before = run.clients[&e1].clone();
    let changed = run.world.put(broken());
    run.edit(changed);
    let key = (ResourceType::Route, Arc::from("http/80"));
    assert_eq!(run.clients[&e1][&key], before[&key]);
    assert_eq!(names(&run.clients[&e1]), EDGE, "what is served needs no other group");
    let [fault] = faults(&run).try_into().unwrap();
    assert!(
        fault.starts_with("/tidegate/v1/objects/httproutes/a/r: virtual host * of RDS http/80 is served as it was")
    );
    assert!(fault.contains("Envoy would refuse it"), "{fault}");
    assert_eq!(run.full(std::slice::from_ref(&e1))[&e1], run.clients[&e1]);
    let changed = run.world.put(route("a/r", "a/g").rule(to("a/t", 80)));
    run.edit(changed);
    assert_eq!(names(&run.clients[&e1])[..2], ["CDS backbone/-/c2", "EDS backbone/-/c2"]);
    assert_eq!(faults(&run), Vec::<String>::new());
}

#[test]
fn it_alone_falls_back_and_a_source_that_was_never_accepted_is_absent_from_it() {
    let (e1, c2) = (audience("e1", Role::Edge, true), audience("c2", Role::Core, true));
    let mut run = Run::new(accepted_shop());
    let changed = run.world.put(spoil(route("a/q", "a/g").hosts(&["q.test"]).rule(to("a/s", 80))));
    run.update(&changed.configuration, &[e1.clone(), c2.clone()]);
    let held = run.clients[&e1][&(ResourceType::Route, Arc::from("http/80"))].clone();
    assert!(held.sources.iter().all(|source| source.object.name != "q"), "{held:?}");
    assert!(held.sources.iter().any(|source| source.object.name == "r"), "{held:?}");
    let changed = run.world.put(spoil(service("a/t", &[80])));
    run.edit(changed);
    assert!(names(&run.clients[&c2]).contains(&"CDS a/t:80".to_owned()));
    let [route_fault, service_fault] = {
        let mut faults = faults(&run);
        faults.sort();
        faults.try_into().unwrap()
    };
    assert!(route_fault.contains("httproutes/a/q") && service_fault.contains("services/a/t"), "{service_fault}");
}

#[test]
fn what_serves_as_it_was_accepted_follows_what_is_accepted_of_its_other_sources() {
    let e1 = audience("e1", Role::Edge, true);
    let mut run = Run::new(accepted_shop());
    run.world.put(broken());
    run.update(&BTreeSet::new(), std::slice::from_ref(&e1));
    let beside = |path: &str| route("a/q", "a/g").rule(rule("beside", PathMatch::Exact(path.into())));
    // First without a copy, then with an older one.
    for path in ["/one", "/two"] {
        let before = run.clients[&e1].clone();
        let changed = run.world.put(beside(path));
        run.edit(changed);
        assert_eq!(run.clients[&e1], before, "it is a source of what failed, and not accepted");
        let changed = run.world.agree();
        run.edit(changed);
        assert_ne!(run.clients[&e1], before);
        assert_eq!(run.clients[&e1], run.full(std::slice::from_ref(&e1))[&e1]);
    }
}

#[test]
fn what_serves_as_it_was_accepted_follows_where_its_own_services_stand() {
    let e1 = audience("e1", Role::Edge, true);
    let mut run = Run::new(accepted_shop());
    let changed = run.world.put(broken());
    run.update(&changed.configuration, std::slice::from_ref(&e1));
    // As it was accepted it leads to `a/s`, as it stands to `a/t`.
    let changed = run.world.put(set("a/s", "c1").endpoint_set(|set| set.site = "c2".into()));
    run.edit(changed);
    assert_eq!(names(&run.clients[&e1])[..2], ["CDS backbone/-/c2", "EDS backbone/-/c2"]);
    assert_eq!(run.clients[&e1], run.full(std::slice::from_ref(&e1))[&e1]);
}

#[test]
fn what_was_accepted_and_fails_all_the_same_is_left_out() {
    let c1 = audience("c1", Role::Core, true);
    let mut run = Run::new(shop());
    run.world.apply(spoil(service("a/s", &[80])));
    run.update(&BTreeSet::new(), std::slice::from_ref(&c1));
    assert!(!names(&run.clients[&c1]).contains(&"CDS a/s:80".to_owned()));
    assert!(faults(&run)[0].contains("CDS a/s:80 is left out"), "{:?}", faults(&run));
}

#[test]
fn a_secret_that_a_fallen_back_resource_needs_goes_to_nobody_unproven() {
    let need = (ResourceType::Secret, Arc::from("a/c"));
    assert_eq!(brought(&audience("e1", Role::Edge, true), &need).len(), 1);
    assert_eq!(brought(&audience("e1", Role::Edge, false), &need), []);
}
