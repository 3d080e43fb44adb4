//! The cpu controller: weight, quota, burst, idle, real-time. runtime-spec config-linux.md "CPU"

use oci::spec::LinuxCpu;

use super::super::dir::Dir;
use super::super::error::CgroupError;
use super::some;

/// What the kernel uses for a period nobody set, in microseconds. Documentation/scheduler/sched-bwc.rst
pub(in super::super) const PERIOD_US_DEFAULT: u64 = 100_000;

pub(in super::super) fn apply_v1(dir: Dir<'_>, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    if let Some(shares) = some(cpu.shares) {
        dir.write("cpu.shares", &shares.to_string())?;
        check_shares(dir, shares)?;
    }
    let quota = some(cpu.quota);
    let period = some(cpu.period).map(|value| ("cpu.cfs_period_us", value.to_string()));
    let burst = cpu.burst.map(|value| ("cpu.cfs_burst_us", value.to_string()));
    // A new period against the old quota, or a new burst, can exceed what the parent allows or what the old quota
    // permits: EINVAL now, fine once the new quota stands.
    let late_period = try_early(dir, period, quota.is_some())?;
    let late_burst = try_early(dir, burst, quota.is_some())?;
    if let Some(quota) = quota {
        dir.write("cpu.cfs_quota_us", &quota.to_string())?;
        for (name, value) in late_period.into_iter().chain(late_burst) {
            dir.write(name, &value)?;
        }
    }
    if let Some(idle) = cpu.idle {
        dir.write("cpu.idle", &idle.to_string())?;
    }
    real_time(dir, cpu)
}

/// The kernel clamps shares silently; the user should know.
fn check_shares(dir: Dir<'_>, shares: u64) -> Result<(), CgroupError> {
    let found = dir.number("cpu.shares")?;
    let bound = if shares > found { "maximum" } else { "minimum" };
    if shares == found {
        return Ok(());
    }
    Err(CgroupError::Invalid {
        what: "cpu shares",
        value: shares.to_string(),
        reason: format!("the {bound} allowed cpu-shares is {found}"),
    })
}

fn try_early(
    dir: Dir<'_>,
    value: Option<(&'static str, String)>,
    quota_follows: bool,
) -> Result<Option<(&'static str, String)>, CgroupError> {
    let Some((name, value)) = value else { return Ok(None) };
    match dir.write(name, &value) {
        Err(error) if error.errno() == Some(libc::EINVAL) && quota_follows => Ok(Some((name, value))),
        result => result.map(|()| None),
    }
}

/// Real-time bandwidth must stand before a real-time process is moved in, so this is also done at creation.
pub(in super::super) fn real_time(dir: Dir<'_>, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    let runtime = some(cpu.realtime_runtime);
    let period = some(cpu.realtime_period).map(|value| ("cpu.rt_period_us", value.to_string()));
    let late = try_early(dir, period, runtime.is_some())?;
    if let Some(runtime) = runtime {
        dir.write("cpu.rt_runtime_us", &runtime.to_string())?;
        if let Some((name, value)) = late {
            dir.write(name, &value)?;
        }
    }
    Ok(())
}

pub(in super::super) fn apply_v2(dir: Dir<'_>, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    if some(cpu.realtime_runtime).is_some() || some(cpu.realtime_period).is_some() {
        return Err(CgroupError::Unavailable {
            what: "cpu real-time limits".to_owned(),
            reason: "cgroup v2 has no real-time bandwidth files; remove realtimeRuntime and realtimePeriod".to_owned(),
        });
    }
    if let Some(idle) = cpu.idle {
        dir.write("cpu.idle", &idle.to_string())?;
    }
    if let Some(shares) = some(cpu.shares) {
        match dir.write("cpu.weight", &weight(shares).to_string()) {
            // An idle cgroup has a fixed weight; the kernel refuses another one.
            Err(error) if cpu.idle == Some(1) && error.errno() == Some(libc::EINVAL) => {}
            result => result?,
        }
    }
    let quota = some(cpu.quota);
    let period = some(cpu.period);
    let limits = quota.is_some() || period.is_some();
    let burst = cpu.burst.map(|value| ("cpu.max.burst", value.to_string()));
    let late_burst = try_early(dir, burst, limits)?;
    if limits {
        let quota = quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        dir.write("cpu.max", &format!("{quota} {}", period.unwrap_or(PERIOD_US_DEFAULT)))?;
        if let Some((name, value)) = late_burst {
            dir.write(name, &value)?;
        }
    }
    Ok(())
}

/// Converts v1 shares (2 to 262144, default 1024) to a v2 weight (1 to 10000, default 100).
///
/// A quadratic in the logarithm that meets all three points: a linear map would send the default 1024 to 39 and starve
/// containers beside services of weight 100.
pub(in super::super) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            #[expect(clippy::cast_precision_loss, reason = "shares are below 2^18 here")]
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and 10000 by the arms above"
            )]
            let weight = 10f64.powf(exponent).ceil() as u64;
            weight
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::Tree;
    use super::*;

    #[test]
    fn shares_become_weights_that_keep_minimum_default_and_maximum() {
        for (shares, expected) in [(2, 1), (1024, 100), (262_144, 10_000), (1, 1), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        let mut last = 0;
        for shares in (2..262_144).step_by(97) {
            assert!(weight(shares) >= last && weight(shares) <= 10_000);
            last = weight(shares);
        }
    }

    #[test]
    fn v2_writes_quota_and_period_as_one() {
        for (quota, period, expected) in [
            (Some(50_000), Some(200_000), "50000 200000"),
            (Some(50_000), None, "50000 100000"),
            (None, Some(5_000), "max 5000"),
            (Some(-1), None, "max 100000"),
        ] {
            let tree = Tree::new(&[("cpu.max", "")]);
            apply_v2(tree.dir(), &LinuxCpu { quota, period, ..LinuxCpu::default() }).unwrap();
            assert_eq!(tree.text("cpu.max"), expected);
        }
    }

    #[test]
    fn v1_writes_every_file_and_checks_the_shares() {
        let files = [
            "cpu.shares",
            "cpu.cfs_period_us",
            "cpu.cfs_quota_us",
            "cpu.cfs_burst_us",
            "cpu.idle",
            "cpu.rt_period_us",
            "cpu.rt_runtime_us",
        ];
        let tree = Tree::new(&files.map(|name| (name, "")));
        let cpu = LinuxCpu {
            shares: Some(512),
            quota: Some(20_000),
            period: Some(40_000),
            burst: Some(1_000),
            idle: Some(0),
            realtime_period: Some(1_000_000),
            realtime_runtime: Some(9_000),
            ..LinuxCpu::default()
        };
        apply_v1(tree.dir(), &cpu).unwrap();
        assert_eq!(files.map(|name| tree.text(name)), ["512", "40000", "20000", "1000", "0", "1000000", "9000"]);
    }

    #[test]
    fn real_time_limits_on_v2_are_refused_with_the_way_out() {
        let cpu = LinuxCpu { realtime_runtime: Some(1), ..LinuxCpu::default() };
        assert!(apply_v2(Tree::new(&[]).dir(), &cpu).unwrap_err().to_string().contains("remove realtimeRuntime"));
    }
}
