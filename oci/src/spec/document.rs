//! The one shape all documents of the specification share: camelCase names, every field may be absent or `null`,
//! nothing empty is written.

use std::collections::BTreeMap;

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

/// Declares one document; see the module's header for what that means.
macro_rules! document {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
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
    };
}
pub(crate) use document;
