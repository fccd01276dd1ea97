//! The real binary, driven from outside: over HTTP, by signals, and on its command line.

mod admin;
mod client;
mod clock;
mod command_line;
mod disk;
mod hostile;
mod keys;
mod killed;
mod limits;
mod linear;
mod memory;
mod restoring;
mod running;
mod thief;
mod versions;
mod who;
