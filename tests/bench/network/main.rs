//! `make bench SCENARIO=network`: what the network isolators cost. Needs root and
//! cgroups.

#[path = "../ground.rs"]
mod ground;
mod ports;
#[path = "../../support/mod.rs"]
mod support;

fn main() {
    require!(root, cgroup);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(ports::scan());
}
