"""How long a failed message waits: integers only, jitter from a keyed hash (contract 3, R30)."""

from __future__ import annotations

from hashlib import blake2b

from trivet.machine.commands import Backoff

MILLI = 1000
_JITTER_STEPS = 1 << 32
_SCALE_BITS = 32  # fixed point of the powers


def power_milli(factor_milli: int, exponent: int, most: int) -> int:
    """``factor ** exponent`` in fixed point (2**-32), cut at `most` whole; by squaring, so always short."""
    ceiling = most << _SCALE_BITS
    base = (factor_milli << _SCALE_BITS) // MILLI
    result = 1 << _SCALE_BITS
    while exponent:
        if exponent & 1:
            result = min(result * base >> _SCALE_BITS, ceiling)
        base = min(base * base >> _SCALE_BITS, ceiling)
        exponent >>= 1
    return result


def nominal_ms(backoff: Backoff, attempt: int) -> int:
    """The delay after the failed delivery number `attempt` (from 1), before jitter.

    `list` stays at its last delay; an empty list means no delay. `fixed` is `base_ms`.
    """
    if backoff.type == "list":
        delays = backoff.delays_ms
        return delays[min(attempt, len(delays)) - 1] if delays else 0
    if backoff.type == "fixed":
        return backoff.base_ms
    power = power_milli(backoff.factor_milli, attempt - 1, backoff.max_ms + 1)
    return min(backoff.base_ms * power >> _SCALE_BITS, backoff.max_ms)


def delay_ms(backoff: Backoff, message: int, attempt: int, secret: bytes) -> int:
    """The delay with jitter: it takes off a share of at most `jitter_milli` thousandths, never adds.

    The share is a keyed hash of message number and attempt, so every node finds the same one and
    messages that failed together do not come back together.
    """
    nominal = nominal_ms(backoff, attempt)
    if not nominal or not backoff.jitter_milli:
        return nominal
    data = b"J" + message.to_bytes(8, "big") + attempt.to_bytes(8, "big")
    drawn = int.from_bytes(blake2b(data, digest_size=4, key=secret).digest(), "big")
    return nominal - nominal * backoff.jitter_milli * drawn // (MILLI * _JITTER_STEPS)
