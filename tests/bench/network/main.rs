//! `make bench SCENARIO=network`: what the network isolators cost. Needs root, cgroups
//! and CNI's plugins. `-- ports` and `-- cni` are its halves.

mod cni;
#[path = "../ground.rs"]
mod ground;
mod ports;
#[path = "../../support/mod.rs"]
mod support;

fn main() {
    require!(root, cgroup, cni_plugins);
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let halves: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |half: &str| halves.is_empty() || halves.iter().any(|named| named == half);
    if wanted("ports") {
        runtime().block_on(ports::scan());
    }
    if wanted("cni") {
        // Last, because there is no way back to the machine's network.
        cni::enter_host();
        runtime().block_on(cni::run());
    }
}
