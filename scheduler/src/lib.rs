//! Services: desired state, placement, reconcile, routes; the node loop of the mesh.
