//! Versions, counting, the list of models.

use super::*;
use crate::core::standard::anthropic::front::count;
use crate::core::standard::anthropic::front::models::{self, Model, Page};

#[test]
fn two_versions_are_known() {
    assert_eq!(Version::of(None).unwrap(), Version::June2023);
    for known in ["2023-06-01", " 2026-10-21 "] {
        assert_eq!(Version::of(Some(known)).unwrap().name(), known.trim());
    }
    for other in ["", "2023-01-01", "2027-01-01", "2026-10-21,2023-06-01"] {
        assert!(Version::of(Some(other)).unwrap_err().to_string().contains("anthropic-version"));
    }
}

#[test]
fn the_newer_version_refuses_what_anthropic_refuses() {
    let request = |messages: Value| json!({"model": "m", "messages": messages});
    let cited = json!({"type": "text", "text": "x", "citations": [{"type": "char_location"}]});
    let document = json!({"type": "document", "source": {"type": "text", "data": "x",
        "media_type": "text/plain"}, "citations": {"enabled": true}});
    let search = |content: &Value| {
        json!({"type": "search_result", "title": "t", "source": "s",
        "content": [content]})
    };
    for (body, words) in [
        (json!({"model": "m", "messages": [], "temperature": 1.0}), "temperature: Extra inputs"),
        (json!({"model": "m", "messages": [], "top_p": null}), "top_p: Extra inputs"),
        (json!({"model": "m", "messages": [], "top_k": 1}), "top_k: Extra inputs"),
        (
            request(json!([{"role": "user", "content": "x"},
                {"role": "assistant", "content": [{"type": "text", "text": "x"}, document]}])),
            "messages.1.content.1: document",
        ),
        (
            request(json!([{"role": "user", "content": [document, cited]}])),
            "messages.0.content.1.citations",
        ),
        (
            request(json!([{"role": "user", "content": [search(&cited)]}])),
            "messages.0.content.0.content.0.citations",
        ),
        (
            request(json!([{"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": [search(&cited)]}]}])),
            "messages.0.content.0.content.0.content.0.citations",
        ),
    ] {
        let found = refusal(&body, Version::October2026);
        assert!(found.starts_with(words), "{found}");
        assert!(Incoming::read(&body.to_string(), Version::June2023).is_ok(), "{body}");
    }
    let plain = json!({"type": "text", "text": "x", "citations": []});
    let fine = request(json!([
        {"role": "user", "content": [document, plain, search(&plain)]},
        {"role": "assistant", "content": [cited, {"type": "web_fetch_tool_result", "content":
            {"type": "web_fetch_result", "content": document}}]}]));
    assert!(Incoming::read(&fine.to_string(), Version::October2026).is_ok());
}

fn counted(body: Value) -> i32 {
    count::tokens(&Incoming::read(&body.to_string(), Version::June2023).unwrap())
}

#[test]
fn tokens_are_counted_about() {
    let request =
        |content: Value| json!({"model": "m", "messages": [{"role": "user", "content": content}]});
    assert_eq!(counted(json!({"model": "m", "messages": []})), 1);
    assert_eq!(counted(request(json!("12345678"))), 2 + 4);
    assert_eq!(
        counted(request(
            json!([{"type": "text", "text": "1234"}, {"type": "text", "text": "漢字"}])
        )),
        3 + 4
    );
    let data = "A".repeat(100_000);
    let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}});
    assert_eq!(counted(request(json!([image]))), 1600 + 4);
    let file = json!({"type": "document", "source": {"type": "base64",
        "media_type": "application/pdf", "data": data}});
    assert_eq!(counted(request(json!([file]))), 2 * 2000 + 4);
    let text = json!({"type": "document", "source": {"type": "text", "data": "12345678"}});
    assert_eq!(counted(request(json!([text]))), 2 + 4);
    let inner = json!({"type": "document", "source": {"type": "content", "content": [image]}});
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": [image, inner]});
    assert_eq!(counted(request(json!([result]))), 2 * 1600 + 4);
    let with = |more: Value| {
        let mut body = request(json!("12345678"));
        body["system"] = json!([{"type": "text", "text": "1234"}]);
        body["tools"] = more;
        counted(body)
    };
    assert_eq!(with(json!([])), 3 + 4);
    // {"name":"f"}
    assert_eq!(with(json!([{"name": "f"}])), 6 + 4 + 350);
    // Texts as they are said, not as they are written.
    let escaped = r#"{"model":"m","messages":[{"content":"\u0041\u0041\u0041\u0041"}]}"#;
    let escaped = Incoming::read(escaped, Version::June2023).unwrap();
    assert_eq!(count::tokens(&escaped), 1 + 4);
    assert_eq!(count::body(7), r#"{"input_tokens":7}"#);
}

#[test]
fn models_come_in_pages() {
    let ids: Vec<String> = (0..25).map(|n| format!("p:v/m-{n}")).collect();
    let all: Vec<Model> = ids
        .iter()
        .map(|id| Model {
            id: id.as_str(),
            display_name: "M",
            context_window: Some(9),
            max_output_tokens: None,
        })
        .collect();
    let page = |query: Option<&str>| parse(&models::list(&all, &Page::of(query).unwrap()).unwrap());
    let range = |list: &Value| {
        let data = list["data"].as_array().unwrap();
        (data.len(), list["first_id"].clone(), list["last_id"].clone(), list["has_more"].clone())
    };
    let expected = |len: usize, first: &str, last: &str, more: bool| {
        (len, json!(format!("p:v/m-{first}")), json!(format!("p:v/m-{last}")), json!(more))
    };
    assert_eq!(range(&page(None)), expected(20, "0", "19", true));
    assert_eq!(range(&page(Some("limit=1000&beta=true"))), expected(25, "0", "24", false));
    assert_eq!(range(&page(Some("limit=3&after_id=p%3Av%2Fm-1"))), expected(3, "2", "4", true));
    assert_eq!(range(&page(Some("after_id=p:v/m-22"))), expected(2, "23", "24", false));
    assert_eq!(range(&page(Some("limit=3&before_id=p:v/m-4"))), expected(3, "1", "3", true));
    assert_eq!(range(&page(Some("before_id=p:v/m-2"))), expected(2, "0", "1", false));
    let last = page(Some("after_id=p:v/m-24"));
    assert_eq!(last, json!({"data": [], "has_more": false, "first_id": null, "last_id": null}));
    let entry = json!({"type": "model", "id": "p:v/m-0", "display_name": "M",
        "created_at": "1970-01-01T00:00:00Z", "max_input_tokens": 9});
    assert_eq!(page(None)["data"][0], entry);
    assert_eq!(parse(&models::one(&all[0]).unwrap()), entry);
    for bad in ["limit=0", "limit=1001", "limit=x", "limit=", "after_id=a&before_id=b"] {
        assert!(Page::of(Some(bad)).is_err(), "{bad}");
    }
    for unknown in ["after_id=x", "before_id="] {
        assert!(models::list(&all, &Page::of(Some(unknown)).unwrap()).is_err(), "{unknown}");
    }
}
