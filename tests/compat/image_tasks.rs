//! Containers with images of the native containerizer, from outside.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/dockerd.rs"]
mod dockerd;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/image.rs"]
mod image;
#[path = "../support/mod.rs"]
mod support;

mod image_tasks {
    //! One file per theme.
    pub mod death;
    pub mod scene;
    pub mod store;
    pub mod table;
    pub mod tasks;
}
