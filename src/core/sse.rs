//! Server-sent events, from bytes as they arrive (WHATWG HTML, "Server-sent events").

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The `event:` field.
    pub name: Option<String>,
    /// The `data:` lines, joined by line feeds.
    pub data: String,
}

/// Why bytes are no stream of events, or none that is read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    #[error("an event larger than {0} bytes")]
    TooLarge(usize),
}

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Fields with which a stream of events can begin, and comments.
const FIELDS: [&[u8]; 5] = [b":", b"data:", b"event:", b"id:", b"retry:"];

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Events,
    Whole,
}

/// Whether a body may begin with this and be whatever it is: white space, after a byte order mark perhaps.
pub fn is_nothing(start: &[u8]) -> bool {
    start.strip_prefix(BOM).unwrap_or(start).trim_ascii_start().is_empty()
}

/// What a body is by how it begins, which counts more than what is said of it: streams come as
/// `application/json`, and whole answers as `text/event-stream`. `None`: that takes more of it.
pub fn kind(start: &[u8], is_said_to_be_events: bool) -> Option<Kind> {
    if BOM.starts_with(start) {
        return None;
    }
    let start = start.strip_prefix(BOM).unwrap_or(start).trim_ascii_start();
    if is_said_to_be_events {
        let is_json = matches!(start.first()?, b'{' | b'[');
        return Some(if is_json { Kind::Whole } else { Kind::Events });
    }
    start.first()?;
    if FIELDS.iter().any(|field| start.starts_with(field)) {
        return Some(Kind::Events);
    }
    if FIELDS.iter().any(|field| field.starts_with(start)) { None } else { Some(Kind::Whole) }
}

/// Cuts a body into events. After an error there is nothing more to read.
#[derive(Debug)]
pub struct Parser {
    max_event: usize,
    /// The line that has not ended yet; empty while lines come whole.
    line: Vec<u8>,
    /// The last line ended in CR, so that a LF that comes next belongs to it.
    after_cr: bool,
    /// The first line, which may begin with a byte order mark, has been read.
    begun: bool,
    name: Option<String>,
    /// `None` until a `data` line comes; an empty one makes an event, too.
    data: Option<String>,
}

impl Parser {
    /// A parser that holds no more than `max_event` bytes: the data of an event so far and the
    /// line that is coming in, its field name included.
    pub fn new(max_event: usize) -> Self {
        Self { max_event, line: Vec::new(), after_cr: false, begun: false, name: None, data: None }
    }

    /// Reads what has arrived, cut anywhere, and appends the events that it completes.
    pub fn feed(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), SseError> {
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &rest[..end.unwrap_or(rest.len())];
            self.check_size(part.len())?;
            let Some(end) = end else {
                self.line.extend_from_slice(part);
                break;
            };
            self.after_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            let event = if self.line.is_empty() {
                self.read_line(part)?
            } else {
                self.line.extend_from_slice(part);
                self.read_held_line()?
            };
            events.extend(event);
        }
        Ok(())
    }

    /// Bytes of an event that is not complete.
    pub fn pending(&self) -> usize {
        self.line.len() + self.data.as_ref().map_or(0, String::len)
    }

    /// What is left when the body ends without the blank line after the last event. The standard
    /// drops it, but many upstreams end so.
    pub fn finish(mut self) -> Result<Option<Event>, SseError> {
        if !self.line.is_empty()
            && let Some(event) = self.read_held_line()?
        {
            return Ok(Some(event));
        }
        Ok(self.take_event())
    }

    fn check_size(&self, more: usize) -> Result<(), SseError> {
        let held = self.data.as_ref().map_or(0, String::len) + self.line.len();
        if held.saturating_add(more) > self.max_event {
            return Err(SseError::TooLarge(self.max_event));
        }
        Ok(())
    }

    fn read_held_line(&mut self) -> Result<Option<Event>, SseError> {
        let mut line = std::mem::take(&mut self.line);
        let event = self.read_line(&line)?;
        line.clear();
        self.line = line;
        Ok(event)
    }

    /// Reads a line without its end. A blank one completes an event.
    fn read_line(&mut self, line: &[u8]) -> Result<Option<Event>, SseError> {
        let is_first = !std::mem::replace(&mut self.begun, true);
        let line = if is_first { line.strip_prefix(BOM).unwrap_or(line) } else { line };
        // A character never holds the byte of a line end, so a whole line has whole characters. Bytes that are none
        // cost their characters, and not the answer.
        let line = String::from_utf8_lossy(line);
        self.check_size(line.len())?;
        if line.is_empty() {
            return Ok(self.take_event());
        }
        // A comment has an empty field name; `id` and `retry` are for clients that reconnect.
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = Some(value.to_owned()).filter(|name| !name.is_empty()),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // JSON that is in no field: an error that the server writes in the middle of its stream.
            _ if self.data.is_none() && line.starts_with('{') && line.trim_end().ends_with('}') => {
                return Ok(Some(Event { name: self.name.take(), data: line.into_owned() }));
            }
            _ => {}
        }
        Ok(None)
    }

    fn take_event(&mut self) -> Option<Event> {
        let name = self.name.take();
        self.data.take().map(|data| Event { name, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Event>, SseError> {
        let (mut parser, mut events) = (Parser::new(1000), Vec::new());
        for part in parts {
            parser.feed(part, &mut events)?;
        }
        events.extend(parser.finish()?);
        Ok(events)
    }

    fn event(name: Option<&str>, data: &str) -> Event {
        Event { name: name.map(str::to_owned), data: data.to_owned() }
    }

    fn data_of(text: &str) -> Vec<String> {
        parse([text.as_bytes()]).unwrap().into_iter().map(|event| event.data).collect()
    }

    #[test]
    fn lines_end_in_lf_crlf_or_cr() {
        let text =
            "event: a\ndata: 1\n\nevent: b\r\ndata: 2\r\n\r\nevent: c\rdata: 3\r\rdata: 4\n\n";
        let expected =
            [event(Some("a"), "1"), event(Some("b"), "2"), event(Some("c"), "3"), event(None, "4")];
        assert_eq!(parse([text.as_bytes()]).unwrap(), expected);
        assert_eq!(parse(text.as_bytes().chunks(1)).unwrap(), expected);
    }

    #[test]
    fn a_crlf_may_be_split() {
        let parts: [&[u8]; 4] = [b"data: 1\r", b"\ndata: 2\r", b"", b"\n\r\n"];
        assert_eq!(parse(parts).unwrap(), [event(None, "1\n2")]);
    }

    #[test]
    fn fields_as_the_standard_has_them() {
        assert_eq!(data_of("\u{feff}data: a\n\n\u{feff}data: b\n\n"), ["a"]);
        assert_eq!(data_of(": comment\ndata: a\n:\nid: 7\nretry: 9\nother\n\n"), ["a"]);
        assert_eq!(data_of("data:a\n\ndata:  b\n\n"), ["a", " b"]);
        assert_eq!(data_of("data: a\ndata\ndata: b:c\n\n"), ["a\n\nb:c"]);
        assert_eq!(data_of("data\n\ndata\ndata\n\n"), ["", "\n"]);
    }

    #[test]
    fn an_event_without_data_is_none_and_leaves_no_name() {
        let text = "event: ping\n\n\n\nevent:\ndata: a\n\n";
        assert_eq!(parse([text.as_bytes()]).unwrap(), [event(None, "a")]);
    }

    #[test]
    fn the_last_event_may_lack_its_blank_line() {
        assert_eq!(data_of("data: a\n\ndata: b\n"), ["a", "b"]);
        assert_eq!(data_of("data: a\n\ndata: b"), ["a", "b"]);
        assert_eq!(data_of("data: a\n\n: bye"), ["a"]);
        assert_eq!(data_of("event: a"), [""; 0]);
    }

    #[test]
    fn what_is_not_utf8_is_replaced() {
        let parts: [&[u8]; 2] = [b"data: \xC3", b"\xA9\n\n"];
        assert_eq!(parse(parts).unwrap(), [event(None, "é")]);
        let parts = [&b"data: \xC3\ndata: \xA9x\n\n"[..]];
        assert_eq!(parse(parts).unwrap(), [event(None, "\u{fffd}\n\u{fffd}x")]);
        assert_eq!(parse([&b"data: \xC3"[..]]).unwrap(), [event(None, "\u{fffd}")]);
        // The limit holds for what it becomes.
        let bytes = [b"data: ".as_slice(), &[0xFF; 400]].concat();
        assert_eq!(parse([bytes.as_slice()]), Err(SseError::TooLarge(1000)));
    }

    #[test]
    fn json_outside_of_a_field_is_an_event() {
        let data = r#"{"error":{"message":"a: b"}}"#;
        assert_eq!(data_of(&format!("data: a\n\n{data}\n\ndata: b\n\n")), ["a", data, "b"]);
        assert_eq!(data_of(&format!("data: a\n\n{data}")), ["a", data]);
        assert_eq!(data_of(&format!("{data}\ndata: a\n\n")), [data, "a"]);
        assert_eq!(data_of(&format!("data: a\n{data}\n\n")), ["a"]);
        assert_eq!(data_of("data: a\n\n{\n\"x\": 1\n}\n\n"), ["a"]);
    }

    #[test]
    fn a_body_is_what_it_begins_with() {
        for (start, said_to_be, kind_of) in [
            ("data: {", false, Some(Kind::Events)),
            ("data:{", false, Some(Kind::Events)),
            ("\u{feff}\r\n\r\nevent: x", false, Some(Kind::Events)),
            (": OPENROUTER PROCESSING", false, Some(Kind::Events)),
            ("id: 7", false, Some(Kind::Events)),
            ("retry: 7", false, Some(Kind::Events)),
            ("dat", false, None),
            ("\n \n", false, None),
            ("", true, None),
            ("\u{feff}", true, None),
            ("database", false, Some(Kind::Whole)),
            ("\n\n {\"a\"", false, Some(Kind::Whole)),
            ("<html>", false, Some(Kind::Whole)),
            ("\u{feff}{", true, Some(Kind::Whole)),
            (" [{\"error\"", true, Some(Kind::Whole)),
            ("dat", true, Some(Kind::Events)),
            ("<html>", true, Some(Kind::Events)),
        ] {
            assert_eq!(kind(start.as_bytes(), said_to_be), kind_of, "{start:?}");
        }
        assert_eq!(kind(b"\xEF\xBB", false), None);
        assert!(is_nothing("\u{feff}\n ".as_bytes()) && is_nothing(b""));
        assert!(!is_nothing(b"\xEF\xBB") && !is_nothing(b" d"));
    }

    #[test]
    fn an_event_has_a_largest_size() {
        let fits = format!("data: {}\n\n", "x".repeat(994)).repeat(3);
        assert_eq!(parse([fits.as_bytes()]).unwrap().len(), 3);
        let line = format!("data: {}", "x".repeat(995));
        let lines = "data: 12345\n".repeat(200);
        for text in [line, lines] {
            assert_eq!(parse([text.as_bytes()]), Err(SseError::TooLarge(1000)));
            assert_eq!(parse(text.as_bytes().chunks(7)), Err(SseError::TooLarge(1000)));
        }
        // Comments are not kept, however many there are.
        assert_eq!(data_of(&": still working\n".repeat(500)), [""; 0]);
    }

    fn line() -> impl Strategy<Value = String> {
        let field = prop_oneof![
            Just("data: "),
            Just("data:"),
            Just("event: "),
            Just(":"),
            Just("id: "),
            Just("\u{feff}"),
            Just(""),
        ];
        let value = prop_oneof![Just(String::new()), "[a-c :]{0,4}", "[é漢😀\u{feff}]{0,3}"];
        let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
        (field, value, end).prop_map(|(field, value, end)| format!("{field}{value}{end}"))
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            lines in proptest::collection::vec(line(), 0..30),
            cuts in proptest::collection::vec(1usize..9, 1..20),
        ) {
            let text = lines.concat();
            let (mut parts, mut rest) = (Vec::new(), text.as_bytes());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (part, more) = rest.split_at((*cut).min(rest.len()));
                parts.push(part);
                rest = more;
            }
            prop_assert_eq!(parse(parts), parse([text.as_bytes()]));
        }

        #[test]
        fn nothing_from_outside_panics(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..9),
            max in 0usize..60,
        ) {
            let (mut parser, mut events) = (Parser::new(max), Vec::new());
            for part in &parts {
                let _ = parser.feed(part, &mut events);
            }
            let _ = parser.finish();
        }
    }
}
