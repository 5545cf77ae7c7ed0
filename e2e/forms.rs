//! The other forms of xDS with real Envoys: state of the world, and a stream for each type.

use std::time::Duration;

use crate::{
    change::everything_changes,
    world::{SOON, World, start_edited_envoy},
};

/// How long everything changes.
const TIME: Duration = Duration::from_secs(15);

/// A world whose Envoys have another bootstrap.
fn world(edit: fn(String) -> String) -> World {
    let mut world = World::start_alone("memory");
    let xds = world.control.xds();
    let start = |site, role| start_edited_envoy(xds, world.certs.path(), (site, role), edit);
    let (edge, cores) = (start("edge1", "edge"), ["core1", "core2"].map(|site| start(site, "core")));
    (world.edge, world.cores) = (edge, cores.into());
    world.edge.wait_ready(SOON);
    world.cores.iter_mut().for_each(|core| core.wait_ready(SOON));
    world
}

/// `cds_config` and `lds_config` with streams of their own; what they lead to stays on the aggregated one.
pub(crate) fn of_one_type(bootstrap: String) -> String {
    let own = "    api_config_source:
      api_type: DELTA_GRPC
      grpc_services:
      - envoy_grpc:
          cluster_name: xds_cluster
      transport_api_version: V3
    resource_api_version: V3
";
    let mut edited = bootstrap;
    for config in ["cds_config", "lds_config"] {
        let shared = format!("  {config}:\n    ads: {{}}\n    resource_api_version: V3\n");
        assert!(edited.contains(&shared), "{edited}");
        edited = edited.replace(&shared, &format!("  {config}:\n{own}"));
    }
    edited
}

#[test]
fn nothing_fails_while_everything_changes_in_state_of_the_world() {
    let world = world(|bootstrap| bootstrap.replace("api_type: DELTA_GRPC", "api_type: GRPC"));
    everything_changes(&world, TIME);
    assert_eq!(world.edge.stat("cluster_manager.cds.update_rejected"), 0);
}

#[test]
fn envoys_with_a_stream_for_each_type_serve() {
    let world = world(of_one_type);
    let backend = world.backend("one");
    let rules = "[{backendRefs: [{name: web, port: 80}]}]";
    let objects = crate::world::service_yaml("web", "", &[("core1", &backend)])
        + &crate::world::route_yaml("web", "web.example", rules);
    world.apply(&objects);
    assert_eq!(world.get("web.example", "/").status, 200);
    assert!(world.edge.stat("cluster_manager.cds.update_success") > 0);
}
