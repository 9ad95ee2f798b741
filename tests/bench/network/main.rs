//! `make bench SCENARIO=network`: what the network isolators cost. Needs root, cgroups,
//! CNI's plugins and iperf3. `-- ports`, `-- mapping` and `-- cni` are its parts.

mod cni;
#[path = "../figures.rs"]
mod figures;
#[path = "../ground.rs"]
mod ground;
mod mapping;
mod ports;
#[path = "../../support/mod.rs"]
mod support;

fn main() {
    require!(root, cgroup, cni_plugins, iperf3, unshare, nsenter);
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    if mapping::is_inside() {
        return runtime().block_on(mapping::inside());
    }
    let parts: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|named| named == part);
    if wanted("ports") {
        runtime().block_on(ports::scan());
    }
    if wanted("mapping") {
        println!("network/port_mapping");
        mapping::start();
    }
    if wanted("cni") {
        // Last, because there is no way back to the machine's network.
        cni::enter_host();
        runtime().block_on(cni::run());
    }
}
