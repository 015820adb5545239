//! Unattended work on many records: read, run side by side, written in order, gone on with after any interruption.

pub mod flight;
pub mod job;
pub mod prefix;
pub mod schedule;

pub use job::{Answer, Feed, Generate, Job, Limits, Load, Next, Task, Totals};
pub use schedule::run;
