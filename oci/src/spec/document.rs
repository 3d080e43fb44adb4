//! The one shape all documents of the specification share: camelCase names, every field may be absent or `null`,
//! nothing empty is written.

use std::collections::BTreeMap;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

/// Whether a field says nothing and is left out when written.
pub(crate) trait Empty {
    fn is_empty(&self) -> bool;
}

impl<T> Empty for Option<T> {
    fn is_empty(&self) -> bool {
        self.is_none()
    }
}

impl<T> Empty for Vec<T> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Empty for BTreeMap<K, V> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl Empty for String {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl Empty for bool {
    fn is_empty(&self) -> bool {
        !self
    }
}

/// Plain numbers are required fields: zero is a value and is written.
macro_rules! never_empty {
    ($($number:ty),*) => { $(impl Empty for $number { fn is_empty(&self) -> bool { false } })* };
}
never_empty!(i32, i64, u16, u32, u64);

/// Reads a value where Go writers may have put `null` for "nothing".
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// Reads objects as objects. Derived readers also take a list of the fields' values in order, so that `"resources": []`
/// would pass for one without limits.
pub(crate) struct OnlyMap<D>(pub(crate) D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for OnlyMap<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Declares one document; see the module's header for what that means.
macro_rules! document {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default, remote = "Self")]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[serde(
                    skip_serializing_if = "crate::spec::document::Empty::is_empty",
                    deserialize_with = "crate::spec::document::nullable"
                )]
                pub $field: $kind,
            )*
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                // The derived function, which takes a list for an object; only the wrapper sees to it that it does not.
                $name::deserialize(crate::spec::document::OnlyMap(from))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, to)
            }
        }
    };
}
pub(crate) use document;
