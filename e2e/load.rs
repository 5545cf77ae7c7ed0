//! What proxies report of their load: what was sent is what is counted, under the names that the proxies know.

use serde_json::Value;

use crate::{
    harness::wait_for,
    world::{SOON, World, route_yaml, service_yaml},
};

/// What `tidegate top` says of a cluster: requests that were counted, by destination.
fn counted(world: &World, site: &str, cluster: &str) -> Option<Vec<(String, u64)>> {
    let rows: Vec<Value> = serde_json::from_str(&world.control.run(&["top", site, "-o", "json"]).ok().stdout).unwrap();
    let row = rows.into_iter().find(|row| row["cluster"] == cluster)?;
    let to = row["destinations"].as_array().unwrap().iter();
    Some(to.map(|to| (to["site"].as_str().unwrap().to_owned(), to["requests"].as_u64().unwrap())).collect())
}

#[test]
fn requests_that_were_sent_are_counted_exactly_at_edge_and_core() {
    let world = World::start_with("memory", &["--load-report-interval", "1s"]);
    let backend = world.backend("near");
    let rule = "[{backendRefs: [{name: web, port: 80}]}]";
    world.apply(&(service_yaml("web", "", &[("core1", &backend)]) + &route_yaml("web", "shop.example", rule)));
    let (group, service) = ("backbone/-/core1", "shop/web:80");
    let both = || [("edge1", group), ("core1", service)].map(|(site, cluster)| counted(&world, site, cluster));

    // The first interval of a new cluster is not reported (Envoy's way), so the count begins once both are.
    wait_for("edge and core report the cluster", SOON, || {
        assert_eq!(world.get("shop.example", "/").status, 200);
        let now = both();
        if now.iter().all(Option::is_some) { Ok(()) } else { Err(format!("{now:?}")) }
    });
    let settled = || {
        let mut before = both();
        wait_for("two looks, two intervals apart, are alike", SOON, || {
            std::thread::sleep(std::time::Duration::from_millis(2_200));
            let now = both();
            let was = std::mem::replace(&mut before, now.clone());
            if was == now { Ok(()) } else { Err(format!("{was:?}, {now:?}")) }
        });
        before.map(Option::unwrap_or_default)
    };
    let before = settled();
    for _ in 0..50 {
        assert_eq!(world.get("shop.example", "/").status, 200);
    }
    let after = settled();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.len(), 1, "one destination: {before:?}");
        assert_eq!((&after[0].0, after[0].1), (&"core1".to_owned(), before[0].1 + 50));
    }

    let table = world.control.run(&["top"]).ok().stdout;
    assert!(table.contains(group) && table.contains(service), "{table}");
    assert!(!table.contains("tidegate"), "the connection to the control plane itself is nobody's load: {table}");
    let (_, metrics) = world.control.page("/metrics").unwrap();
    for (site, cluster, count) in [("edge1", group, after[0][0].1), ("core1", service, after[1][0].1)] {
        let line = format!("tidegate_load_requests_total{{site=\"{site}\",cluster=\"{cluster}\"}} {count}");
        assert!(metrics.lines().any(|l| l == line), "{line} is missing from\n{metrics}");
    }
}
