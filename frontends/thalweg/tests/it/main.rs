//! Tests of the library as its users see it: programs, sessions, trainings and files.

mod data;
mod session;
mod training;
mod view;
mod weights;
