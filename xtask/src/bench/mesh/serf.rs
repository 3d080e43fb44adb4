//! The compared side: one `serf` agent in each host of the rig, with its defaults for a LAN. In: the rig. Out: how long each
//! survivor took to say that a killed agent failed.

use super::rig::{Rig, until};
use crate::shell::Result;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LONGEST: Duration = Duration::from_secs(90);

/// Lines of agents that say that a member came or failed, with the moment they came.
type Lines = Arc<Mutex<Vec<(usize, String, Instant)>>>;

/// Agents, ended when dropped.
struct Agents(Vec<Child>);

impl Drop for Agents {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start(rig: &Rig, at: usize, lines: &Lines) -> Result<Child> {
    let node = &rig.nodes[at];
    let mut command = node.inside("serf");
    command.args(["agent", "-log-level=info", &format!("-node=n{at}"), &format!("-bind={}:7946", node.address)]);
    if at > 0 {
        command.arg(format!("-retry-join={}:7946", rig.nodes[0].address));
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.map_err(|error| format!("serf is not installed ({error}); run: apt-get install serf"))?;
    let pipe = child.stdout.take().ok_or("its output is piped")?;
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(std::result::Result::ok) {
            if line.contains("EventMember") {
                lines.lock().expect("no reader panics").push((at, line, Instant::now()));
            }
        }
    });
    Ok(child)
}

/// Kills agents one after the other; returns the milliseconds until each survivor said so.
pub(super) fn deaths(rig: &Rig, deaths: usize) -> Result<Vec<f64>> {
    let count = rig.nodes.len();
    let lines = Lines::default();
    let mut agents = Agents(Vec::new());
    for at in 0..count {
        agents.0.push(start(rig, at, &lines)?);
    }
    let joined = |at: usize| {
        let lines = lines.lock().expect("no reader panics");
        lines.iter().filter(|(of, line, _)| *of == at && line.contains("EventMemberJoin")).count()
    };
    if !until(LONGEST, || (0..count).all(|at| joined(at) >= count)) {
        return Err("serf's agents did not find each other".into());
    }
    std::thread::sleep(Duration::from_secs(5));
    let mut delays = Vec::new();
    for death in 0..deaths {
        let victim = 1 + death * 5 % (count - 1);
        lines.lock().expect("no reader panics").clear();
        let began = Instant::now();
        agents.0[victim].kill().map_err(|error| error.to_string())?;
        let _ = agents.0[victim].wait();
        let failed = format!("EventMemberFailed: n{victim} ");
        let look = || {
            let lines = lines.lock().expect("no reader panics");
            lines
                .iter()
                .filter(|(_, line, _)| format!("{line} ").contains(&failed))
                .map(|(_, _, at)| at.saturating_duration_since(began).as_secs_f64() * 1_000.0)
                .collect::<Vec<f64>>()
        };
        until(LONGEST, || look().len() >= count - 1);
        let told = look();
        delays.extend(std::iter::repeat_n(LONGEST.as_secs_f64() * 1_000.0, (count - 1).saturating_sub(told.len())));
        delays.extend(told);
        agents.0[victim] = start(rig, victim, &lines)?;
        let back = format!("EventMemberJoin: n{victim} ");
        until(LONGEST, || {
            let lines = lines.lock().expect("no reader panics");
            lines.iter().filter(|(_, line, _)| format!("{line} ").contains(&back)).count() >= count
        });
    }
    Ok(delays)
}
