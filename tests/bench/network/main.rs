//! `make bench SCENARIO=network`: what the network isolators cost. Needs root, cgroups
//! and CNI's plugins.

mod cni;
#[path = "../ground.rs"]
mod ground;
mod mapping;
mod ports;
#[path = "../../support/mod.rs"]
mod support;

fn main() {
    require!(root, cgroup, cni_plugins, iperf3, unshare);
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    if mapping::is_inside() {
        return runtime().block_on(mapping::inside());
    }
    runtime().block_on(ports::scan());
    println!("network/port_mapping");
    mapping::start();
    // Last, because there is no way back to the machine's network.
    cni::enter_host();
    runtime().block_on(cni::run());
}
