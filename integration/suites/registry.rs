//! Registries and their clients: ours under docker, podman, skopeo, buildah and ctr; our client against docker-registry;
//! cut connections, killed processes, full disks. Everything on loopback, in folders that go with the test.

#[path = "registry/archives.rs"]
mod archives;
#[path = "registry/clients.rs"]
mod clients;
#[path = "registry/place.rs"]
mod place;
#[path = "registry/proxy.rs"]
mod proxy;
#[path = "registry/signature.rs"]
mod signature;
#[path = "registry/soak.rs"]
mod soak;
#[path = "registry/trouble.rs"]
mod trouble;
