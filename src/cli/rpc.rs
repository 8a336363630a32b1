//! `weft rpc`: any method, with parameters by name.

use clap::Args;
use serde_json::{Map, Value};

use super::output::print_json;
use super::session::Session;
use crate::base::{Error, Result};
use crate::rpc::{Field, Kind, Method, method_help, methods};

/// Calls any method: weft rpc METHOD --name value …
///
/// Parameters are given by name: `--num_blocks 100`, `--num-blocks=100`; a boolean may stand alone
/// (`--readonly`); an array is a JSON array or a list with commas. `--params JSON` gives all in one
/// object. `weft rpc METHOD --help` describes the method.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct RpcCommand {
    /// Name of the method (rpc_get_methods lists those of the daemon); parameters follow
    #[arg(
        value_name = "METHOD [--PARAM VALUE]...",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<String>,
}

impl RpcCommand {
    /// Runs it.
    ///
    /// # Errors
    /// Parameters that cannot be read, and what the daemon answers.
    pub fn run(&self, session: &mut Session) -> Result<()> {
        let (name, words) = self.words.split_first().expect("clap asks for at least one");
        if name == "--help" || name == "-h" {
            println!("{}", overview());
            return Ok(());
        }
        // A method that this build does not know may still be one of the daemon's.
        let method = methods::find(name);
        if words.iter().any(|word| word == "--help" || word == "-h") {
            println!("{}", method_help(method.ok_or_else(|| unknown_method(name))?));
            return Ok(());
        }
        let params = parse(name, method, words)?;
        print_json(&session.call(name, Value::Object(params))?);
        Ok(())
    }
}

fn overview() -> String {
    let mut text = String::from(
        "Calls any method: weft rpc METHOD [--PARAM VALUE]...\n\
         `weft rpc METHOD --help` describes one. Methods:\n",
    );
    for method in methods::all() {
        text.push_str(&format!("  {:<36} {}\n", method.name, summary(method)));
    }
    text
}

fn summary(method: &Method) -> &'static str {
    method.doc.first().map_or("", |line| line.trim())
}

fn unknown_method(name: &str) -> Error {
    let near: Vec<&str> =
        methods::all().map(|method| method.name).filter(|known| known.contains(name)).collect();
    let hint = if near.is_empty() { "weft rpc --help lists them".into() } else { near.join(", ") };
    Error::invalid(format!("no method is named '{name}' ({hint})"))
}

fn parse(name: &str, method: Option<&Method>, words: &[String]) -> Result<Map<String, Value>> {
    let mut params = Map::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix("--") else {
            return Err(Error::invalid(format!(
                "'{word}' is no parameter: give parameters by name (weft rpc {name} --help)"
            )));
        };
        let (key, given) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value.to_string())),
            None => (option, None),
        };
        if key == "params" {
            let text = given.or_else(|| words.next().cloned()).unwrap_or_default();
            let Ok(Value::Object(object)) = serde_json::from_str(&text) else {
                return Err(Error::invalid("--params takes a JSON object"));
            };
            params.extend(object);
            continue;
        }
        let key = key.replace('-', "_");
        let field = method.and_then(|method| method.fields.iter().find(|field| field.name == key));
        if let (Some(method), None) = (method, field) {
            let known: Vec<&str> = method.fields.iter().map(|field| field.name).collect();
            return Err(Error::invalid(format!(
                "{name} has no parameter '{key}' (it has: {})",
                if known.is_empty() { "none".into() } else { known.join(", ") }
            )));
        }
        let value = match given {
            Some(value) => value,
            None => match words.next_if(|next| !next.starts_with("--")) {
                Some(value) => value.clone(),
                None if is_flag(field) => "true".into(),
                None => return Err(Error::invalid(format!("--{key} needs a value"))),
            },
        };
        let value = read(field, &value)
            .map_err(|what| Error::invalid(format!("--{key}: '{value}' is not {what}")))?;
        params.insert(key, value);
    }
    Ok(params)
}

fn is_flag(field: Option<&Field>) -> bool {
    field.is_none_or(|field| field.kind.name() == "boolean")
}

/// Reads a value as the type of its parameter; without one, as JSON where it is, else as text.
fn read(field: Option<&Field>, text: &str) -> std::result::Result<Value, String> {
    match field {
        None => Ok(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into()))),
        Some(field) => read_kind(field.kind, text),
    }
}

fn read_kind(kind: Kind, text: &str) -> std::result::Result<Value, String> {
    match kind {
        Kind::Array(of) => match serde_json::from_str(text) {
            Ok(array @ Value::Array(_)) => Ok(array),
            _ => text.split(',').map(|part| read_kind(*of, part.trim())).collect(),
        },
        // SPDK's raid_level takes "0" as well as "raid0": what the list of names has decides.
        Kind::Enum(_) => Ok(Value::String(text.into())),
        Kind::Plain("boolean") => match text {
            "true" | "yes" | "on" | "1" => Ok(Value::Bool(true)),
            "false" | "no" | "off" | "0" => Ok(Value::Bool(false)),
            _ => Err("true or false".into()),
        },
        Kind::Plain(name) if name.contains("int") => {
            let number = serde_json::from_str(text).ok().filter(Value::is_number);
            number.ok_or_else(|| format!("a number ({name})"))
        }
        Kind::Plain("object") => {
            serde_json::from_str(text).map_err(|_| "a JSON object".to_string())
        }
        Kind::Plain(_) => Ok(Value::String(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_string).collect()
    }

    fn parsed(name: &str, text: &str) -> Result<Value> {
        parse(name, methods::find(name), &words(text)).map(Value::Object)
    }

    #[test]
    fn values_take_the_type_of_their_parameter() {
        let params =
            parsed("bdev_null_create", "--name 12 --num-blocks 100 --block_size=512").unwrap();
        assert_eq!(params, json!({"name": "12", "num_blocks": 100, "block_size": 512}));
        let params =
            parsed("bdev_raid_create", "--name r --raid_level 1 --base_bdevs a,b --superblock")
                .unwrap();
        assert_eq!(params["base_bdevs"], json!(["a", "b"]));
        assert_eq!(params["superblock"], json!(true));
        assert_eq!(params["raid_level"], json!("1"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, needle) in [
            ("--nam x", "no parameter 'nam'"),
            ("--num_blocks many", "not a number"),
            ("--name", "needs a value"),
            ("stray", "by name"),
            ("--params [1]", "JSON object"),
        ] {
            let error = parsed("bdev_null_create", text).unwrap_err().to_string();
            assert!(error.contains(needle), "{text}: {error}");
        }
    }

    #[test]
    fn a_method_that_only_the_daemon_knows_can_be_called() {
        let params = parse("future_method", None, &words("--size 5 --name x --on")).unwrap();
        assert_eq!(Value::Object(params), json!({"size": 5, "name": "x", "on": true}));
    }
}
