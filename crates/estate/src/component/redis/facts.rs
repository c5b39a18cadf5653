//! Facts: commands that are answered with one value, asked of a private server that has loaded the dump.

use std::collections::BTreeMap;

use super::connection::{Answer, Connection, Failure};
use super::server::keyspace;
use crate::facts::Value;

/// The longest answer of a fact, in bytes: it stands in records and messages.
const FACT_BYTES_MAX: usize = 1024;

/// The name of the fact about a database's keys.
pub(super) fn keys_in(database: u64) -> String {
    format!("keys in db{database}")
}

/// The facts about keys, from how many each database has.
pub(super) fn of_keys(keys: &BTreeMap<u64, u64>) -> BTreeMap<String, Value> {
    keys.iter().map(|(&database, &count)| (keys_in(database), number(count))).collect()
}

fn number(count: u64) -> Value {
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Asks how many keys each database has.
pub(super) fn count(connection: &mut Connection) -> Result<BTreeMap<u64, u64>, Failure> {
    let said = connection.ask(&["INFO", "keyspace"])?;
    Ok(keyspace(&said.text().unwrap_or_default()))
}

/// Asks one fact: a command as it is typed behind `redis-cli`, with `-n DATABASE` before it for another than 0.
pub(super) fn ask(connection: &mut Connection, fact: &str) -> Result<Value, String> {
    let mut words = words(fact)?;
    let mut database = "0".to_owned();
    if words.first().is_some_and(|word| word == "-n") && words.len() > 2 {
        database = words.drain(..2).nth(1).unwrap_or_default();
    }
    let said = connection.ask(&["SELECT", &database]).and_then(|_| connection.ask(&words));
    value(&said.map_err(|failure| failure.to_string())?)
}

fn value(answer: &Answer) -> Result<Value, String> {
    match answer {
        Answer::Integer(number) => Ok(Value::Integer(*number)),
        Answer::Nil => Ok(Value::Null),
        Answer::List(_) => {
            Err("it is answered with a list: ask for one value, such as SCARD or LLEN".to_owned())
        }
        Answer::Text(text) => {
            let text =
                std::str::from_utf8(text).map_err(|_| "it is answered with what is no text".to_owned())?;
            if text.len() > FACT_BYTES_MAX {
                return Err(format!("it is answered with more than {FACT_BYTES_MAX} bytes"));
            }
            let real = || text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::Real);
            let number = text.parse::<i64>().map(Value::Integer).ok().or_else(real);
            Ok(number.unwrap_or_else(|| Value::Text(text.to_owned())))
        }
    }
}

/// Cuts a command into words; quotes hold blanks together.
fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("a quote is not closed in {line:?}"));
    }
    words.extend(word);
    if words.is_empty() { Err("it is empty".to_owned()) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_cut_into_words() {
        assert_eq!(words("SCARD users").unwrap(), ["SCARD", "users"]);
        assert_eq!(words(" GET  'a b' \"\" ").unwrap(), ["GET", "a b", ""]);
        assert!(words("GET 'a").is_err());
        assert!(words("  ").is_err());
    }

    #[test]
    fn an_answer_is_one_value() {
        assert_eq!(value(&Answer::Text(b"12".to_vec())).unwrap(), Value::Integer(12));
        assert_eq!(value(&Answer::Text(b"v1".to_vec())).unwrap(), Value::Text("v1".to_owned()));
        assert_eq!(value(&Answer::Nil).unwrap(), Value::Null);
        assert!(value(&Answer::List(Vec::new())).is_err());
        assert!(value(&Answer::Text(vec![b'x'; 2000])).is_err());
    }
}
