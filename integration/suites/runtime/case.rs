//! A case: what must hold, and which peer is known to differ from the specification there.

use crate::subject::Subject;

/// One thing a runtime must do.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// A sentence: `module::what_must_hold`.
    pub(crate) name: &'static str,
    /// Panics when it does not hold.
    pub(crate) check: fn(&Subject),
    /// Peers that differ from the specification here, with the reason.
    pub(crate) differs: &'static [(&'static str, &'static str)],
}

impl Case {
    /// Returns why the runtime `name` is not judged by this case.
    pub(crate) fn differs_for(&self, name: &str) -> Option<&'static str> {
        self.differs.iter().find(|(peer, _)| *peer == name).map(|(_, why)| *why)
    }
}

/// Lists functions of a module as cases named after them, with optional known differences of peers.
macro_rules! cases {
    ($module:literal: $($check:ident $([$($peer:literal: $why:literal),+])?),+ $(,)?) => {
        pub(crate) const CASES: &[$crate::case::Case] = &[$($crate::case::Case {
            name: concat!($module, "::", stringify!($check)),
            check: $check,
            differs: &[$($(($peer, $why)),+)?],
        }),+];
    };
}
pub(crate) use cases;
