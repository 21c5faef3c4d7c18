//! Collectives among threads against their definitions, and what happens when a member fails.

mod failures;
mod values;
