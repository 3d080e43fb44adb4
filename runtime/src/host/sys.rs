//! System calls without a safe wrapper elsewhere: one file a family, each block with its SAFETY reason.
