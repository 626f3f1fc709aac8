"""Real processes, real faults, a verdict. Everything binds to loopback, is bounded, and ends its own pids."""
