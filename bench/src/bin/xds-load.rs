//! The load generator: `xds-load key=value…`, orders on standard input (see `load::control`).

fn main() -> anyhow::Result<()> {
    tidegate_bench::load::run(tidegate_bench::load::Settings::parse(std::env::args().skip(1))?)
}
