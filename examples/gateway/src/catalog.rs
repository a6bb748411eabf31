//! The queries a client may run, by key.
//!
//! Clients name a query and bring values for its parameters. The values are checked here and bound by
//! the database; no SQL is ever put together from a request.

use rusqlite::types::Value as SqlValue;
use serde_json::{Map, Value, json};

/// The type of a result column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Integer,
    Real,
    Text,
}

/// A result column.
#[derive(Debug)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
    pub nullable: bool,
    /// How long a text usually is, in bytes, rounded up.
    pub usual_length: u64,
    /// Whether its values can be added up to something that means something.
    pub additive: bool,
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, nullable: false, usual_length: 0, additive: false }
}

const fn additive(name: &'static str) -> Column {
    Column { additive: true, ..column(name, Kind::Integer) }
}

const fn text(name: &'static str, usual_length: u64) -> Column {
    Column { usual_length, ..column(name, Kind::Text) }
}

/// What a parameter may be.
#[derive(Debug)]
enum Accepts {
    Integer { min: i64, max: i64 },
    Text { max_chars: usize },
}

#[derive(Debug)]
struct Parameter {
    /// As it stands in the SQL, with the colon.
    placeholder: &'static str,
    accepts: Accepts,
}

impl Parameter {
    fn name(&self) -> &'static str {
        &self.placeholder[1..]
    }

    fn describe(&self) -> Value {
        match self.accepts {
            Accepts::Integer { min, max } => {
                json!({ "name": self.name(), "type": "integer", "min": min, "max": max })
            }
            Accepts::Text { max_chars } => {
                json!({ "name": self.name(), "type": "text", "maxChars": max_chars })
            }
        }
    }

    fn check(&self, value: Option<Value>) -> Result<SqlValue, BadParameters> {
        let name = self.name();
        match (&self.accepts, value) {
            (_, None) => Err(BadParameters(format!("parameter {name} is missing"))),
            (Accepts::Integer { min, max }, Some(value)) => match value.as_i64() {
                Some(number) if (*min..=*max).contains(&number) => Ok(SqlValue::Integer(number)),
                _ => Err(BadParameters(format!(
                    "parameter {name} is not a whole number from {min} to {max}"
                ))),
            },
            (Accepts::Text { max_chars }, Some(Value::String(text)))
                if text.chars().count() <= *max_chars =>
            {
                Ok(SqlValue::Text(text))
            }
            (Accepts::Text { max_chars }, Some(_)) => Err(BadParameters(format!(
                "parameter {name} is not a text of at most {max_chars} characters"
            ))),
        }
    }
}

/// Values that have been checked, by placeholder.
pub type Bindings = Vec<(&'static str, SqlValue)>;

/// Why the parameters were refused, in words for the client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadParameters(String);

/// How many rows a query returns, as far as one can tell before it runs.
#[derive(Debug, Clone, Copy)]
pub enum Size {
    /// The orders from `:first` on, `:rows` of them.
    Range,
    /// The orders of one of so many groups, at most `:rows` of them.
    Share(u64),
    /// That many.
    Rows(u64),
}

/// A query of the catalog.
#[derive(Debug)]
pub struct Query {
    pub key: &'static str,
    pub sql: &'static str,
    pub columns: &'static [Column],
    pub size: Size,
    parameters: &'static [Parameter],
}

impl Query {
    /// All queries.
    pub fn all() -> &'static [Query] {
        QUERIES
    }

    /// What a client has to know of it: its parameters and columns.
    pub fn describe(&self) -> Value {
        let columns = self.columns.iter().map(|column| {
            let kind = match column.kind {
                Kind::Integer => "integer",
                Kind::Real => "real",
                Kind::Text => "text",
            };
            json!({ "name": column.name, "type": kind, "additive": column.additive })
        });
        json!({
            "key": self.key,
            "parameters": self.parameters.iter().map(Parameter::describe).collect::<Vec<_>>(),
            "columns": columns.collect::<Vec<_>>(),
        })
    }

    /// The query of that key.
    pub fn find(key: &str) -> Option<&'static Query> {
        QUERIES.iter().find(|query| query.key == key)
    }

    /// Checks `given` against the parameters of this query: all of them, nothing else, each in range.
    pub fn bind(&self, mut given: Map<String, Value>) -> Result<Bindings, BadParameters> {
        let bindings = self
            .parameters
            .iter()
            .map(|parameter| {
                Ok((parameter.placeholder, parameter.check(given.remove(parameter.name()))?))
            })
            .collect::<Result<_, _>>()?;
        if given.is_empty() {
            Ok(bindings)
        } else {
            let known: Vec<_> = self.parameters.iter().map(Parameter::name).collect();
            Err(BadParameters(format!("the parameters of this query are: {}", known.join(", "))))
        }
    }
}

/// The most rows one query returns, so that a result's size is bounded before it is produced.
pub const MAX_ROWS: i64 = 100_000;

const ROWS: Parameter =
    Parameter { placeholder: ":rows", accepts: Accepts::Integer { min: 0, max: MAX_ROWS } };

const FIRST: Parameter =
    Parameter { placeholder: ":first", accepts: Accepts::Integer { min: 0, max: 1 << 48 } };

const ORDER_COLUMNS: &[Column] = &[
    column("id", Kind::Integer),
    column("day", Kind::Integer),
    text("region", 7),
    text("product", 6),
    additive("quantity"),
    additive("amount_cents"),
    // One in four has one.
    Column { nullable: true, ..text("note", 7) },
];

static QUERIES: &[Query] = &[
    Query {
        key: "orders",
        sql: "SELECT id, day, region, product, quantity, amount_cents, note FROM orders \
              WHERE id >= :first AND id < :first + :rows ORDER BY id",
        columns: ORDER_COLUMNS,
        size: Size::Range,
        parameters: &[FIRST, ROWS],
    },
    Query {
        key: "orders_in_region",
        sql: "SELECT id, day, region, product, quantity, amount_cents, note FROM orders \
              WHERE region = :region ORDER BY id LIMIT :rows",
        columns: ORDER_COLUMNS,
        size: Size::Share(5),
        parameters: &[
            Parameter { placeholder: ":region", accepts: Accepts::Text { max_chars: 64 } },
            ROWS,
        ],
    },
    Query {
        key: "order_labels",
        sql: "SELECT id, printf('%-*s', :width, product) FROM orders \
              WHERE id >= :first AND id < :first + :rows ORDER BY id",
        // The client chooses the width of the labels, so this result may be larger.
        columns: &[column("id", Kind::Integer), text("label", 16)],
        size: Size::Range,
        parameters: &[
            FIRST,
            ROWS,
            Parameter { placeholder: ":width", accepts: Accepts::Integer { min: 0, max: 512 } },
        ],
    },
    Query {
        key: "revenue_by_region",
        sql: "SELECT region, count(*), sum(amount_cents), avg(amount_cents) FROM orders \
              WHERE day >= :from_day AND day <= :to_day GROUP BY region ORDER BY region",
        columns: &[
            text("region", 7),
            additive("orders"),
            additive("amount_cents"),
            column("average_cents", Kind::Real),
        ],
        size: Size::Rows(5),
        parameters: &[
            Parameter {
                placeholder: ":from_day",
                accepts: Accepts::Integer { min: 0, max: 1 << 20 },
            },
            Parameter {
                placeholder: ":to_day",
                accepts: Accepts::Integer { min: 0, max: 1 << 20 },
            },
        ],
    },
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bind(key: &str, given: Value) -> Result<Bindings, BadParameters> {
        let Value::Object(given) = given else { panic!("parameters are an object") };
        Query::find(key).expect("a query of the catalog").bind(given)
    }

    #[test]
    fn every_parameter_is_asked_for_checked_and_bound() {
        assert_eq!(
            bind("orders", json!({"first": 7, "rows": 3})),
            Ok(vec![(":first", SqlValue::Integer(7)), (":rows", SqlValue::Integer(3))])
        );
        for bad in [
            json!({}),
            json!({"first": 7}),
            json!({"first": 7, "rows": -1}),
            json!({"first": 7, "rows": MAX_ROWS + 1}),
            json!({"first": 7, "rows": 1.5}),
            json!({"first": 7, "rows": "3"}),
            json!({"first": 7, "rows": null}),
            json!({"first": 7, "rows": 3, "limit": 1}),
        ] {
            assert!(bind("orders", bad.clone()).is_err(), "accepted {bad}");
        }
    }

    #[test]
    fn a_text_is_bounded_and_is_never_sql() {
        let hostile = "x' OR '1'='1";
        assert_eq!(
            bind("orders_in_region", json!({"region": hostile, "rows": 1}))
                .expect("a text like any other")[0],
            (":region", SqlValue::Text(hostile.to_owned()))
        );
        assert!(bind("orders_in_region", json!({"region": "x".repeat(65), "rows": 1})).is_err());
        assert!(bind("orders_in_region", json!({"region": 5, "rows": 1})).is_err());
    }
}
