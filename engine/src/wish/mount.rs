//! `-v`, `--mount` and `--tmpfs`: three spellings of one thing.

use super::{WishError, bytes};
use serde::{Deserialize, Serialize};

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A named or anonymous volume.
    #[default]
    Volume,
    /// A path of the host.
    Bind,
    /// Memory.
    Tmpfs,
}

/// One mount as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MountWish {
    /// What it is.
    pub kind: MountKind,
    /// A volume's name (empty: anonymous) or a path of the host.
    pub source: String,
    /// The absolute path inside.
    pub target: String,
    /// No writing.
    pub read_only: bool,
    /// Further mount options: `rro`, `z`, `rshared`, `nosuid`, `size=…`, `mode=…`, …
    pub options: Vec<String>,
    /// A volume is not filled from the image.
    pub no_copy: bool,
    /// A missing path of the host is made, as `-v` does and `--mount` does not.
    pub create_source: bool,
    /// The part of the volume to mount.
    pub subpath: String,
    /// A volume without a name of the user's: it goes with its container.
    pub anonymous: bool,
    /// `volume-driver`.
    pub driver: String,
    /// `volume-opt`, as `KEY=VALUE`.
    pub driver_options: Vec<String>,
}

/// Options that `-v SOURCE:TARGET:OPTIONS` takes besides `ro`, `rw` and `nocopy`.
const BIND_OPTIONS: [&str; 22] = [
    "z",
    "Z",
    "shared",
    "slave",
    "private",
    "unbindable",
    "rshared",
    "rslave",
    "rprivate",
    "runbindable",
    "rro",
    "rbind",
    "bind",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "idmap",
    "cached",
    "delegated",
];

/// Why files are given to nobody.
const CHOWN: &str = "U (files are given to the container's user) is not offered: give them by hand, or use idmap";

/// Reads `-v [SOURCE:]TARGET[:OPTIONS]`. A source with a slash or a leading dot is a path of the host.
pub fn parse_volume(text: &str) -> Result<MountWish, WishError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(WishError::new(text, "a volume is [SOURCE:]TARGET[:OPTIONS]")),
    };
    if parts.len() > 1 && source.is_empty() {
        return Err(WishError::new(text, "the source is empty"));
    }
    let mut wish = MountWish { target: checked_target(text, target)?, ..MountWish::default() };
    if source.contains('/') && !source.starts_with(['/', '.']) {
        return Err(WishError::new(
            text,
            format!("{source} is no name of a volume; a path of the host begins with / or ./"),
        ));
    }
    if source.contains('/') || source.starts_with('.') {
        wish.kind = MountKind::Bind;
        wish.create_source = true;
        let absolute = std::path::absolute(source).map_err(|error| WishError::new(text, error.to_string()))?;
        wish.source = absolute.to_string_lossy().into_owned();
    } else {
        wish.source = checked_name(text, source)?;
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => wish.read_only = true,
            "rw" => wish.read_only = false,
            "nocopy" => wish.no_copy = true,
            "consistent" | "cached" | "delegated" => {}
            known if BIND_OPTIONS.contains(&known) || known.starts_with("idmap=") => {
                wish.options.push(known.to_owned());
            }
            "U" => return Err(WishError::new(text, CHOWN)),
            "O" => {
                return Err(WishError::new(
                    text,
                    "O (changes go to an overlay) is not offered: copy the directory, or use ro",
                ));
            }
            _ => return Err(WishError::new(text, format!("unknown volume option {option:?}"))),
        }
    }
    Ok(wish)
}

/// Cuts at commas, except between quotes: a field that begins with one goes to the next that is not doubled (RFC 4180).
/// `None` when a quote is not closed.
fn fields(text: &str) -> Option<Vec<String>> {
    let (mut all, mut rest) = (Vec::new(), text);
    loop {
        let mut field = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let (part, after) = quoted.split_once('"')?;
                field.push_str(part);
                match after.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        quoted = more;
                    }
                    None => {
                        rest = after;
                        break;
                    }
                }
            }
        }
        let (plain, after) = rest.split_once(',').map_or((rest, None), |(plain, after)| (plain, Some(after)));
        field.push_str(plain);
        all.push(field);
        match after {
            Some(after) => rest = after,
            None => return Some(all),
        }
    }
}

/// Reads `--mount type=bind,source=/a,target=/b,readonly`.
pub fn parse_mount(text: &str) -> Result<MountWish, WishError> {
    let mut wish = MountWish::default();
    let refuse = |reason: String| WishError::new(text, reason);
    for part in &fields(text).ok_or_else(|| refuse("a quote is not closed".to_owned()))? {
        let part = part.as_str();
        let (key, value) = part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)));
        let needs = || value.ok_or_else(|| refuse(format!("{key} needs a value")));
        let flag = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(refuse(format!("{key} is true or false, not {other:?}"))),
        };
        match key {
            "type" => {
                wish.kind = match needs()? {
                    "bind" => MountKind::Bind,
                    "volume" => MountKind::Volume,
                    "tmpfs" => MountKind::Tmpfs,
                    other => return Err(refuse(format!("mount type {other:?} is not bind, volume or tmpfs"))),
                }
            }
            "source" | "src" => needs()?.clone_into(&mut wish.source),
            "target" | "destination" | "dst" => needs()?.clone_into(&mut wish.target),
            "readonly" | "ro" => wish.read_only = flag()?,
            "rw" => wish.read_only = !flag()?,
            "bind-propagation" => wish.options.push(needs()?.to_owned()),
            "bind-recursive" => match needs()? {
                "enabled" | "writable" => {}
                "disabled" => wish.options.push("bind".into()),
                "readonly" => wish.options.push("rro".into()),
                other => return Err(refuse(format!("bind-recursive {other:?}"))),
            },
            "bind-nonrecursive" => {
                if flag()? {
                    wish.options.push("bind".into());
                }
            }
            "create-host-path" | "bind-create-src" => wish.create_source = flag()?,
            "volume-nocopy" => wish.no_copy = flag()?,
            "volume-subpath" => needs()?.clone_into(&mut wish.subpath),
            "volume-driver" => needs()?.clone_into(&mut wish.driver),
            "volume-opt" => wish.driver_options.push(needs()?.to_owned()),
            "tmpfs-size" => wish.options.push(format!("size={}", bytes(needs()?)?)),
            "tmpfs-mode" => wish.options.push(format!("mode={}", needs()?)),
            "consistency" => {}
            "relabel" => wish.options.push(if needs()? == "shared" { "z" } else { "Z" }.into()),
            "idmap" => wish.options.push(value.map_or_else(|| "idmap".to_owned(), |value| format!("idmap={value}"))),
            "U" | "chown" => {
                if flag()? {
                    return Err(refuse(CHOWN.to_owned()));
                }
            }
            _ => return Err(refuse(format!("unknown mount key {key:?}"))),
        }
    }
    wish.target = checked_target(text, &wish.target)?;
    match wish.kind {
        MountKind::Bind if !wish.source.starts_with('/') => Err(refuse("a bind's source is an absolute path".into())),
        MountKind::Tmpfs if !wish.source.is_empty() => Err(refuse("a tmpfs has no source".into())),
        MountKind::Volume => {
            wish.source = checked_name(text, &wish.source)?;
            Ok(wish)
        }
        _ => Ok(wish),
    }
}

/// Reads `--tmpfs TARGET[:OPTIONS]`.
pub fn parse_tmpfs(text: &str) -> Result<MountWish, WishError> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut wish = MountWish {
        kind: MountKind::Tmpfs,
        target: checked_target(text, target)?,
        options: options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect(),
        ..MountWish::default()
    };
    wish.read_only = wish.options.iter().any(|option| option == "ro");
    Ok(wish)
}

fn checked_target(text: &str, target: &str) -> Result<String, WishError> {
    if !target.starts_with('/') {
        return Err(WishError::new(text, "the path inside the container must be absolute"));
    }
    if target.trim_end_matches('/').is_empty() {
        return Err(WishError::new(text, "the container's root cannot be a mount point"));
    }
    Ok(target.to_owned())
}

/// Volume names are directory names.
fn checked_name(text: &str, name: &str) -> Result<String, WishError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts = name.bytes().next().is_none_or(|first| first.is_ascii_alphanumeric());
    if starts && name.len() <= 255 && name.bytes().all(good) {
        return Ok(name.to_owned());
    }
    Err(WishError::new(
        text,
        "a volume's name is letters, digits, '_', '.', '-' (a path of the host starts with / or .)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_a_comma_as_in_csv() {
        let wish = parse_mount("type=bind,\"src=/a,b\",dst=/c").unwrap();
        assert_eq!((wish.source.as_str(), wish.target.as_str()), ("/a,b", "/c"));
        assert_eq!(fields("\"a\"\"b\",,c").unwrap(), ["a\"b", "", "c"]);
        assert!(parse_mount("type=bind,\"src=/a,dst=/c").is_err());
    }

    #[test]
    fn the_short_form_tells_volumes_from_paths() {
        let wish = parse_volume("data:/d:ro").unwrap();
        assert_eq!((wish.kind, wish.source.as_str(), wish.read_only), (MountKind::Volume, "data", true));
        let wish = parse_volume("/h:/d:rshared,z").unwrap();
        assert_eq!((wish.kind, wish.create_source), (MountKind::Bind, true));
        assert_eq!(wish.options, ["rshared", "z"]);
        assert_eq!(parse_volume("/d").unwrap().source, "");
        for bad in ["", "/h:/d:O", "/h:/d:U", "a:b", ":/x", "a:/x:sideways", "a:/", "a:b:c:d", "-x:/d", "rel/dir:/d"] {
            assert!(parse_volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_long_form_refuses_what_it_does_not_know() {
        let wish = parse_mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777").unwrap();
        assert_eq!(wish.options, ["size=1048576", "mode=1777"]);
        let wish = parse_mount("type=bind,src=/a,target=/b,readonly").unwrap();
        assert!(wish.read_only && !wish.create_source);
        for bad in [
            "type=bind,src=a,dst=/b",
            "type=magic,dst=/b",
            "type=volume",
            "dst=/x,colour=red",
            "type=tmpfs,src=/a,dst=/b",
        ] {
            assert!(parse_mount(bad).is_err(), "{bad}");
        }
    }
}
