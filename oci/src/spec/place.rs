//! From a position in JSON text to the name of the field there: run only after reading failed, so that reading itself
//! keeps no path.

/// The field around `line` and `column` (both from 1), as `mounts[2].options[0]`; `config` at the top.
pub(super) fn of(text: &[u8], line: usize, column: usize) -> String {
    let start =
        text.split_inclusive(|&byte| byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
    let end = (start + column).min(text.len());
    render(&steps(&text[..end]))
}

/// One open bracket on the way to the position.
enum Step {
    /// In an object, at this key.
    Key(String),
    /// In an array, at this index.
    Index(usize),
}

fn steps(text: &[u8]) -> Vec<Step> {
    let mut open = Vec::new();
    let mut string = String::new();
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' => open.push(Step::Key(String::new())),
            b'[' => open.push(Step::Index(0)),
            // The bracket that closes a value of the wrong type is part of that value: keep the last step.
            b'}' | b']' if bytes.len() > 0 => drop(open.pop()),
            b':' => {
                if let Some(Step::Key(key)) = open.last_mut() {
                    *key = std::mem::take(&mut string);
                }
            }
            b',' => {
                if let Some(Step::Index(index)) = open.last_mut() {
                    *index += 1;
                }
            }
            b'"' => string = quoted(&mut bytes),
            _ => {}
        }
    }
    open
}

/// Reads to the closing quote.
fn quoted(bytes: &mut impl Iterator<Item = u8>) -> String {
    let mut text = Vec::new();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => break,
            b'\\' => text.extend(bytes.next()),
            _ => text.push(byte),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn render(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Key(key) if key.is_empty() => {}
            Step::Key(key) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
            Step::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    if path.is_empty() { "config".to_owned() } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_under_the_position_is_named() {
        let text = br#"{"a": [{"b": "x"}, {"b": 7}], "c": {"d": [1, 2]}}"#;
        let at =
            |needle: &[u8]| text.windows(needle.len()).position(|part| part == needle).expect("is in the text") + 1;
        assert_eq!(of(text, 1, at(b"7")), "a[1].b");
        assert_eq!(of(text, 1, at(b"2]")), "c.d[1]");
        assert_eq!(of(text, 1, 0), "config");
    }
}
