//! (being written)
/// placeholder
#[derive(Debug)]
pub struct ContainerId(String);
