//! Printing: tables, JSON, Go templates. stdout is data, stderr is everything else.
