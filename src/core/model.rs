//! Names of models: what may be one, and whether a rule that names a model means another spelling
//! of it.

/// Most bytes of a name.
pub const LONGEST: usize = 255;
/// Under this name the sums keep every model that no catalogue lists. A rule about any model counts
/// it, because nobody knows what the provider takes it for.
pub const UNLISTED: &str = "(unlisted)";

/// What is wrong with the name of a model; `None`: nothing.
pub fn problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name.len() > LONGEST {
        Some("is longer than 255 bytes")
    } else if name.chars().any(is_hidden) {
        Some("has a space, a control character or one that cannot be seen")
    } else {
        None
    }
}

/// Whether a character does not show: two names that differ by it look the same.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || c.is_whitespace()
        || matches!(c,
            // Unicode's default ignorable code points, and what else is blank or formats.
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
            | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether a rule that names `rule` is about `model`: by its id or the last part of it, in any case,
/// with or without the variants that are appended to it (`:floor`). A rule that names a variant is
/// about that variant. [`UNLISTED`] is any model.
pub fn is_meant(rule: &str, model: &str) -> bool {
    if rule == model || model == UNLISTED {
        return true;
    }
    let (rule, model) = (folded(rule), folded(model));
    let name_at = model.rfind('/').map_or(0, |slash| slash + 1);
    // Each end that a variant leaves: "gpt-4o:free:online", "gpt-4o:free", "gpt-4o".
    let ends = model[name_at..]
        .match_indices(':')
        .map(|(at, _)| name_at + at)
        .chain(std::iter::once(model.len()));
    ends.into_iter().any(|end| rule == model[..end] || rule == model[name_at..end])
}

fn folded(name: &str) -> String {
    let shown: String =
        name.chars().filter(|c| !is_hidden(*c)).flat_map(char::to_lowercase).collect();
    shown.trim_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_means_every_spelling_of_its_model() {
        for model in [
            "v/ok",
            "V/OK",
            "v/ok/",
            "/v/ok",
            "v/ok:floor",
            "V/Ok:nitro:online",
            "v/o\u{200b}k",
            "v/ok ",
            UNLISTED,
        ] {
            assert!(is_meant("v/ok", model), "{model}");
            assert!(is_meant("ok", model), "{model}");
            assert!(is_meant("V/OK/", model), "{model}");
        }
        for model in ["v/okay", "w/ok", "v/ok-mini", "v", "ok/v", "v/ok/x", ""] {
            assert!(!is_meant("v/ok", model), "{model}");
        }
    }

    #[test]
    fn a_rule_for_a_variant_means_that_variant() {
        assert!(is_meant("v/ok:free", "v/ok:FREE"));
        assert!(is_meant("ok:free", "v/ok:free:online"));
        assert!(!is_meant("v/ok:free", "v/ok"));
        assert!(!is_meant("llama3:8b", "llama3:70b"));
        // A colon before the name is no variant.
        assert!(!is_meant("arn", "arn:aws/m") && is_meant("m", "arn:aws/m"));
    }

    #[test]
    fn names_that_hide_something_are_none() {
        for name in ["m", "openai/gpt-4o:free", "@cf/meta/llama", "通义千问", "ft:gpt-4o:org::id"]
        {
            assert_eq!(problem(name), None, "{name}");
        }
        for name in [
            "",
            " ",
            "a b",
            "a\u{a0}b",
            "a\tb",
            "a\nb",
            "a\u{0}b",
            "a\u{200b}b",
            "a\u{ad}b",
            "a\u{feff}b",
            "a\u{202e}b",
            "a\u{3164}b",
            "a\u{e0041}b",
            "a\u{fe0f}",
            "a\u{2060}",
        ] {
            assert!(problem(name).is_some(), "{name:?}");
        }
        assert_eq!(problem(&"m".repeat(LONGEST)), None);
        assert!(problem(&"m".repeat(LONGEST + 1)).is_some());
    }

    proptest::proptest! {
        #[test]
        fn every_spelling_is_meant(name in "[a-z0-9./-]{1,20}", variant in "[a-z]{0,6}") {
            let model = [name.to_uppercase().as_str(), &variant].join(":");
            proptest::prop_assert!(is_meant(&name, &model) || name.ends_with('/'));
        }

        #[test]
        fn nothing_from_outside_panics(rule in "\\PC{0,20}", model in "\\PC{0,20}") {
            let _ = (is_meant(&rule, &model), problem(&model));
        }
    }
}
