//! Variables in a compose file: `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:?message}`, `$$`. Pure.

/// Replaces variables; the error is a sentence about the variable. `unset` is told of each that is nowhere set and has no default:
/// it becomes empty.
pub(super) fn expand(
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    unset: &dyn Fn(&str),
) -> Result<String, String> {
    let plain = |name: &str| {
        environment(name).unwrap_or_else(|| {
            unset(name);
            String::new()
        })
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(next) = after.strip_prefix('$') {
            out.push('$');
            rest = next;
        } else if let Some(inner) = after.strip_prefix('{') {
            let end = inner.find('}').ok_or_else(|| format!("${{{inner}: the brace is not closed"))?;
            out.push_str(&braced(&inner[..end], environment, &plain)?);
            rest = &inner[end + 1..];
        } else {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            if end == 0 {
                return Err("a single $ is written as $$".to_owned());
            }
            out.push_str(&plain(&after[..end]));
            rest = &after[end..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn braced(
    inner: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    plain: &dyn Fn(&str) -> String,
) -> Result<String, String> {
    let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
    let (name, operation) = inner.split_at(end);
    if name.is_empty() {
        return Err(format!("${{{inner}}}: a name is missing"));
    }
    if operation.is_empty() {
        return Ok(plain(name));
    }
    let value = environment(name);
    let full = value.clone().filter(|value| !value.is_empty());
    for (operator, value) in [(":-", &full), ("-", &value)] {
        if let Some(default) = operation.strip_prefix(operator) {
            return Ok(value.clone().unwrap_or_else(|| default.to_owned()));
        }
    }
    for (operator, value) in [(":?", &full), ("?", &value)] {
        if let Some(message) = operation.strip_prefix(operator) {
            return value.clone().ok_or_else(|| format!("{name} is not set: {message}"));
        }
    }
    for (operator, value) in [(":+", &full), ("+", &value)] {
        if let Some(instead) = operation.strip_prefix(operator) {
            return Ok(if value.is_some() { instead.to_owned() } else { String::new() });
        }
    }
    Err(format!("${{{inner}}} is not understood: it is ${{NAME}}, ${{NAME:-default}} or ${{NAME:?message}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_replaced() {
        let environment = |name: &str| match name {
            "TAG" => Some("1.2".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, wanted) in [
            ("web:$TAG", "web:1.2"),
            ("web:${TAG}-x", "web:1.2-x"),
            ("${NONE:-a}${EMPTY:-b}${EMPTY-c}", "ab"),
            ("$$HOME", "$HOME"),
            ("${TAG:+yes}${NONE:+no}", "yes"),
            ("plain", "plain"),
        ] {
            let silent = |name: &str| panic!("{name} is said to be unset");
            assert_eq!(expand(text, &environment, &silent).unwrap(), wanted);
        }
        let unset = std::cell::RefCell::new(Vec::new());
        let told = |name: &str| unset.borrow_mut().push(name.to_owned());
        assert_eq!(expand("a$NONE-${NADA}${EMPTY}", &environment, &told).unwrap(), "a-");
        assert_eq!(unset.take(), ["NONE", "NADA"]);
        assert_eq!(expand("${NONE:?set it}", &environment, &told).unwrap_err(), "NONE is not set: set it");
        for bad in ["${TAG", "$ x", "${}", "${TAG~}"] {
            assert!(expand(bad, &environment, &told).is_err(), "{bad}");
        }
    }
}
