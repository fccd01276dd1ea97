//! What must hold of every store, and what holds of the embedded one besides.

mod contract;
mod sqlite;
