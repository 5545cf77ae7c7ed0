fn main() -> anyhow::Result<()> {
    tidegate_bench::scenario::run(&tidegate_bench::scenario::Plan)
}
