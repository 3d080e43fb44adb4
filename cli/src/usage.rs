//! A command line that cannot be read, told in the one shape of every failure: `shoal:` what, `hint:` what to do next.
//!
//! In: clap's error. Out: text on stderr; help and the version, which are no failures, on stdout. The exit code is the caller's.

use clap::error::ErrorKind;

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
        eprint!("{}", told(&error.render().to_string()));
    }
}

/// Rewrites clap's own layout (`error:`, `tip:`, `Usage:`, a last line that points to `--help`).
fn told(rendered: &str) -> String {
    let mut out = String::new();
    let mut usage = None;
    for line in rendered.lines() {
        if let Some(message) = line.strip_prefix("error: ") {
            out.push_str("shoal: ");
            out.push_str(message);
        } else if let Some(tip) = line.strip_prefix("  tip: ") {
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
    if let Some(usage) = usage {
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
        super::told(&definition().try_get_matches_from(words).expect_err("it cannot be read").render().to_string())
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
}
