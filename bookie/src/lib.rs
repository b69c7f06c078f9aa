//! Durable ledger entries in RocksDB: group commit, fencing, limbo, cookies.
