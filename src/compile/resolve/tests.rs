//! Claims about what objects mean: a small world each, and what comes of it.

mod backbone;
mod clients;
mod hosts;
mod incremental;
mod listeners;
mod references;
mod routes;
mod verdicts;

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    catalog::testing::World,
    compile::{
        names::{Unit, names},
        plan::{HostAnswer, RouteConfigurationPlan},
        reader::Reader,
    },
    model::{Audience, Role, Scope},
};

fn reader(world: &World) -> Reader<'_> {
    Reader::new(world.catalog.configuration(), world.catalog.runtime())
}

fn audience(site: &str, role: Role, proven: bool) -> Audience {
    Audience { site: site.into(), role, proven, cohort: "".into(), delta: true }
}

/// What a proven audience has, as `LDS gateway/80`.
fn named(world: &World, site: &str, role: Role) -> Vec<String> {
    units(world, &audience(site, role, true)).iter().map(|u| format!("{} {}", u.kind.short(), u.name)).collect()
}

fn units(world: &World, audience: &Audience) -> Vec<Unit> {
    names(audience, &reader(world)).unwrap()
}

/// The scope of `port` for Gateways given as `namespace/name`.
fn scope(port: u16, gateways: &[&str]) -> Scope {
    let split = |name: &&str| name.split_once('/').map(|(ns, name)| (ns.to_owned(), name.to_owned())).unwrap();
    let gateways: BTreeSet<_> = gateways.iter().map(split).collect();
    Scope::Gateways { bind: "0.0.0.0".into(), port, gateways: Arc::new(gateways), streamed: false }
}

fn routes(world: &World, name: &str, gateways: &[&str]) -> RouteConfigurationPlan {
    let port = name.split('/').nth(1).unwrap().parse().unwrap();
    super::route_configuration(name, &scope(port, gateways), &reader(world)).unwrap()
}

/// Each virtual host as `domain: section section`, or `domain: 421`.
fn spelled(plan: &RouteConfigurationPlan) -> Vec<String> {
    let spell = |answer: &HostAnswer| match answer {
        HostAnswer::Misdirected => "421".to_owned(),
        HostAnswer::Routes(routes) => routes.iter().map(|r| r.section.clone()).collect::<Vec<_>>().join(" "),
    };
    plan.hosts.iter().map(|host| format!("{}: {}", host.domains.join(" "), spell(&host.answer))).collect()
}
