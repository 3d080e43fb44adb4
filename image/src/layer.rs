//! Layers: tar streams that become trees, and trees that become tar streams.

/// Why a layer cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {}
