//! Tests of the library as its users see it: programs, sessions, trainings and files.

mod training;
