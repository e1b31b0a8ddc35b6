//! The `jane` client.
