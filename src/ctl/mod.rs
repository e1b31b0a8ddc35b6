//! `philotectl`: the administrator's commands.
