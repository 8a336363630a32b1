//! Requests and answers (JSON-RPC 2.0 specification, sections 4 and 5).

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::RpcError;

/// The id of a request: a string, a number or null, given back exactly as it came.
#[derive(Clone, Debug)]
pub struct Id(Box<RawValue>);

impl Id {
    /// The id of an answer to what had none that could be read.
    pub fn null() -> Id {
        Id(RawValue::NULL.to_owned())
    }

    /// The id in its JSON form.
    pub fn text(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Id) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Id {}

/// A request that asks for a method to be run.
#[derive(Clone, Debug)]
pub struct Call {
    /// `None` for a notification, which gets no answer.
    pub id: Option<Id>,
    /// The method's name.
    pub method: String,
    /// Parameters: an object or an array, not looked into yet.
    pub params: Option<Box<RawValue>>,
}

impl PartialEq for Call {
    fn eq(&self, other: &Call) -> bool {
        let text = |call: &Call| call.params.as_ref().map(|params| params.get().to_owned());
        self.id == other.id && self.method == other.method && text(self) == text(other)
    }
}

/// JSON that is no request, with the answer that it gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// The id, as far as one could be read.
    pub id: Id,
    /// What is wrong with it.
    pub error: RpcError,
}

/// The members of a JSON object in their order, each name at most once.
pub(super) struct Members<'a>(pub Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members: Vec<(String, &RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if members.iter().any(|(other, _)| *other == name) {
                        return Err(serde::de::Error::custom(format!("'{name}' stands twice")));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Text of a serde error without the position, which within a part of a request says nothing.
pub(super) fn fault_text(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn is_object_or_array(value: &RawValue) -> bool {
    value.get().starts_with(['{', '['])
}

impl Call {
    /// Reads one request. Like SPDK, it lets the member `jsonrpc` be absent, takes `"params": null`
    /// for no parameters, and refuses members that are not in the specification.
    pub(super) fn read(value: &RawValue) -> Result<Call, Rejected> {
        let reject = |id: Option<Id>, what: &dyn fmt::Display| Rejected {
            id: id.unwrap_or_else(Id::null),
            error: RpcError::invalid_request(what),
        };
        if !value.get().starts_with('{') {
            return Err(reject(None, &"a request is an object"));
        }
        let Members(members) =
            serde_json::from_str(value.get()).map_err(|error| reject(None, &fault_text(&error)))?;
        let member = |name| members.iter().find(|(other, _)| other == name).map(|(_, v)| *v);
        let id = match member("id") {
            None => None,
            Some(id) if id.get().starts_with(['"', '-', 'n']) => Some(Id(id.to_owned())),
            Some(id) if id.get().starts_with(|c: char| c.is_ascii_digit()) => {
                Some(Id(id.to_owned()))
            }
            Some(_) => return Err(reject(None, &"'id' is a string, a number or null")),
        };
        if let Some((name, _)) = members
            .iter()
            .find(|(name, _)| !matches!(name.as_str(), "jsonrpc" | "id" | "method" | "params"))
        {
            let what = format!("unknown member '{name}' (jsonrpc, id, method, params are known)");
            return Err(reject(id, &what));
        }
        if member("jsonrpc").is_some_and(|version| version.get() != "\"2.0\"") {
            return Err(reject(id, &"'jsonrpc' must be \"2.0\""));
        }
        let Some(method) = member("method") else {
            return Err(reject(id, &"'method' is missing"));
        };
        let Ok(method) = serde_json::from_str::<String>(method.get()) else {
            return Err(reject(id, &"'method' is a string"));
        };
        let params = match member("params") {
            Some(params) if params.get() == "null" => None,
            Some(params) if !is_object_or_array(params) => {
                return Err(reject(id, &"'params' is an object or an array"));
            }
            params => params.map(ToOwned::to_owned),
        };
        Ok(Call { id, method, params })
    }
}

/// The answer to one request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The request's id.
    pub id: Id,
    /// What came of it.
    pub outcome: Result<Value, RpcError>,
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("jsonrpc", "2.0")?;
        map.serialize_entry("id", &self.id.0)?;
        match &self.outcome {
            Ok(result) => map.serialize_entry("result", result)?,
            Err(error) => map.serialize_entry("error", error)?,
        }
        map.end()
    }
}
