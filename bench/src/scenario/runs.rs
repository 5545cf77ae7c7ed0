//! stub
use super::{cell::*, server::*};
#[derive(Debug)]
pub struct Plan;
pub fn run(_: &Plan) -> anyhow::Result<()> {
    let a: Vec<String> = std::env::args().collect();
    let setup = Setup {
        dir: folder(std::path::Path::new("/tmp/wt/f-run"))?,
        tidegate: "/tmp/wt/f/target/release/tidegate".into(),
        go: None,
    };
    let kind = match a[1].as_str() {
        "tidegate" => Kind::Tidegate,
        "etcd" => Kind::TidegateEtcd,
        "floor" => Kind::Floor,
        "naive" => Kind::Naive,
        _ => Kind::Baseline,
    };
    let asks = match a[2].as_str() {
        "cds" => Asks::Cds,
        "eds" => Asks::Eds,
        n => Asks::Share(n.parse()?),
    };
    let cell = Cell { kind, asks, clients: a[3].parse()?, resources: a[4].parse()?, rounds: a[5].parse()? };
    println!("{:#?}", measure(&cell, &setup)?);
    Ok(())
}
