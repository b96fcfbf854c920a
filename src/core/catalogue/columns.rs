//! A catalogue column by column, as SQL takes it: one list of values each, in one order.

use super::Model;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    pub model_ids: Vec<String>,
    pub model_names: Vec<String>,
    pub display_names: Vec<String>,
    pub model_types: Vec<String>,
    /// A JSON object each.
    pub capabilities: Vec<String>,
    pub context_windows: Vec<Option<i32>>,
    pub max_output_tokens: Vec<Option<i32>>,
    /// A JSON object each. `None`: the list has no prices.
    pub pricing: Vec<Option<String>>,
}

impl Columns {
    pub fn of(models: Vec<Model>) -> serde_json::Result<Self> {
        let mut columns = Self::default();
        for model in models {
            columns.capabilities.push(serde_json::to_string(&model.capabilities)?);
            let pricing = model.pricing.as_ref().map(serde_json::to_string).transpose()?;
            columns.pricing.push(pricing);
            columns.model_ids.push(model.model_id);
            columns.model_names.push(model.model_name);
            columns.display_names.push(model.display_name);
            columns.model_types.push(model.model_type.to_owned());
            columns.context_windows.push(model.context_window);
            columns.max_output_tokens.push(model.max_output_tokens);
        }
        Ok(columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::catalogue::{Dialect, read};

    #[test]
    fn the_columns_have_the_models_in_one_order() {
        let list = r#"{"data":[{"id":"v/b","context_length":9,"pricing":{"prompt":"0.000001"},"architecture":{}},{"id":"a"}]}"#;
        let columns = Columns::of(read(list, Dialect::Auto, None).unwrap().models).unwrap();
        assert_eq!(columns.model_ids, ["a", "v/b"]);
        assert_eq!(columns.model_names, ["a", "b"]);
        assert_eq!(columns.model_types, ["chat", "chat"]);
        assert_eq!(columns.context_windows, [None, Some(9)]);
        assert_eq!(columns.max_output_tokens, [None, None]);
        let pricing = [Some("{}".to_owned()), Some(r#"{"input":1}"#.to_owned())];
        assert_eq!(columns.pricing, pricing);
        assert!(columns.capabilities[0].contains(r#""functions":false"#), "{columns:?}");

        let bare = read(r#"[{"id":"a"}]"#, Dialect::OpenAi, None).unwrap();
        assert_eq!(Columns::of(bare.models).unwrap().pricing, [None]);
    }
}
