//! The blkio (v1) and io (v2) controllers: weights and throttles. runtime-spec config-linux.md "Block IO"

use oci::spec::{LinuxBlockIo, LinuxThrottleDevice};

use super::super::dir::Dir;
use super::super::error::CgroupError;
use super::some;

pub(in super::super) fn apply_v1(dir: Dir<'_>, io: &LinuxBlockIo) -> Result<(), CgroupError> {
    // The weight lives where the scheduler in use keeps it: CFQ's file in old kernels, BFQ's in new ones.
    let bfq = |name: &str| {
        if dir.has(&format!("blkio.{name}")) { format!("blkio.{name}") } else { format!("blkio.bfq.{name}") }
    };
    if let Some(weight) = some(io.weight) {
        write_weight(dir, &bfq("weight"), &weight.to_string())?;
    }
    if let Some(weight) = some(io.leaf_weight) {
        write_weight(dir, "blkio.leaf_weight", &weight.to_string())?;
    }
    for device in &io.weight_device {
        let line = |weight: u16| format!("{}:{} {weight}", device.major, device.minor);
        if let Some(weight) = some(device.weight) {
            write_weight(dir, &bfq("weight_device"), &line(weight))?;
        }
        if let Some(weight) = some(device.leaf_weight) {
            write_weight(dir, "blkio.leaf_weight_device", &line(weight))?;
        }
    }
    let throttles = [
        ("blkio.throttle.read_bps_device", &io.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", &io.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", &io.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", &io.throttle_write_iops_device),
    ];
    for (name, devices) in throttles {
        for device in devices {
            dir.write(name, &format!("{}:{} {}", device.major, device.minor, device.rate))?;
        }
    }
    Ok(())
}

/// A weight file is missing when the kernel has no scheduler with weights: say so instead of "no such file".
fn write_weight(dir: Dir<'_>, name: &str, value: &str) -> Result<(), CgroupError> {
    match dir.write(name, value) {
        Err(error) if error.is_missing() => Err(CgroupError::Unavailable {
            what: format!("{name} to {value}"),
            reason: "this kernel has no I/O scheduler with weights; load the bfq module or remove the weight"
                .to_owned(),
        }),
        result => result,
    }
}

pub(in super::super) fn apply_v2(
    dir: Dir<'_>,
    io: &LinuxBlockIo,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    let device_weights = io.weight_device.iter().any(|device| some(device.weight).is_some());
    let bfq = (some(io.weight).is_some() || device_weights) && dir.has("io.bfq.weight");
    if let Some(weight) = some(io.weight) {
        if bfq {
            dir.write("io.bfq.weight", &weight.to_string())?;
        } else {
            write_weight(dir, "io.weight", &io_weight(weight).to_string())?;
        }
    }
    if some(io.leaf_weight).is_some() || io.weight_device.iter().any(|device| some(device.leaf_weight).is_some()) {
        warnings.push("blockIO.leafWeight has no effect: cgroup v2 has no such file".to_owned());
    }
    for device in &io.weight_device {
        let Some(weight) = some(device.weight) else { continue };
        let number = format!("{}:{}", device.major, device.minor);
        if bfq {
            dir.write("io.bfq.weight", &format!("{number} {weight}"))?;
        } else {
            write_weight(dir, "io.weight", &format!("{number} {}", io_weight(weight)))?;
        }
    }
    for line in throttles_v2(io) {
        dir.write("io.max", &line)?;
    }
    Ok(())
}

fn throttles_v2(io: &LinuxBlockIo) -> Vec<String> {
    let kinds: [(&str, &[LinuxThrottleDevice]); 4] = [
        ("rbps", &io.throttle_read_bps_device),
        ("wbps", &io.throttle_write_bps_device),
        ("riops", &io.throttle_read_iops_device),
        ("wiops", &io.throttle_write_iops_device),
    ];
    let mut lines = Vec::new();
    for (key, devices) in kinds {
        for device in devices {
            // v1 lifts a throttle with 0; v2 refuses 0 and lifts it with "max".
            let rate = if device.rate == 0 { "max".to_owned() } else { device.rate.to_string() };
            lines.push(format!("{}:{} {key}={rate}", device.major, device.minor));
        }
    }
    lines
}

/// Converts a v1 weight (10 to 1000) to a v2 one (1 to 10000), linearly.
pub(in super::super) fn io_weight(weight: u16) -> u64 {
    match weight {
        0 => 0,
        1..=10 => 1,
        1000.. => 10_000,
        weight => 1 + (u64::from(weight) - 10) * 9999 / 990,
    }
}

#[cfg(test)]
mod tests {
    use oci::spec::LinuxWeightDevice;

    use super::super::super::fixture::Tree;
    use super::*;

    fn throttle(rate: u64) -> Vec<LinuxThrottleDevice> {
        vec![LinuxThrottleDevice { major: 8, minor: 16, rate }]
    }

    #[test]
    fn weights_map_end_to_end() {
        assert_eq!([10, 500, 1000].map(io_weight), [1, 4950, 10_000]);
    }

    #[test]
    fn v1_writes_to_bfq_where_cfq_is_gone() {
        let files = [
            ("blkio.bfq.weight", ""),
            ("blkio.bfq.weight_device", ""),
            ("blkio.throttle.read_bps_device", ""),
            ("blkio.throttle.write_iops_device", ""),
        ];
        let tree = Tree::new(&files);
        let io = LinuxBlockIo {
            weight: Some(300),
            weight_device: vec![LinuxWeightDevice { major: 8, minor: 0, weight: Some(40), leaf_weight: None }],
            throttle_read_bps_device: throttle(1024),
            throttle_write_iops_device: throttle(7),
            ..LinuxBlockIo::default()
        };
        apply_v1(tree.dir(), &io).unwrap();
        assert_eq!(files.map(|(name, _)| tree.text(name)), ["300", "8:0 40", "8:16 1024", "8:16 7"]);
    }

    #[test]
    fn v2_falls_back_to_io_weight_and_lifts_with_max() {
        let tree = Tree::new(&[("io.weight", ""), ("io.max", "")]);
        let io = LinuxBlockIo { weight: Some(500), throttle_write_bps_device: throttle(0), ..LinuxBlockIo::default() };
        apply_v2(tree.dir(), &io, &mut Vec::new()).unwrap();
        assert_eq!([tree.text("io.weight"), tree.text("io.max")], ["4950", "8:16 wbps=max"]);
        let tree = Tree::new(&[("io.bfq.weight", ""), ("io.weight", "")]);
        apply_v2(tree.dir(), &LinuxBlockIo { weight: Some(500), ..LinuxBlockIo::default() }, &mut Vec::new()).unwrap();
        assert_eq!([tree.text("io.bfq.weight"), tree.text("io.weight")], ["500", ""]);
    }

    #[test]
    fn a_missing_weight_file_names_the_scheduler() {
        let io = LinuxBlockIo { weight: Some(500), ..LinuxBlockIo::default() };
        let error = apply_v1(Tree::new(&[]).dir(), &io).unwrap_err().to_string();
        assert!(error.contains("bfq"), "{error}");
    }
}
