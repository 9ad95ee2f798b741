//! Passes a failpoint and says so, unless the point is armed and there. Built with and
//! without debug assertions by `tests/failpoint.rs`.

fn main() {
    kernel::failpoint!("launch.begin");
    println!("passed");
}
