//! The `WWW-Authenticate` header: text of a registry in, challenges out.
//!
//! Pure and bounded: whatever a registry sends gives a list of challenges (perhaps an empty one), never a panic and
//! never more than [`CHALLENGES_MAX`] of them. RFC 9110 section 11.6.1 with the laxity clients need: several challenges
//! in one header line, tokens or quoted strings as values, unknown schemes kept.

/// Bytes of one header that are looked at. Docker Hub's is 150; a megabyte of commas must not cost time.
const HEADER_MAX: usize = 8 << 10;
/// Challenges taken from all header lines of one answer. Real registries send one or two.
const CHALLENGES_MAX: usize = 8;
/// Parameters taken per challenge.
const PARAMETERS_MAX: usize = 16;

/// One challenge: how the registry wants to be convinced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// `Basic realm="…"`: user and password with every request.
    Basic,
    /// `Bearer realm="…",service="…",scope="…"`: a token, fetched from the realm.
    Bearer(Bearer),
    /// A scheme this client does not speak (Negotiate, Digest …), lower case.
    Other(String),
}

/// A bearer challenge (distribution-spec's token authentication).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bearer {
    /// Where tokens are handed out; an absolute URL in every sane answer, checked by the caller.
    pub realm: String,
    /// The name the token service knows this registry by.
    pub service: Option<String>,
    /// What the request needed, space-separated scopes.
    pub scope: Option<String>,
    /// `invalid_token`, `insufficient_scope` …
    pub error: Option<String>,
}

/// Parses all `WWW-Authenticate` lines of one answer, in order.
pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for line in lines {
        let mut cut = line.len().min(HEADER_MAX);
        while !line.is_char_boundary(cut) {
            cut -= 1;
        }
        Cursor { text: &line[..cut] }.challenges(&mut challenges);
    }
    challenges
}

struct Cursor<'a> {
    text: &'a str,
}

impl<'a> Cursor<'a> {
    fn challenges(&mut self, out: &mut Vec<Challenge>) {
        while out.len() < CHALLENGES_MAX {
            self.skip(|c| c.is_ascii_whitespace() || c == ',');
            let scheme = self.token();
            if scheme.is_empty() {
                // A character no scheme begins with: this line is not worth guessing at.
                return;
            }
            let parameters = self.parameters();
            out.push(challenge(scheme, parameters));
        }
    }

    /// Reads `name=value` pairs up to the next scheme or the end of the line.
    fn parameters(&mut self) -> Vec<(&'a str, String)> {
        let mut parameters = Vec::new();
        loop {
            let before = self.text;
            self.skip(|c| c.is_ascii_whitespace() || c == ',');
            let name = self.token();
            self.skip(|c| c == ' ' || c == '\t');
            if name.is_empty() || !self.text.starts_with('=') {
                // `token68` (Negotiate) or the next scheme: only the latter is left for the caller.
                self.text = before;
                return parameters;
            }
            self.text = &self.text[1..];
            self.skip(|c| c == ' ' || c == '\t');
            let value = self.value();
            if parameters.len() < PARAMETERS_MAX {
                parameters.push((name, value));
            }
        }
    }

    fn value(&mut self) -> String {
        let Some(quoted) = self.text.strip_prefix('"') else {
            let end = self.text.find([',', ' ', '\t']).unwrap_or(self.text.len());
            let value = self.text[..end].to_owned();
            self.text = &self.text[end..];
            return value;
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.text = &quoted[at + 1..];
                    return value;
                }
                '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
                c => value.push(c),
            }
        }
        self.text = "";
        value
    }

    fn token(&mut self) -> &'a str {
        let end = self.text.find(|c: char| !is_token(c)).unwrap_or(self.text.len());
        let (token, rest) = self.text.split_at(end);
        self.text = rest;
        token
    }

    fn skip(&mut self, what: impl Fn(char) -> bool) {
        self.text = self.text.trim_start_matches(what);
    }
}

fn challenge(scheme: &str, parameters: Vec<(&str, String)>) -> Challenge {
    if scheme.eq_ignore_ascii_case("basic") {
        return Challenge::Basic;
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Challenge::Other(scheme.to_ascii_lowercase());
    }
    let mut bearer = Bearer::default();
    for (name, value) in parameters {
        match name.to_ascii_lowercase().as_str() {
            "realm" => bearer.realm = value,
            "service" => bearer.service = Some(value),
            "scope" => bearer.scope = Some(value),
            "error" => bearer.error = Some(value),
            _ => {}
        }
    }
    Challenge::Bearer(bearer)
}

/// RFC 9110 `tchar`.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(text: &str) -> Bearer {
        match parse([text]).into_iter().next() {
            Some(Challenge::Bearer(bearer)) => bearer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_hub_challenge_is_read() {
        let read = bearer(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull,push""#,
        );
        assert_eq!(read.realm, "https://auth.docker.io/token");
        assert_eq!(read.service.as_deref(), Some("registry.docker.io"));
        assert_eq!(read.scope.as_deref(), Some("repository:library/alpine:pull,push"));
    }

    #[test]
    fn several_challenges_in_one_line_and_unquoted_values_are_read() {
        let all = parse([r#"Negotiate, Basic realm="x, y=z", bearer realm=https://a/b , service = "q\"uote""#]);
        assert_eq!(all[0], Challenge::Other("negotiate".into()));
        assert_eq!(all[1], Challenge::Basic);
        let Challenge::Bearer(third) = &all[2] else { panic!("{all:?}") };
        assert_eq!(third.realm, "https://a/b");
        assert_eq!(third.service.as_deref(), Some("q\"uote"));
    }

    #[test]
    fn an_unterminated_quote_ends_at_the_line() {
        assert_eq!(bearer(r#"Bearer realm="https://a"#).realm, "https://a");
    }

    #[test]
    fn the_count_of_challenges_is_bounded() {
        assert_eq!(parse(["Basic ".repeat(5000).as_str()]).len(), CHALLENGES_MAX);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in "\\PC*") {
            prop_assert!(parse([text.as_str()]).len() <= CHALLENGES_MAX);
        }

        #[test]
        fn near_misses_are_parsed_without_a_panic(text in r#"(Bearer|Basic|,| |=|"|\\|realm|é|[a-z]){0,60}"#) {
            prop_assert!(parse([text.as_str(), text.as_str()]).len() <= CHALLENGES_MAX);
        }

        #[test]
        fn a_quoted_realm_survives(realm in "[ -!#-\\[\\]-~]{0,40}") {
            prop_assert_eq!(bearer(&format!("Bearer realm=\"{realm}\"")).realm, realm);
        }
    }
}
