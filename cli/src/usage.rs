//! A command line that cannot be read, told in the one shape of every failure: `shoal:` what, `hint:` what to do next.
//!
//! In: clap's error. Out: text on stderr; help and the version, which are no failures, on stdout. The exit code is the caller's.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// docker's and podman's verbs that are not here, and what to do instead.
const VERBS_ELSEWHERE: [(&str, &str); 19] = [
    (
        "build",
        "not here yet: build with `buildah bud -t NAME .`, then `buildah push NAME oci-archive:FILE` and `shoal load -i FILE`",
    ),
    ("buildx", "not here yet: build with `buildah bud`, then `shoal load`"),
    ("builder", "not here yet: build with `buildah bud`, then `shoal load`"),
    (
        "compose",
        "`shoal stack deploy -c compose.yaml NAME` runs compose files on the nodes of a mesh, also of one node",
    ),
    ("swarm", "`shoal mesh up` makes a mesh, `shoal mesh up --join TOKEN` joins one; no node is a manager"),
    ("secret", "not here yet: mount a file (`--secret` of run), or keep the value in `shoal kv`"),
    ("config", "not here yet: mount a file, or keep the value in `shoal kv`"),
    ("context", "there is no daemon to point at: --root names another state, SHOAL_HOST another node's socket"),
    ("plugin", "there are no plugins"),
    ("search", "registries are not searched: name the image whole, as in `shoal pull REGISTRY/NAME:TAG`"),
    ("trust", "signatures are judged by containers-policy.json: see `shoal pull --help`"),
    ("scout", "not here: scan a `shoal save` archive with the tool of your choice"),
    ("pod", "not here: `--network container:NAME` and `--pid container:NAME` share a container's namespaces"),
    ("play", "not here: `shoal stack deploy` reads compose files"),
    ("kube", "not here: `shoal stack deploy` reads compose files"),
    ("machine", "not here: shoal runs on Linux itself"),
    ("unshare", "not here: rootless commands enter the user namespace by themselves"),
    ("mount", "not here: `shoal cp` reads and writes a container's files"),
    ("init", "not here"),
];

/// docker's and podman's flags that are not here, and why.
const FLAGS_ELSEWHERE: [(&str, &str); 9] = [
    ("--gpus", "not here yet: pass the devices with --device"),
    ("--link", "not here: containers of one `shoal network create`d network know each other by name"),
    ("--isolation", "only for Windows"),
    ("--platform-os", "only for Windows"),
    ("--with-registry-auth", "not needed: every node uses its own credentials (`shoal login`)"),
    ("--config", "not here yet: mount a file"),
    ("--pod", "not here: `--network container:NAME` shares a container's network"),
    ("--volume-driver", "not here: NFS and others are options of `shoal volume create`"),
    ("--storage-opt", "not here yet"),
];

/// Prints the error, or the help that was asked for.
pub(crate) fn report(error: &clap::Error) {
    let asked = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if asked {
        // What cannot be printed now has no other place to go.
        error.print().ok();
    } else {
        eprint!("{}", told(error));
    }
}

/// What to do in place of a word that other tools have and this one has not.
fn elsewhere(error: &clap::Error) -> Option<&'static str> {
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => word.split('=').next().unwrap_or(word),
        _ => "",
    };
    let find = |table: &[(&str, &'static str)], word: &str| {
        table.iter().find(|(name, _)| *name == word).map(|(_, instead)| *instead)
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => find(&VERBS_ELSEWHERE, named(ContextKind::InvalidSubcommand)),
        ErrorKind::UnknownArgument => find(&FLAGS_ELSEWHERE, named(ContextKind::InvalidArg)),
        _ => None,
    }
}

/// Rewrites clap's own layout (`error:`, `tip:`, `Usage:`, a last line that points to `--help`).
fn told(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let elsewhere = elsewhere(error);
    let mut out = String::new();
    let mut usage = None;
    for line in rendered.lines() {
        if let Some(message) = line.strip_prefix("error: ") {
            out.push_str("shoal: ");
            out.push_str(message);
        } else if let Some(tip) = line.strip_prefix("  tip: ") {
            // With a better one, and of how to pass the wrong flag on: nobody meant that.
            if elsewhere.is_some() || tip.starts_with("to pass ") {
                continue;
            }
            out.push_str("  hint: ");
            out.push_str(tip);
        } else if let Some(words) = line.strip_prefix("Usage: ") {
            usage = Some(words.to_owned());
            continue;
        } else if line.is_empty() || line.starts_with("For more information") {
            continue;
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    if let Some(elsewhere) = elsewhere {
        out.push_str(&format!("  hint: {elsewhere}\n"));
    }
    if let Some(usage) = usage {
        // A value of the environment makes clap name the flag it belongs to.
        let usage = usage.replace(" --root <DIR>", "");
        let command = usage.split(" [").next().and_then(|words| words.split(" <").next()).unwrap_or("shoal");
        let command: Vec<&str> = command.split(' ').take_while(|word| !word.starts_with('-')).collect();
        out.push_str(&format!("  usage: {usage}\n  hint: {} --help\n", command.join(" ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::definition;

    fn said(words: &[&str]) -> String {
        super::told(&definition().try_get_matches_from(words).expect_err("it cannot be read"))
    }

    #[test]
    fn a_wrong_verb_and_a_wrong_flag_name_what_was_meant() {
        let verb = said(&["shoal", "imagse"]);
        assert!(verb.starts_with("shoal: unrecognized subcommand 'imagse'\n"), "{verb}");
        assert!(verb.contains("hint:") && verb.contains("'images'"), "{verb}");
        let flag = said(&["shoal", "run", "--detatch", "image"]);
        assert!(flag.contains("--detatch") && flag.contains("'--detach'"), "{flag}");
        assert!(flag.ends_with("  hint: shoal run --help\n"), "{flag}");
    }

    #[test]
    fn a_word_of_other_tools_is_answered_with_what_there_is_instead() {
        let verb = said(&["shoal", "swarm", "init"]);
        assert!(verb.contains("shoal mesh up") && !verb.contains("'start'"), "{verb}");
        let flag = said(&["shoal", "run", "--gpus", "all", "image"]);
        assert!(flag.contains("--device") && !flag.contains("as a value"), "{flag}");
        for (verb, _) in super::VERBS_ELSEWHERE {
            assert!(definition().try_get_matches_from(["shoal", verb]).is_err(), "{verb} is here");
        }
    }
}
