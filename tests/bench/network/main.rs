//! `make bench SCENARIO=network`: what the network isolators cost. Needs root, cgroups,
//! CNI's plugins and iperf3. `BULKHEAD_BENCH_PART` narrows it to `ports`, `mapping` or
//! `cni`.

mod cni;
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
    let part = std::env::var("BULKHEAD_BENCH_PART").unwrap_or_default();
    let wanted = |name: &str| part.is_empty() || part == name;
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
