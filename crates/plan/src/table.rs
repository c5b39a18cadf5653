//! The macros in which the language is declared: one table gives the type, its documentation, and how it is read.

/// Declares a record: a mapping with known keys.
macro_rules! record {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident $what:literal $(short $short:literal)? {
            $(
                $(#[doc = $doc:literal])+
                $field:ident $([$key:literal])? : $type:ty $(= $default:expr)? $(=> $computed:expr)?,
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }
    };
}

/// Declares a choice: exactly one of several records, told apart by a key that only it has.
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
    };
}

pub(crate) use {choice, record, words};
