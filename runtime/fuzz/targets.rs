//! What is fuzzed: bytes of a hostile bundle, as far as they are read without touching the host.
//!
//! In: any bytes. Out: a class of outcome (the words of the refusal without its numbers and names), by which a driver
//! without coverage knows something new when it sees it. A target panics when an invariant is broken, and never else.

use std::path::Path;

use oci::spec::{LinuxSeccomp, Spec};
use runtime::container::Container;
use runtime::facts::HostFacts;
use runtime::plan::seccomp::{Arch, compile};
use runtime::plan::{Options, Step, mount_options, plan};

/// A fuzz target.
pub(crate) type Target = fn(&[u8]) -> String;

/// Every target by its name, which is also the name of its corpus.
pub(crate) const TARGETS: [(&str, Target); 3] = [("config", config), ("mount_options", options), ("seccomp", seccomp)];

/// `config.json`, from bytes to plan: an error in words, or a plan whose paths stay inside and that can be printed.
pub(crate) fn config(bytes: &[u8]) -> String {
    let spec = match Spec::parse(bytes) {
        Ok(spec) => spec,
        Err(error) => return class("parse", &error.to_string()),
    };
    // What was understood survives being written and read again.
    let text = serde_json::to_vec(&spec).expect("a document that was read can be written");
    assert!(Spec::parse(&text).is_ok_and(|again| again == spec), "reads differently the second time");
    let id = "fuzz".parse().expect("a name");
    let container = match Container::accept(id, Path::new("/bundle"), spec) {
        Ok(container) => container,
        Err(error) => return class("accept", &error.to_string()),
    };
    let facts = HostFacts { has_kcore: true, ..HostFacts::default() };
    match plan(&container, &facts, Options::default()) {
        Err(error) => class("plan", &error.to_string()),
        Ok(plan) => {
            for step in &plan.steps {
                if let Step::Mount(mount) = step {
                    let path = Path::new(&mount.destination);
                    let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
                    assert!(!climbs, "{} leaves the root", mount.destination);
                }
            }
            let _ = serde_json::to_vec(&plan).expect("a plan can be printed");
            class("planned", &format!("{} steps, {} warnings", plan.steps.len(), plan.warnings.len()))
        }
    }
}

/// Options of a mount, separated by commas: a word of a table is never handed to a file system.
pub(crate) fn options(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let read = mount_options::read(text.split(','));
    let known = mount_options::known();
    for (key, value) in &read.filesystem {
        let word = value.as_ref().map_or_else(|| key.clone(), |value| format!("{key}={value}"));
        assert!(value.is_some() || !known.contains(&word) || is_filesystem_word(&word), "{word} is in a table");
    }
    let again = mount_options::read(text.split(','));
    assert!(again == read, "reads differently the second time");
    format!(
        "bind {:?} copy {} idmap {:?} attr {:?} {:?} propagation {} other {}",
        read.bind,
        read.copy_up,
        read.idmap,
        read.attr,
        read.recursive_attr,
        read.propagation.len().min(3),
        read.filesystem.len().min(3)
    )
}

/// Words of the tables that are meant for the file system.
fn is_filesystem_word(word: &str) -> bool {
    mount_options::read([word]).filesystem.len() == 1
}

/// A seccomp profile: refused in words, or a program that the kernel's checker takes.
pub(crate) fn seccomp(bytes: &[u8]) -> String {
    let profile: LinuxSeccomp = match serde_json::from_slice(bytes) {
        Ok(profile) => profile,
        Err(error) => return class("parse", &error.to_string()),
    };
    match compile(&profile, Arch::host().expect("tests run on a host with a table")) {
        Err(error) => class("compile", &error.to_string()),
        Ok(filter) => {
            check_program(&filter.program);
            let length = filter.program.len().next_power_of_two();
            class("compiled", &format!("{length:b} {} {}", filter.notify, filter.unknown.is_empty()))
        }
    }
}

/// What the kernel wants of a program: not empty, not too long, jumps forward and inside, a return at the end.
fn check_program(program: &[seccompiler::sock_filter]) {
    const CLASS: u16 = 7;
    const JUMP: u16 = 5;
    const RETURN: u16 = 6;
    const ALWAYS: u16 = 0;
    assert!(!program.is_empty() && program.len() <= 4096, "{} instructions", program.len());
    for (at, instruction) in program.iter().enumerate() {
        if instruction.code & CLASS != JUMP {
            continue;
        }
        let far = |by: usize| assert!(at + 1 + by < program.len(), "instruction {at} jumps outside");
        if instruction.code & 0xf0 == ALWAYS {
            far(usize::try_from(instruction.k).expect("a 64-bit host"));
        } else {
            far(instruction.jt.into());
            far(instruction.jf.into());
        }
    }
    assert_eq!(program.last().map(|last| last.code & CLASS), Some(RETURN), "falls off the end");
}

/// The words of an outcome without what is quoted or counted in it.
fn class(stage: &str, words: &str) -> String {
    let mut class = format!("{stage}: ");
    let mut quoted = false;
    for letter in words.chars().take(300) {
        match letter {
            '"' | '`' => quoted = !quoted,
            _ if quoted || letter.is_ascii_digit() => {}
            _ => class.push(letter),
        }
    }
    class
}
