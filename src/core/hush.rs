//! Which statements hold a provider key, as far as their text tells, and what of a log line must go.

/// Functions whose arguments hold a key.
pub const SECRET_FUNCTIONS: [&[u8]; 3] =
    [b"save_provider_key", b"validate_provider_key", b"save_platform_key"];

/// Whether a text names such a function; or may do so in a way that is not read here: an identifier
/// with escapes (`U&"..."`).
pub fn names_secret(text: &[u8]) -> bool {
    SECRET_FUNCTIONS.iter().any(|name| find(text, name).is_some()) || find(text, b"u&\"").is_some()
}

/// Whether a text holds a literal: without one it says nothing that is not in the function's name.
pub fn has_literal(text: &[u8]) -> bool {
    text.contains(&b'\'')
        || text.windows(2).any(|pair| pair[0] == b'$' && !pair[1].is_ascii_digit())
}

/// Calls `look` with the name of every prepared statement that a text may execute, until one is found.
/// A name is at most 63 bytes long.
pub fn executes(text: &[u8], mut look: impl FnMut(&[u8]) -> bool) -> bool {
    const WORD: &[u8] = b"execute";
    let mut from = 0;
    while let Some(at) = find(&text[from..], WORD) {
        let after = from + at + WORD.len();
        from = after;
        let mut name = [0; 63];
        let mut len = 0;
        let mut rest = skip_blank(&text[after..]);
        let is_quoted = rest.first() == Some(&b'"');
        if is_quoted {
            rest = &rest[1..];
        }
        let mut index = 0;
        while let Some(&byte) = rest.get(index) {
            let is_over = if is_quoted {
                byte == b'"' && rest.get(index + 1) != Some(&b'"')
            } else {
                !(byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80)
            };
            if is_over || len == name.len() {
                break;
            }
            if is_quoted && byte == b'"' {
                index += 1;
            }
            name[len] = if is_quoted { byte } else { byte.to_ascii_lowercase() };
            len += 1;
            index += 1;
        }
        if len > 0 && look(&name[..len]) {
            return true;
        }
    }
    false
}

/// What follows blanks and comments.
fn skip_blank(mut text: &[u8]) -> &[u8] {
    loop {
        text = text.trim_ascii_start();
        let end = if text.starts_with(b"--") {
            text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1)
        } else if text.starts_with(b"/*") {
            find(text, b"*/").map_or(text.len(), |at| at + 2)
        } else {
            return text;
        };
        text = &text[end..];
    }
}

/// Where a log line that holds a statement begins to do so: everything from there on must go.
pub fn statement_start(line: &[u8]) -> usize {
    [&b"statement: "[..], b"execute ", b"parse ", b"bind ", b"fetch ", b"plan:"]
        .iter()
        .filter_map(|mark| find(line, mark).map(|at| at + mark.len()))
        .min()
        .unwrap_or(0)
}

/// Puts asterisks in the place of whatever may be a key: words of eight characters and more with a
/// digit in them.
pub fn mask(text: &mut [u8]) {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+/=~".contains(&byte);
    let mut start = 0;
    while start < text.len() {
        let len = text[start..].iter().take_while(|byte| is_part(**byte)).count();
        let word = &mut text[start..start + len];
        if len >= 8 && word.iter().any(u8::is_ascii_digit) {
            word.fill(b'*');
        }
        start += len + 1;
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_every_case_and_escapes_are_suspect() {
        for text in [
            "select save_provider_key('p', 'k')",
            "SELECT Public.\"save_provider_key\"($1)",
            "select SAVE_Platform_KEY('p')",
            "select U&\"save\\005Fprovider_key\"('p', 'k')",
            "select u&\"d!0061t!+000061\" uescape '!'",
        ] {
            assert!(names_secret(text.as_bytes()), "{text}");
        }
        for text in ["select 1", "select chat('hi', 'm')", "select U&'d\\0061t'"] {
            assert!(!names_secret(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn executed_names_are_read_as_postgresql_does() {
        for (text, expected) in [
            ("execute x('p', 'k')", "x"),
            ("EXECUTE X ('p')", "x"),
            ("execute/* a */ -- b\n \"My \"\"X\"(1)", "My \"X"),
            ("explain analyze execute a_b$1(1)", "a_b$1"),
            ("create table t as execute schlüssel(1)", "schlüssel"),
        ] {
            let mut found = vec![];
            executes(text.as_bytes(), |name| {
                found.push(String::from_utf8_lossy(name).into_owned());
                false
            });
            assert_eq!(found, [expected], "{text}");
        }
        assert!(!executes(b"select 1", |_| true));
        assert!(!executes(b"execute", |_| true));
        let long = format!("execute {}", "a".repeat(100));
        assert!(executes(long.as_bytes(), |name| name.len() == 63));
    }

    #[test]
    fn log_lines_lose_their_statement() {
        for (line, kept) in [
            ("statement: select save_provider_key('p', 'k')", "statement: "),
            (
                "duration: 0.1 ms  statement: select save_provider_key('p', 'k')",
                "duration: 0.1 ms  statement: ",
            ),
            ("duration: 0.1 ms  bind s1: select save_provider_key($1)", "duration: 0.1 ms  bind "),
            (
                "duration: 1 ms  plan:\nQuery Text: select save_provider_key('p', 'k')",
                "duration: 1 ms  plan:",
            ),
            ("something save_provider_key('p', 'k')", ""),
        ] {
            assert_eq!(&line[..statement_start(line.as_bytes())], kept);
        }
    }

    #[test]
    fn what_may_be_a_key_is_masked() {
        let mut text = *b"invalid input syntax for type boolean: \"sk-or-v1-0123\" (at 42)";
        mask(&mut text);
        assert_eq!(&text, b"invalid input syntax for type boolean: \"*************\" (at 42)");
        let mut text = *b"12345678";
        mask(&mut text);
        assert_eq!(&text, b"********");
    }

    #[test]
    fn parameters_are_no_literals() {
        assert!(!has_literal(b"select save_provider_key($1, $2)"));
        assert!(has_literal(b"select save_provider_key('p', 'k')"));
        assert!(has_literal(b"select save_provider_key($$p$$, $a$k$a$)"));
    }
}
