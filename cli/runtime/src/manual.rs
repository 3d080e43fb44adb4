//! The manual page and the completions of shells, made of the table of flags so that they cannot lag behind it.
//!
//! In: nothing but the table. Out: text. Knows no container.

use std::fmt::Write;

use crate::usage::{COMMANDS, Flag, GLOBAL, Usage};

/// The manual page, for man(1) in section 8.
pub(crate) fn page() -> String {
    let mut text = format!(
        ".TH SHOAL\\-RUNTIME 8 \"\" \"shoal {}\" \"System Administration\"\n.SH NAME\nshoal\\-runtime \\- {}\n.SH SYNOPSIS\n\
         .B shoal\\-runtime\n[global options] {}\n.SH DESCRIPTION\nMakes containers of bundles as the runtime specification \
         of the Open Container Initiative describes them. It takes the command line of runc(8), and podman(1), \
         dockerd(8), containerd(1) and buildah(1) use it in its place. A bundle is a folder with a\n.I config.json\n\
         and a root file system; a container is known by its id below\n.BR \\-\\-root .\n.SH GLOBAL OPTIONS\n",
        env!("CARGO_PKG_VERSION"),
        roff(GLOBAL.about),
        roff(GLOBAL.words.0)
    );
    options(&mut text, &GLOBAL);
    text.push_str(".SH COMMANDS\n");
    for usage in COMMANDS {
        let (name, words) = (roff(usage.name), roff(usage.words.0));
        let some = if usage.flags().next().is_some() { " [options]" } else { "" };
        let _ = write!(text, ".SS {name}{some} {words}\n{}.\n", roff(usage.about));
        options(&mut text, usage);
    }
    text.push_str(
        ".SH EXIT STATUS\n.BR run ,\n.B exec\nand\n.B restore\nin the foreground end with the status of the process, 128 + N when \
         signal N ended it. Everything else ends with 0, with 1 when it failed, and with 255 when\n.B exec\ndid; what was \
         wrong is told on the standard error, in words or, with\n.BR \"\\-\\-log\\-format json\" ,\nas an object.\n.SH \
         FILES\n.TP\n.I /run/shoal\\-runtime\nWhat is known about containers, a folder each; without root below\n\
         .IR $XDG_RUNTIME_DIR .\n.SH SEE ALSO\n.BR shoal (1),\n.BR runc (8)\n",
    );
    text
}

fn options(text: &mut String, usage: &Usage) {
    for (long, short, value, about) in usage.flags() {
        let short = if short.is_empty() { String::new() } else { format!("\\-{short}, ") };
        let value = if *value { " \\fIvalue\\fR" } else { "" };
        let _ = writeln!(text, ".TP\n\\fB{short}\\-\\-{}\\fR{value}\n{}.", roff(long), roff(about));
    }
}

/// Text in which roff sees nothing of its own.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// The completion of the shell of that name.
pub(crate) fn completion(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

/// Whether a command's first word is a container.
fn takes_id(usage: &Usage) -> bool {
    usage.words.0.starts_with("<container-id>") && !matches!(usage.name, "create" | "run" | "restore")
}

/// The spellings of a flag.
fn spellings((long, short, ..): &Flag) -> Vec<String> {
    let short = (!short.is_empty()).then(|| format!("-{short}"));
    short.into_iter().chain([format!("--{long}")]).collect()
}

fn names(usage: &Usage) -> String {
    usage.flags().flat_map(spellings).collect::<Vec<_>>().join(" ")
}

fn with_value(usage: &Usage) -> String {
    usage.flags().filter(|flag| flag.2).flat_map(spellings).collect::<Vec<_>>().join("|")
}

fn bash() -> String {
    let commands: Vec<&str> = COMMANDS.iter().map(|usage| usage.name).collect();
    let mut text = format!(
        "# bash completion of shoal-runtime\n_shoal_runtime() {{\n    local cur=${{COMP_WORDS[COMP_CWORD]}} \
         prev=${{COMP_WORDS[COMP_CWORD-1]}} command= word\n    COMPREPLY=()\n    \
         for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n        case $word in {}) command=$word; break ;; esac\n    \
         done\n    case $command in\n        '')\n            case $prev in {}) return ;; esac\n            \
         COMPREPLY=($(compgen -W '{} {}' -- \"$cur\")) ;;\n",
        commands.join("|"),
        with_value(&GLOBAL),
        commands.join(" "),
        names(&GLOBAL)
    );
    for usage in COMMANDS {
        let _ = writeln!(text, "        {})", usage.name);
        let values = with_value(usage);
        if !values.is_empty() {
            let _ = writeln!(text, "            case $prev in {values}) return ;; esac");
        }
        let ids = if takes_id(usage) { " $(shoal-runtime list --quiet 2>/dev/null)" } else { "" };
        let _ = writeln!(
            text,
            "            COMPREPLY=($(compgen -W \"{} --help{ids}{}\" -- \"$cur\")) ;;",
            names(usage),
            words(usage)
        );
    }
    text.push_str("    esac\n}\ncomplete -o default -F _shoal_runtime shoal-runtime\n");
    text
}

/// The words that may follow a command and are no flags.
fn words(usage: &Usage) -> &'static str {
    match usage.name {
        "mounts" => " add remove",
        "completion" => " bash zsh fish",
        _ => "",
    }
}

fn zsh() -> String {
    let mut text = String::from(
        "#compdef shoal-runtime\n_shoal_runtime_ids() { compadd -- ${(f)\"$(shoal-runtime list --quiet 2>/dev/null)\"} }\n\
         _shoal_runtime() {\n    local state\n    local -a commands=(\n",
    );
    for usage in COMMANDS {
        let _ = writeln!(text, "        '{}:{}'", usage.name, quoted(usage.about, "'\\''"));
    }
    text.push_str("    )\n    _arguments -C \\\n");
    zsh_flags(&mut text, &GLOBAL, "        ");
    text.push_str(
        "        '1:command:->command' '*::argument:->argument'\n    case $state in\n        command) _describe command commands ;;\n        \
         argument)\n            case $words[1] in\n",
    );
    for usage in COMMANDS {
        let _ = writeln!(text, "                {}) _arguments \\", usage.name);
        zsh_flags(&mut text, usage, "                    ");
        let rest = match (usage.name, takes_id(usage)) {
            (_, true) => "'1:container:_shoal_runtime_ids' '*:argument:_files'",
            ("mounts", _) => "'1:action:(add remove)' '2:container:_shoal_runtime_ids' '*:file:_files'",
            ("completion", _) => "'1:shell:(bash zsh fish)'",
            _ => "'*:argument:_files'",
        };
        let _ = writeln!(text, "                    {rest} ;;");
    }
    text.push_str("            esac ;;\n    esac\n}\n_shoal_runtime \"$@\"\n");
    text
}

fn zsh_flags(text: &mut String, usage: &Usage, indent: &str) {
    for flag in usage.flags() {
        let about = quoted(flag.3, "'\\''").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
        let value = if flag.2 { ":value:_files" } else { "" };
        for spelling in spellings(flag) {
            let _ = writeln!(text, "{indent}'{spelling}[{about}]{value}' \\");
        }
    }
}

fn fish() -> String {
    let mut text = String::from("# fish completion of shoal-runtime\n");
    fish_flags(&mut text, &GLOBAL, "__fish_use_subcommand");
    for usage in COMMANDS {
        let about = quoted(usage.about, "\\'");
        let _ = writeln!(text, "complete -c shoal-runtime -n __fish_use_subcommand -f -a {} -d '{about}'", usage.name);
        let seen = format!("'__fish_seen_subcommand_from {}'", usage.name);
        fish_flags(&mut text, usage, &seen);
        if takes_id(usage) {
            let ids = "'(shoal-runtime list --quiet 2>/dev/null)'";
            let _ = writeln!(text, "complete -c shoal-runtime -n {seen} -a {ids}");
        } else if !words(usage).is_empty() {
            let _ = writeln!(text, "complete -c shoal-runtime -n {seen} -f -a '{}'", words(usage).trim());
        }
    }
    text
}

fn fish_flags(text: &mut String, usage: &Usage, condition: &str) {
    for (long, short, value, about) in usage.flags() {
        let short = if short.is_empty() { String::new() } else { format!(" -s {short}") };
        let value = if *value { " -r" } else { "" };
        let about = quoted(about, "\\'");
        let _ = writeln!(text, "complete -c shoal-runtime -n {condition} -l {long}{short}{value} -d '{about}'");
    }
}

/// Text within single quotes, of which `quote` is how the shell writes one.
fn quoted(text: &str, quote: &str) -> String {
    text.replace('\'', quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_flag_is_in_all_of_them() {
        let texts = [page().replace("\\-", "-"), bash(), zsh(), fish().replace(" -l ", " --")];
        for text in &texts {
            for usage in COMMANDS.iter().chain([&GLOBAL]) {
                assert!(text.contains(usage.name), "{}", usage.name);
                for flag in usage.flags() {
                    assert!(text.contains(&format!("--{}", flag.0)), "{} {}", usage.name, flag.0);
                }
            }
        }
        assert!(completion("tcsh").is_none());
    }

    #[test]
    fn what_a_program_would_read_as_its_own_is_marked() {
        assert_eq!(roff(".a-b\\"), "\\&.a\\-b\\e");
        assert!(zsh().contains("'--bundle[the bundle'\\''s folder (default\\: the current folder)]:value:_files'"));
        assert!(fish().contains("-d 'the bundle\\'s folder"));
    }
}
