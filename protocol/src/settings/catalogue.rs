//! The table of settings: one row each. Owns names, types, defaults, ranges and documentation.
