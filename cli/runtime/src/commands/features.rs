//! `features`: what this runtime can do. runtime-spec features.md

use lexopt::Parser;

use super::{Context, Failure};

/// `features`.
#[inline(never)]
pub(crate) fn features(_context: &Context<'_>, mut parser: Parser) -> Result<u8, Failure> {
    if let Some(arg) = parser.next()? {
        return Err(arg.unexpected().into());
    }
    let text = serde_json::to_string_pretty(&runtime::features::features());
    println!("{}", text.map_err(|cause| Failure::usage(cause.to_string()))?);
    Ok(0)
}
