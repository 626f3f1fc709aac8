"""The state machine: pure and deterministic. No clock, IO, randomness, logging, floats or hash order."""
