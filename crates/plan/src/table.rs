//! The macros in which the language is declared: one table gives the type, its documentation, how it is read, how it is
//! written again, and its JSON Schema, so that these cannot drift apart.
//!
//! What the macros expand to is in `record` (records and choices) and `decode` (everything else).

/// Declares a record: a mapping with known keys.
///
/// `short "key"`: anything that is not a mapping is the value of that key. `field ["key"]`: the key, if it is not the
/// field's name. `= value`: the default. `=> value`: a default that is computed from the fields before it, which
/// are there as `Option`s.
macro_rules! record {
    (
        $(#[doc = $about:literal])+
        $(#[derive($derive:ident)])?
        pub struct $name:ident $what:literal $(short $short:literal)? {
            $(
                $(#[doc = $doc:literal])+
                $field:ident $([$key:literal])? : $type:ty $(= $default:expr)? $(=> $computed:expr)?,
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq $(, $derive)?)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl $crate::record::Record for $name {
            const WHAT: &'static str = $what;
            const ABOUT: &'static [&'static str] = &[$($about),+];
            const SHORT: Option<&'static str> = $crate::table::optional!($($short)?);

            fn keys(keys: &mut $crate::record::Keys) {
                $(<$type as $crate::decode::Decode>::keys($crate::table::key!($field $($key)?), keys);)+
            }

            fn from_fields(
                fields: &mut $crate::record::Fields<'_>,
                reader: &mut $crate::decode::Reader,
            ) -> Option<Self> {
                $(
                    let $field = <$type as $crate::decode::Decode>::take(
                        fields,
                        $crate::table::key!($field $($key)?),
                        $crate::table::optional!($(&|| $default)? $(&|| $computed)?),
                        reader,
                    );
                )+
                Some(Self { $($field: $field?,)+ })
            }

            fn put_fields(&self, object: &mut $crate::decode::Object) {
                $($crate::decode::Decode::put(&self.$field, $crate::table::key!($field $($key)?), object);)+
            }

            fn describe_fields(schemas: &mut $crate::schema::Schemas) -> $crate::record::RecordSchema {
                let mut schema = $crate::record::RecordSchema::default();
                $({
                    let default: Option<$type> = $crate::table::optional!($($default)?);
                    let optional = $crate::table::has!($($computed)?);
                    let key = $crate::table::key!($field $($key)?);
                    let about = $crate::record::About { key, lines: &[$($doc),+], optional };
                    <$type as $crate::decode::Decode>::describe(&about, default, &mut schema, schemas);
                })+
                schema
            }
        }

        $crate::record::decode_as_record!($name);
    };
}

/// Declares a choice: exactly one of several records, told apart by keys that only it has.
///
/// It is always a field of a record, and its keys stand among that record's. `later` are keys that are known and not
/// yet supported.
macro_rules! choice {
    (
        $(#[doc = $about:literal])+
        pub enum $name:ident $what:literal {
            $($(#[doc = $doc:literal])+ $variant:ident($type:ty) = [$($key:literal),+],)+
        }
        later { $($later:literal),* }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant($type),)+
        }

        impl $name {
            /// Gives the key that tells it apart: its kind, in the words of the plan.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $crate::table::first!($($key),+),)+
                }
            }
        }

        impl $crate::record::Choice for $name {
            const WHAT: &'static str = $what;
            const LATER: &'static [&'static str] = &[$($later),*];
            const VARIANTS: &'static [$crate::record::Variant<Self>] = &[$(
                $crate::record::Variant {
                    told_by: &[$($key),+],
                    keys: <$type as $crate::record::Record>::keys,
                    from_fields: |fields, reader| {
                        <$type as $crate::record::Record>::from_fields(fields, reader).map(Self::$variant)
                    },
                    describe: <$type as $crate::record::Record>::describe_fields,
                },
            )+];

            fn put_variant(&self, object: &mut $crate::decode::Object) {
                match self {
                    $(Self::$variant(record) => $crate::record::Record::put_fields(record, object),)+
                }
            }
        }

        $crate::record::decode_as_choice!($name);
    };
}

/// Declares a choice between words.
macro_rules! words {
    (
        $(#[doc = $about:literal])+
        pub enum $name:ident $what:literal {
            $($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $name {
            /// Gives the word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl $crate::decode::Decode for $name {
            fn decode(
                node: &$crate::yaml::Node,
                reader: &mut $crate::decode::Reader,
            ) -> Option<Self> {
                let all = [$(($word, Self::$variant)),+];
                reader.word(node, $what, &all)
            }

            fn encode(&self) -> Option<serde_json::Value> {
                Some(self.as_str().into())
            }

            fn schema(_: &mut $crate::schema::Schemas) -> serde_json::Value {
                serde_json::json!({ "enum": [$($word),+] })
            }
        }
    };
}

/// The key of a field: the one that is stated, or the field's name.
macro_rules! key {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}

/// What is there, if it is there.
macro_rules! optional {
    () => {
        None
    };
    ($thing:expr) => {
        Some($thing)
    };
}

/// Whether something is there; it is not evaluated.
macro_rules! has {
    () => {
        false
    };
    ($thing:expr) => {
        true
    };
}

/// The first of several.
macro_rules! first {
    ($first:literal $(, $other:literal)*) => {
        $first
    };
}

pub(crate) use {choice, first, has, key, optional, record, words};
