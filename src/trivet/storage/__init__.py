"""The data directory: write-ahead log, hard state, snapshots, identity (design 3, R3-R8, R10)."""
