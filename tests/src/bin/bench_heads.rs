//! `cargo xtask bench heads`: what a request head costs the proxy. See [`sluice_tests::bench::heads`].
fn main() -> anyhow::Result<()> {
    sluice_tests::bench::heads()
}
