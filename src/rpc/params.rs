//! Parameters of methods: what they are called, their types, and how they are read.
//!
//! One declaration with [`params!`] gives the struct that the handler gets, the reader that fills
//! it, and the description that the reference page and the client's help show, so these cannot
//! disagree.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::RpcError;
use super::message::{Members, fault_text};
use crate::base::Uuid;

/// A parameter with members of its own.
pub type Object = serde_json::Map<String, Value>;

/// The type of a parameter, in the words of SPDK's schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `string`, `boolean`, `uint8` … `uint64`, `int32`, `uuid`.
    Plain(&'static str),
    /// One of these strings.
    Enum(&'static [&'static str]),
    /// An array of these.
    Array(&'static Kind),
}

impl Kind {
    /// The type's name in SPDK's schema.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Plain(name) => name,
            Kind::Enum(_) => "enum",
            Kind::Array(_) => "array",
        }
    }

    /// The type for people: arrays and enums say of what.
    pub fn text(self) -> String {
        match self {
            Kind::Plain(name) => name.into(),
            Kind::Enum(values) => values.join(", "),
            Kind::Array(of) => format!("array of {}", of.text()),
        }
    }
}

/// The description of one parameter.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
    /// The default in source form, where there is one that can be written down.
    pub default: Option<&'static str>,
    /// What it means: the lines of its doc comment.
    pub doc: &'static [&'static str],
}

/// A Rust type that a parameter can have.
pub trait ParamType: Sized {
    /// What it is called.
    const KIND: Kind;

    /// Reads it.
    ///
    /// # Errors
    /// Says what the value is and what it should be.
    fn read(value: Value) -> Result<Self, String>;
}

fn read_plain<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| fault_text(&error))
}

macro_rules! plain {
    ($($type:ty => $name:literal),* $(,)?) => {
        $(impl ParamType for $type {
            const KIND: Kind = Kind::Plain($name);
            fn read(value: Value) -> Result<Self, String> {
                read_plain(value)
            }
        })*
    };
}

plain! {
    String => "string",
    bool => "boolean",
    u8 => "uint8",
    u16 => "uint16",
    u32 => "uint32",
    u64 => "uint64",
    i32 => "int32",
    Uuid => "uuid",
    Object => "object",
}

impl<T: ParamType> ParamType for Vec<T> {
    const KIND: Kind = Kind::Array(&T::KIND);
    fn read(value: Value) -> Result<Self, String> {
        let elements: Vec<Value> = read_plain(value)?;
        let read = |(index, element)| {
            T::read(element).map_err(|fault| format!("element {index}: {fault}"))
        };
        elements.into_iter().enumerate().map(read).collect()
    }
}

/// Parameters of one method.
pub trait Params: Sized {
    /// Their descriptions.
    const FIELDS: &'static [Field];

    /// Takes them out of `given`.
    ///
    /// # Errors
    /// Names the parameter that is missing or does not fit.
    fn take(given: &mut Given) -> Result<Self, RpcError>;

    /// Reads the `params` member of a request.
    ///
    /// # Errors
    /// `INVALID_PARAMS` with the name of the parameter that is missing, unknown, there twice, or of
    /// another type.
    fn read(params: Option<&RawValue>) -> Result<Self, RpcError> {
        let mut given = Given::read(params)?;
        let read = Self::take(&mut given)?;
        given.finish(Self::FIELDS)?;
        Ok(read)
    }
}

/// Parameters as a request gives them.
pub struct Given(Vec<(String, Value)>);

impl Given {
    fn read(params: Option<&RawValue>) -> Result<Given, RpcError> {
        let Some(params) = params else { return Ok(Given(Vec::new())) };
        if params.get().starts_with('[') {
            return Err(RpcError::invalid_params("they are given by name, in an object"));
        }
        let fault = |error| RpcError::invalid_params(fault_text(&error));
        let Members(members) = serde_json::from_str(params.get()).map_err(fault)?;
        let value = |(name, value): (String, &RawValue)| {
            Ok::<_, RpcError>((name, serde_json::from_str(value.get()).map_err(fault)?))
        };
        Ok(Given(members.into_iter().map(value).collect::<Result<_, _>>()?))
    }

    /// Takes the parameter `name`; null counts as absent.
    ///
    /// # Errors
    /// When it is of another type.
    pub fn optional<T: ParamType>(&mut self, name: &str) -> Result<Option<T>, RpcError> {
        let Some(index) = self.0.iter().position(|(other, _)| other == name) else {
            return Ok(None);
        };
        let (_, value) = self.0.remove(index);
        if value.is_null() {
            return Ok(None);
        }
        let fault = |fault| RpcError::invalid_params(format_args!("'{name}': {fault}"));
        T::read(value).map(Some).map_err(fault)
    }

    /// Takes the parameter `name`.
    ///
    /// # Errors
    /// When it is missing or of another type.
    pub fn required<T: ParamType>(&mut self, name: &str) -> Result<T, RpcError> {
        self.optional(name)?.ok_or_else(|| {
            let kind = T::KIND.text();
            RpcError::invalid_params(format_args!("'{name}' is missing ({kind})"))
        })
    }

    fn finish(self, fields: &[Field]) -> Result<(), RpcError> {
        let Some((unknown, _)) = self.0.first() else { return Ok(()) };
        let known: Vec<&str> = fields.iter().map(|field| field.name).collect();
        let known = match known.as_slice() {
            [] => "the method has none".to_owned(),
            known => format!("known are {}", known.join(", ")),
        };
        Err(RpcError::invalid_params(format_args!("unknown parameter '{unknown}' ({known})")))
    }
}

/// For methods without parameters.
pub struct NoParams;

impl Params for NoParams {
    const FIELDS: &'static [Field] = &[];
    fn take(_given: &mut Given) -> Result<Self, RpcError> {
        Ok(NoParams)
    }
}

/// Declares the parameters of a method, once for all that needs them.
///
/// A field `name: Type` is required, `name: Option<Type>` optional, and `name: Type = default`
/// optional with a default. A doc comment on each field is its documentation.
macro_rules! params {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident { $($body:tt)* }
    ) => {
        $crate::rpc::params::params!(@ { $(#[$meta])* $vis struct $name } [] [] [] $($body)*);
    };
    // Optional.
    (@ $head:tt [$($fields:tt)*] [$($takes:tt)*] [$($infos:tt)*]
        $(#[doc = $doc:literal])+ $field:ident : Option<$type:ty>, $($rest:tt)*) => {
        $crate::rpc::params::params!(@ $head
            [$($fields)* $(#[doc = $doc])+ pub(crate) $field: Option<$type>,]
            [$($takes)* ($field, optional::<$type>, (|taken| taken))]
            [$($infos)* ($field, $type, false, None, [$($doc),+])]
            $($rest)*);
    };
    // With a default.
    (@ $head:tt [$($fields:tt)*] [$($takes:tt)*] [$($infos:tt)*]
        $(#[doc = $doc:literal])+ $field:ident : $type:ty = $default:expr, $($rest:tt)*) => {
        $crate::rpc::params::params!(@ $head
            [$($fields)* $(#[doc = $doc])+ pub(crate) $field: $type,]
            [$($takes)* ($field, optional::<$type>, (|taken: Option<$type>| taken.unwrap_or($default)))]
            [$($infos)* ($field, $type, false, Some(stringify!($default)), [$($doc),+])]
            $($rest)*);
    };
    // Required.
    (@ $head:tt [$($fields:tt)*] [$($takes:tt)*] [$($infos:tt)*]
        $(#[doc = $doc:literal])+ $field:ident : $type:ty, $($rest:tt)*) => {
        $crate::rpc::params::params!(@ $head
            [$($fields)* $(#[doc = $doc])+ pub(crate) $field: $type,]
            [$($takes)* ($field, required::<$type>, (|taken| taken))]
            [$($infos)* ($field, $type, true, None, [$($doc),+])]
            $($rest)*);
    };
    (@ { $(#[$meta:meta])* $vis:vis struct $name:ident } [$($fields:tt)*]
        [$(($take:ident, $how:ident :: < $($as:ty),* >, $then:tt))*]
        [$(($info:ident, $type:ty, $required:literal, $default:expr, [$($doc:literal),+]))*]) => {
        $(#[$meta])*
        $vis struct $name { $($fields)* }

        impl $crate::rpc::params::Params for $name {
            const FIELDS: &'static [$crate::rpc::params::Field] = &[
                $($crate::rpc::params::Field {
                    name: stringify!($info),
                    kind: <$type as $crate::rpc::params::ParamType>::KIND,
                    required: $required,
                    default: $default,
                    doc: &[$($doc),+],
                }),*
            ];

            fn take(
                given: &mut $crate::rpc::params::Given,
            ) -> std::result::Result<Self, $crate::rpc::error::RpcError> {
                Ok(Self {
                    $($take: ($then)(given.$how::<$($as),*>(stringify!($take))?)),*
                })
            }
        }
    };
}
pub(crate) use params;

/// Declares an enum whose variants are strings in JSON.
macro_rules! param_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),* $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name { $($(#[$doc])* $variant),* }

        impl $name {
            /// Its JSON form.
            #[allow(dead_code, reason = "not every enum is written as well as read")]
            $vis fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl $crate::rpc::params::ParamType for $name {
            const KIND: $crate::rpc::params::Kind =
                $crate::rpc::params::Kind::Enum(&[$($text),*]);
            fn read(value: serde_json::Value) -> std::result::Result<Self, String> {
                match value.as_str() {
                    $(Some($text) => Ok(Self::$variant),)*
                    _ => Err(format!("{value} is none of {}", Self::KIND.text())),
                }
            }
        }
    };
}
pub(crate) use param_enum;

#[cfg(test)]
mod tests {
    use super::*;

    param_enum! {
        /// Colours.
        enum Colour { Red = "red", Green = "green" }
    }

    params! {
        /// Of a test.
        struct Sample {
            /// A name.
            /// In two lines.
            name: String,
            /// A number.
            count: u32 = 7,
            /// An id.
            uuid: Option<Uuid>,
            /// A colour.
            colour: Option<Colour>,
            /// Names.
            names: Vec<String> = Vec::new(),
        }
    }

    fn read(text: &str) -> Result<Sample, String> {
        let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
        Sample::read(Some(&raw)).map_err(|error| {
            assert_eq!(error.code, RpcError::INVALID_PARAMS);
            error.message
        })
    }

    #[test]
    fn the_declaration_is_the_description() {
        let fields = Sample::FIELDS;
        assert_eq!(fields[0].doc, &[" A name.", " In two lines."]);
        assert!(fields[0].required && !fields[1].required && !fields[2].required);
        assert_eq!(fields[1].default, Some("7"));
        assert_eq!(fields[3].kind, Kind::Enum(&["red", "green"]));
        assert_eq!(fields[4].kind.text(), "array of string");
    }

    #[test]
    fn what_is_absent_or_null_has_its_default() {
        let sample = read(r#"{"name":"a","count":null,"colour":"green"}"#).unwrap();
        assert_eq!((sample.name.as_str(), sample.count), ("a", 7));
        assert!(sample.uuid.is_none() && sample.names.is_empty());
        assert_eq!(sample.colour, Some(Colour::Green));
    }

    #[test]
    fn faults_name_the_parameter() {
        for (text, fault) in [
            ("{}", "'name' is missing (string)"),
            (r#"{"name":null}"#, "'name' is missing (string)"),
            (r#"{"name":"a","nam":1}"#, "unknown parameter 'nam'"),
            (r#"{"name":"a","name":"b"}"#, "'name' stands twice"),
            (r#"{"name":"a","count":-1}"#, "'count': invalid value: integer `-1`, expected u32"),
            (r#"{"name":"a","count":"1"}"#, "'count': invalid type: string \"1\", expected u32"),
            (r#"{"name":"a","uuid":"x"}"#, "'uuid': "),
            (r#"{"name":"a","colour":"blue"}"#, "'colour': \"blue\" is none of red, green"),
            (r#"{"name":"a","names":["b",5]}"#, "'names': element 1: invalid type"),
            ("[]", "by name"),
        ] {
            let message = read(text).err().unwrap();
            assert!(message.contains(fault), "{text}: {message}");
        }
    }
}
