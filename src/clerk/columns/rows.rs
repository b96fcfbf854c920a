//! Rows of a user's table as SQL names them: by the texts of their keys, through the view of the column.

use pgrx::datum::DatumWithOid;

/// The columns of a primary key: their types, as SQL writes them, which are built-in ones, and their names in the
/// table itself, quoted.
pub struct Keys {
    types: Vec<String>,
    names: Vec<String>,
}

impl Keys {
    pub fn new(types: Vec<String>, names: Vec<String>) -> Self {
        Self { types, names }
    }

    pub fn count(&self) -> usize {
        self.types.len()
    }

    /// `k (place, k1, k2)` over arrays from $1 on, with one more column where there is a value for each.
    pub fn table(&self, value: Option<&str>) -> String {
        let mut arrays = "$1::integer[]".to_owned();
        let mut names = "place".to_owned();
        for i in 1..=self.count() {
            arrays.push_str(&format!(", ${}::text[]", i + 1));
            names.push_str(&format!(", k{i}"));
        }
        if let Some(value) = value {
            arrays.push_str(&format!(", ${}::text[]", self.count() + 2));
            names.push_str(&format!(", {value}"));
        }
        format!("unnest({arrays}) AS k ({names})")
    }

    /// That a row of the view `v` has the key of `k`.
    pub fn fit(&self) -> String {
        let each = self.types.iter().enumerate();
        let each = each.map(|(i, of)| format!("v.key_{0} = k.k{0}::{of}", i + 1));
        each.collect::<Vec<_>>().join(" AND ")
    }

    /// Likewise for a row of the table `t`.
    pub fn fit_table(&self) -> String {
        let each = self.types.iter().zip(&self.names).enumerate();
        let each = each.map(|(i, (of, name))| format!("t.{name} = k.k{}::{of}", i + 1));
        each.collect::<Vec<_>>().join(" AND ")
    }

    /// That a row of the table comes after the one whose key is given by texts from $1 on.
    pub fn after(&self) -> String {
        let given = self.types.iter().enumerate();
        let given = given.map(|(i, of)| format!("${}::text::{of}", i + 1));
        format!("({}) > ({})", self.list(""), given.collect::<Vec<_>>().join(", "))
    }

    /// The key's columns of the table, each with this after it.
    pub fn list(&self, cast: &str) -> String {
        let each = self.names.iter().map(|name| format!("t.{name}{cast}"));
        each.collect::<Vec<_>>().join(", ")
    }

    /// The arguments of [`Self::table`]. `None`: a key has another number of parts than this one.
    pub fn arguments<'a>(&self, rows: &[(usize, &'a [String])]) -> Option<Vec<DatumWithOid<'a>>> {
        if rows.iter().any(|(_, key)| key.len() != self.count()) {
            return None;
        }
        let places: Vec<i32> = rows.iter().map(|(place, _)| *place as i32).collect();
        let mut arguments: Vec<DatumWithOid<'a>> = vec![places.into()];
        for part in 0..self.count() {
            let parts: Vec<&'a str> = rows.iter().map(|(_, key)| key[part].as_str()).collect();
            arguments.push(parts.into());
        }
        Some(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_two_parts_is_written() {
        let types = ["bigint", "character varying(10)"].map(str::to_owned).to_vec();
        let keys = Keys::new(types, ["id", "\"Of\""].map(str::to_owned).to_vec());
        assert_eq!(
            keys.fit_table(),
            "t.id = k.k1::bigint AND t.\"Of\" = k.k2::character varying(10)"
        );
        assert_eq!(
            keys.table(Some("value")),
            "unnest($1::integer[], $2::text[], $3::text[], $4::text[]) AS k (place, k1, k2, value)"
        );
        assert_eq!(keys.fit(), "v.key_1 = k.k1::bigint AND v.key_2 = k.k2::character varying(10)");
        assert_eq!(
            keys.after(),
            "(t.id, t.\"Of\") > ($1::text::bigint, $2::text::character varying(10))"
        );
        assert_eq!(keys.list("::text"), "t.id::text, t.\"Of\"::text");
    }
}
