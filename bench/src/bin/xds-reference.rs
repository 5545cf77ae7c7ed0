//! A server to compare with: `xds-reference MODE ADDRESS FILE` (see `reference`).

fn main() -> anyhow::Result<()> {
    tidegate_bench::reference::run(&std::env::args().skip(1).collect::<Vec<_>>())
}
