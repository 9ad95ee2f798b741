//! `make bench SCENARIO=network`: what the network isolators cost. Needs root, cgroups
//! and CNI's plugins.

mod cni;
#[path = "../ground.rs"]
mod ground;
mod ports;
#[path = "../../support/mod.rs"]
mod support;

fn main() {
    require!(root, cgroup, cni_plugins);
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    runtime().block_on(ports::scan());
    // Last, because there is no way back to the machine's network.
    cni::enter_host();
    runtime().block_on(cni::run());
}
