//! Limits as properties of a unit. Pure but for `/proc/devices`. systemd.resource-control(5)

use oci::spec::LinuxResources;

use super::super::controller::{cpu, memory};
use super::super::error::CgroupError;
use super::wire::Value;
use crate::plan::device_rules::{self, Access, Devices, Kind, Rule};

type Property = (String, Value);

const NO_LIMIT: u64 = u64::MAX;

/// systemd rounds a quota down to whole percents: 10 ms of each second.
const QUOTA_STEP_US: u64 = 10_000;

fn property(name: &str, value: Value) -> Property {
    (name.to_owned(), value)
}

/// What every container's unit has.
pub(super) fn scope(name: &str, slice: &str, pid: i32, v2: bool) -> Vec<Property> {
    let mut all = vec![property("Description", Value::Text(format!("shoal container {name}")))];
    if name.ends_with(".slice") {
        all.push(property("Wants", Value::Texts(vec![slice.to_owned()])));
    } else {
        all.push(property("Slice", Value::Text(slice.to_owned())));
        // The cgroup below is ours: systemd keeps its hands off.
        all.push(property("Delegate", Value::Bool(true)));
    }
    all.push(property("PIDs", Value::U32s(vec![pid.unsigned_abs()])));
    let io = if v2 { "IOAccounting" } else { "BlockIOAccounting" };
    for accounting in ["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"] {
        all.push(property(accounting, Value::Bool(true)));
    }
    all.push(property("DefaultDependencies", Value::Bool(false)));
    all
}

/// The limits that systemd knows; the others are only written to the files.
pub(super) fn limits(resources: &LinuxResources, v2: bool, version: u32) -> Result<Vec<Property>, CgroupError> {
    let mut all = Vec::new();
    if let Some(wish) = &resources.memory {
        let limit = wish.limit.unwrap_or(0);
        let mut push = |name: &str, value: i64| {
            if value != 0 {
                all.push(property(name, Value::U64(value.cast_unsigned())));
            }
        };
        push(if v2 { "MemoryMax" } else { "MemoryLimit" }, limit);
        if v2 {
            push("MemoryLow", wish.reservation.unwrap_or(0));
            if let Some(swap) = memory::swap_max(limit, wish.swap.unwrap_or(0))? {
                all.push(property("MemorySwapMax", Value::U64(swap.cast_unsigned())));
            }
        }
    }
    if let Some(wish) = &resources.cpu {
        let idle = v2 && wish.idle == Some(1) && version >= 252;
        let shares = wish.shares.filter(|shares| *shares != 0);
        match (v2, idle, shares) {
            // Weight 0 means idle.
            (true, true, _) => all.push(property("CPUWeight", Value::U64(0))),
            (true, false, Some(shares)) => all.push(property("CPUWeight", Value::U64(cpu::weight(shares)))),
            (false, _, Some(shares)) => all.push(property("CPUShares", Value::U64(shares))),
            _ => {}
        }
        let quota = wish.quota.unwrap_or(0);
        let period = wish.period.unwrap_or(0);
        all.extend(quota_properties(quota, period, version));
        if version >= 244 {
            for (name, text) in [("AllowedCPUs", &wish.cpus), ("AllowedMemoryNodes", &wish.mems)] {
                if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
                    all.push(property(name, Value::Bytes(bits(text)?)));
                }
            }
        }
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit).filter(|limit| *limit != 0) {
        let limit = if limit < 0 { NO_LIMIT } else { limit.unsigned_abs() };
        all.push(property("TasksMax", Value::U64(limit)));
    }
    if let Some(weight) = resources.block_io.as_ref().and_then(|io| io.weight).filter(|weight| *weight != 0 && !v2) {
        all.push(property("BlockIOWeight", Value::U64(u64::from(weight))));
    }
    if v2 {
        unified(resources, &mut all)?;
    }
    Ok(all)
}

fn quota_properties(quota: i64, period: u64, version: u32) -> Vec<Property> {
    let mut all = Vec::new();
    if period != 0 && version >= 242 {
        all.push(property("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    if quota != 0 || period != 0 {
        let period = if period == 0 { cpu::PERIOD_US_DEFAULT } else { period };
        let per_second = match u64::try_from(quota) {
            Ok(quota) if quota > 0 => {
                let exact = u128::from(quota) * 1_000_000 / u128::from(period);
                u64::try_from(exact).unwrap_or(NO_LIMIT - QUOTA_STEP_US).next_multiple_of(QUOTA_STEP_US)
            }
            _ => NO_LIMIT,
        };
        all.push(property("CPUQuotaPerSecUSec", Value::U64(per_second)));
    }
    all
}

/// The files of `resources.unified` that are properties, too.
fn unified(resources: &LinuxResources, all: &mut Vec<Property>) -> Result<(), CgroupError> {
    for (name, text) in &resources.unified {
        let text = text.trim();
        let known = match name.as_str() {
            "memory.high" => "MemoryHigh",
            "memory.low" => "MemoryLow",
            "memory.min" => "MemoryMin",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpu.weight" => "CPUWeight",
            "cpuset.cpus" => "AllowedCPUs",
            "cpuset.mems" => "AllowedMemoryNodes",
            _ => continue,
        };
        let value = if known.starts_with("Allowed") {
            Value::Bytes(bits(text)?)
        } else if text == "max" {
            Value::U64(NO_LIMIT)
        } else {
            Value::U64(text.parse().map_err(|_| CgroupError::Invalid {
                what: "unified resource",
                value: format!("{name}={text}"),
                reason: "not a number and not max".to_owned(),
            })?)
        };
        all.push(property(known, value));
    }
    Ok(())
}

/// `0-3,7` as a bit mask, the byte with the lowest numbers first.
fn bits(text: &str) -> Result<Vec<u8>, CgroupError> {
    let wrong = || CgroupError::Invalid {
        what: "list of cpus or memory nodes",
        value: text.to_owned(),
        reason: "expected numbers and ranges below 8192, as 0-3,7".to_owned(),
    };
    let mut mask = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) =
            (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
        if first > last || last >= 8192 {
            return Err(wrong());
        }
        for number in first..=last {
            if mask.len() <= number / 8 {
                mask.resize(number / 8 + 1, 0);
            }
            mask[number / 8] |= 1 << (number % 8);
        }
    }
    if mask.is_empty() { Err(wrong()) } else { Ok(mask) }
}

/// The device rules: systemd would otherwise undo them when it reloads.
pub(super) fn devices(resources: &LinuxResources) -> Result<Vec<Property>, CgroupError> {
    let rules = device_rules::rules(&resources.devices).map_err(super::super::controller::devices::invalid)?;
    let majors = std::fs::read_to_string("/proc/devices").unwrap_or_default();
    Ok(device_properties(&rules, &majors))
}

fn device_properties(rules: &[Rule], majors: &str) -> Vec<Property> {
    let open =
        rules.iter().rev().find_map(|rule| if let Rule::Everything { allow } = rule { Some(*allow) } else { None });
    if open == Some(true) {
        // systemd cannot say "all but these"; our own filter does.
        return vec![
            property("DevicePolicy", Value::Text("auto".to_owned())),
            property("DeviceAllow", Value::Pairs(Vec::new())),
        ];
    }
    let start = rules.iter().rposition(|rule| matches!(rule, Rule::Everything { .. })).map_or(0, |at| at + 1);
    let mut allowed: Vec<(Devices, Access)> = Vec::new();
    for rule in &rules[start..] {
        let Rule::Some { allow, devices, access } = rule else { continue };
        if *allow {
            allowed.push((*devices, *access));
        } else {
            for (found, has) in &mut allowed {
                if devices.covers(found) {
                    *has = has.minus(*access);
                }
            }
        }
    }
    let pairs = allowed.iter().filter(|(_, access)| !access.is_empty());
    let pairs = pairs.filter_map(|(devices, access)| Some((device_name(devices, majors)?, access.to_string())));
    vec![
        property("DevicePolicy", Value::Text("strict".to_owned())),
        property("DeviceAllow", Value::Pairs(Vec::new())),
        property("DeviceAllow", Value::Pairs(pairs.collect())),
    ]
}

/// `/dev/char/1:3`, `char-pts`, `block-*`; a rule over all majors with one minor has no name.
fn device_name(devices: &Devices, majors: &str) -> Option<String> {
    let (word, heading) =
        if devices.kind == Kind::Char { ("char", "Character devices:") } else { ("block", "Block devices:") };
    match (devices.major, devices.minor) {
        (Some(major), Some(minor)) => Some(format!("/dev/{word}/{major}:{minor}")),
        (None, None) => Some(format!("{word}-*")),
        (None, Some(_)) => None,
        (Some(major), None) => {
            let section = majors.split_once(heading)?.1;
            let lines = section.lines().skip(1).take_while(|line| !line.trim().is_empty());
            let mut entries = lines.filter_map(|line| line.trim().split_once(' '));
            entries.find(|(number, _)| number.parse() == Ok(major)).map(|(_, name)| format!("{word}-{}", name.trim()))
        }
    }
}

/// Annotations `org.systemd.property.NAME` with a value in GVariant's text form, as `uint64 5`, `true`, `'text'`,
/// `['a', 'b']`. `NAMESec` with a number becomes `NAMEUSec`.
pub(super) fn from_annotations(annotations: &[(String, String)]) -> Result<Vec<Property>, CgroupError> {
    let mut all = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix("org.systemd.property.") else { continue };
        let wrong = |reason: &str| CgroupError::Invalid {
            what: "annotation",
            value: format!("{key}={text}"),
            reason: reason.to_owned(),
        };
        let plain = name.len() >= 3 && name.bytes().all(|byte| byte.is_ascii_alphabetic());
        if !plain {
            return Err(wrong("not the name of a property"));
        }
        let value = variant(text.trim()).ok_or_else(|| wrong("expected true, a number, 'text' or a list of texts"))?;
        match (name.strip_suffix("Sec").filter(|_| !name.ends_with("USec")), seconds(&value)) {
            (Some(stem), Some(seconds)) => {
                let micros = seconds.checked_mul(1_000_000).ok_or_else(|| wrong("too long"))?;
                all.push(property(&format!("{stem}USec"), Value::U64(micros)));
            }
            _ => all.push(property(name, value)),
        }
    }
    Ok(all)
}

fn seconds(value: &Value) -> Option<u64> {
    match value {
        Value::I32(value) => u64::try_from(*value).ok(),
        Value::I64(value) => u64::try_from(*value).ok(),
        Value::U32(value) => Some(u64::from(*value)),
        Value::U64(value) => Some(*value),
        _ => None,
    }
}

fn variant(text: &str) -> Option<Value> {
    if let Some((kind, number)) = text.split_once(' ').filter(|(kind, _)| kind.contains("int")) {
        let number = number.trim();
        return match kind {
            "int32" => number.parse().ok().map(Value::I32),
            "uint32" => number.parse().ok().map(Value::U32),
            "int64" => number.parse().ok().map(Value::I64),
            "uint64" => number.parse().ok().map(Value::U64),
            _ => None,
        };
    }
    match text {
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        _ => {}
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let texts: Option<Vec<String>> =
            inner.split(',').map(str::trim).filter(|part| !part.is_empty()).map(quoted).collect();
        return texts.map(Value::Texts);
    }
    quoted(text).map(Value::Text).or_else(|| text.parse().ok().map(Value::I32))
}

fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|quote| *quote == '\'' || *quote == '"')?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    (!inner.contains([quote, '\\', '\0'])).then(|| inner.to_owned())
}

#[cfg(test)]
mod tests {
    use oci::spec::{LinuxCpu, LinuxMemory, LinuxPids};

    use super::*;

    fn find(all: &[Property], name: &str) -> Option<Value> {
        all.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn limits_have_systemds_names_and_units() {
        let resources = LinuxResources {
            memory: Some(LinuxMemory {
                limit: Some(100),
                swap: Some(150),
                reservation: Some(-1),
                ..LinuxMemory::default()
            }),
            cpu: Some(LinuxCpu {
                shares: Some(1024),
                quota: Some(1_234),
                period: Some(100_000),
                cpus: Some("0-1,9".to_owned()),
                ..LinuxCpu::default()
            }),
            pids: Some(LinuxPids { limit: Some(-1) }),
            ..LinuxResources::default()
        };
        let all = limits(&resources, true, 252).unwrap();
        assert_eq!(find(&all, "MemoryMax"), Some(Value::U64(100)));
        assert_eq!(find(&all, "MemorySwapMax"), Some(Value::U64(50)));
        assert_eq!(find(&all, "MemoryLow"), Some(Value::U64(u64::MAX)));
        assert_eq!(find(&all, "CPUWeight"), Some(Value::U64(100)));
        assert_eq!(find(&all, "CPUQuotaPerSecUSec"), Some(Value::U64(20_000)));
        assert_eq!(find(&all, "CPUQuotaPeriodUSec"), Some(Value::U64(100_000)));
        assert_eq!(find(&all, "AllowedCPUs"), Some(Value::Bytes(vec![3, 2])));
        assert_eq!(find(&all, "TasksMax"), Some(Value::U64(u64::MAX)));
        let old = limits(&resources, false, 240).unwrap();
        assert_eq!(find(&old, "MemoryLimit"), Some(Value::U64(100)));
        assert_eq!(find(&old, "CPUShares"), Some(Value::U64(1024)));
        assert!(find(&old, "AllowedCPUs").is_none() && find(&old, "CPUQuotaPeriodUSec").is_none());
    }

    #[test]
    fn an_idle_container_has_weight_zero_where_systemd_can() {
        let cpu = LinuxCpu { idle: Some(1), shares: Some(512), ..LinuxCpu::default() };
        let resources = LinuxResources { cpu: Some(cpu), ..LinuxResources::default() };
        assert_eq!(find(&limits(&resources, true, 252).unwrap(), "CPUWeight"), Some(Value::U64(0)));
        assert_ne!(find(&limits(&resources, true, 250).unwrap(), "CPUWeight"), Some(Value::U64(0)));
    }

    #[test]
    fn devices_have_systemds_names() {
        let majors = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n";
        let all = device_properties(&device_rules::rules(&[]).unwrap(), majors);
        let Some(Value::Pairs(pairs)) = find(&all, "DeviceAllow") else { panic!("{all:?}") };
        let has = |name: &str, access: &str| pairs.contains(&(name.to_owned(), access.to_owned()));
        assert!(has("char-*", "m") && has("block-*", "m") && has("/dev/char/1:3", "rwm") && has("char-pts", "rwm"));
        assert_eq!(find(&all, "DevicePolicy"), Some(Value::Text("strict".to_owned())));
    }

    #[test]
    fn annotations_become_properties() {
        let of =
            |name: &str, text: &str| from_annotations(&[(format!("org.systemd.property.{name}"), text.to_owned())]);
        assert_eq!(of("TimeoutStopUSec", "uint64 5").unwrap(), [property("TimeoutStopUSec", Value::U64(5))]);
        assert_eq!(of("TimeoutStopSec", "5").unwrap(), [property("TimeoutStopUSec", Value::U64(5_000_000))]);
        assert_eq!(
            of("CollectMode", "'inactive'").unwrap(),
            [property("CollectMode", Value::Text("inactive".to_owned()))]
        );
        assert_eq!(
            of("After", "['a.service', 'b']").unwrap(),
            [property("After", Value::Texts(vec!["a.service".to_owned(), "b".to_owned()]))]
        );
        assert_eq!(of("Foo", "true").unwrap(), [property("Foo", Value::Bool(true))]);
        for (name, text) in [("Foo", "'x"), ("Foo", "uint64 -1"), ("a", "true"), ("Fo o", "true")] {
            assert!(of(name, text).is_err(), "{name} {text}");
        }
        assert!(from_annotations(&[("other".to_owned(), "x".to_owned())]).unwrap().is_empty());
    }

    #[test]
    fn bad_lists_are_refused() {
        for text in ["", "3-1", "a", "0-9999", "-"] {
            assert!(bits(text).is_err(), "{text}");
        }
    }
}
