"""Bytes: log entries, snapshots, peer frames. Versioned, checksummed, bounded; never pickle (design 4)."""
