//! What the engines' default seccomp profile adds to a `run`.

use super::super::figure::Figures;
use super::super::measured::{cost, least_and_median};
use super::tool::{Bench, Tool, interleave};
use crate::shell::Result;
use serde_json::{Value, json};
use std::fs;

/// Where Debian's container tools keep the profile.
const PROFILE: &str = "/usr/share/containers/seccomp.json";

/// The goal: extra CPU of a cold compile, ms.
const EXTRA_MAX: f64 = 0.5;

/// Takes the extra CPU of the profile for each tool: least with it less least without.
pub(super) fn take(figures: &mut Figures, bench: &Bench) -> Result<()> {
    let Ok(text) = fs::read_to_string(PROFILE) else {
        figures.unmeasured("seccomp-extra-cpu", "the default profile of Debian's container tools is not installed");
        return Ok(());
    };
    let plain = bench.bundle.config()?;
    let mut filtered = plain.clone();
    filtered["linux"]["seccomp"] =
        flatten(&serde_json::from_str(&text).map_err(|error| format!("parse {PROFILE}: {error}"))?);
    let tools: Vec<&Tool> = bench.tools.iter().collect();
    let pairs = interleave(&tools, bench.rounds(15), 1, |tool, round| {
        let mut pair = [0.0; 2];
        for (at, config) in [&plain, &filtered].into_iter().enumerate() {
            bench.bundle.write(config)?;
            let id = format!("profile-{}-{}-{round}-{at}", std::process::id(), tool.name);
            pair[at] = cost(&tool.run(&bench.bundle, "run", &id))?.cpu_ms;
        }
        Ok(pair)
    });
    bench.bundle.write(&plain)?;
    let extra = |pairs: &[[f64; 2]]| {
        let least = |at: usize| least_and_median(&pairs.iter().map(|pair| pair[at]).collect::<Vec<_>>()).0;
        least(1) - least(0)
    };
    let mut pairs = pairs.into_iter();
    let mine = extra(&pairs.next().expect("ours is the first tool")?);
    figures.bound("seccomp-extra-cpu-min", "ms", mine, EXTRA_MAX);
    for (tool, theirs) in tools[1..].iter().zip(pairs) {
        match theirs {
            Ok(theirs) => figures.ratio("seccomp-extra-cpu-min", "ms", mine, tool.name, extra(&theirs), None),
            Err(why) => figures.unmeasured(&format!("seccomp-extra-cpu-{}", tool.name), &why),
        }
    }
    Ok(())
}

/// Turns the engines' profile (conditions on capabilities and architectures) into the runtime's, for no extra capability.
fn flatten(profile: &Value) -> Value {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let calls: Vec<Value> = list(&profile["syscalls"])
        .into_iter()
        .filter(|rule| list(&rule["includes"]["caps"]).is_empty())
        .filter(|rule| {
            let arches = list(&rule["includes"]["arches"]);
            arches.is_empty() || arches.contains(&json!("amd64"))
        })
        .map(|rule| {
            let mut call = json!({"names": rule["names"], "action": rule["action"]});
            for member in ["args", "errnoRet"] {
                if !rule[member].is_null() && rule[member] != json!([]) {
                    call[member] = rule[member].clone();
                }
            }
            call
        })
        .collect();
    json!({"defaultAction": profile["defaultAction"], "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": calls})
}
