//! What the engines' default seccomp profile adds to a `run`.

use super::super::bundle::Bundle;
use super::super::figure::Figures;
use super::super::measured::{cost, least_and_median};
use super::Tool;
use crate::shell::Result;
use serde_json::{Value, json};
use std::fs;

/// Where Debian's container tools keep the profile.
const PROFILE: &str = "/usr/share/containers/seccomp.json";

/// Rounds with and without the profile.
const ROUNDS: usize = 11;

/// The goal: extra CPU of a cold compile, ms.
const EXTRA_MAX: f64 = 0.5;

/// Takes the extra CPU of the profile for each tool.
pub(super) fn take(figures: &mut Figures, ours: &Tool, peers: &[Tool], bundle: &Bundle) -> Result<()> {
    let Ok(text) = fs::read_to_string(PROFILE) else {
        figures.unmeasured("seccomp-extra-cpu", "the default profile of Debian's container tools is not installed");
        return Ok(());
    };
    let plain = bundle.config()?;
    let mut filtered = plain.clone();
    filtered["linux"]["seccomp"] =
        flatten(&serde_json::from_str(&text).map_err(|error| format!("parse {PROFILE}: {error}"))?);
    let mut medians = Vec::new();
    for tool in std::iter::once(ours).chain(peers) {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            for (config, costs, word) in [(&plain, &mut without, "plain"), (&filtered, &mut with, "filtered")] {
                bundle.write(config)?;
                let id = format!("profile-{}-{}-{word}-{round}", std::process::id(), tool.name);
                costs.push(cost(&tool.run(bundle, "run", &id))?.cpu_ms);
            }
        }
        medians.push(least_and_median(&with).1 - least_and_median(&without).1);
    }
    bundle.write(&plain)?;
    figures.bound("seccomp-extra-cpu-median", "ms", medians[0], EXTRA_MAX);
    for (peer, theirs) in peers.iter().zip(&medians[1..]) {
        figures.ratio("seccomp-extra-cpu-median", "ms", medians[0], peer.name, *theirs, None);
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
