//! The rdma controller; one file, the same in both versions. runtime-spec config-linux.md "RDMA"

use std::collections::BTreeMap;

use oci::spec::LinuxRdma;

use super::super::dir::Dir;
use super::super::error::CgroupError;

pub(in super::super) fn apply(dir: Dir<'_>, devices: &BTreeMap<String, LinuxRdma>) -> Result<(), CgroupError> {
    for (device, limits) in devices {
        let mut line = device.clone();
        for (key, value) in [("hca_handle", limits.hca_handles), ("hca_object", limits.hca_objects)] {
            if let Some(value) = value {
                line.push_str(&format!(" {key}={value}"));
            }
        }
        if line.len() > device.len() {
            dir.write("rdma.max", &line)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::Tree;
    use super::*;

    #[test]
    fn only_what_is_given_is_written() {
        let tree = Tree::new(&[("rdma.max", "")]);
        let limits = LinuxRdma { hca_handles: Some(2), hca_objects: None };
        apply(tree.dir(), &BTreeMap::from([("mlx5_1".to_owned(), limits)])).unwrap();
        assert_eq!(tree.text("rdma.max"), "mlx5_1 hca_handle=2");
    }
}
