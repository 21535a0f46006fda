"""Seeds from names: the same sample has the same seed on every machine, in any batch and after any resume."""

import hashlib
import json
import random

_MASK = (1 << 64) - 1


def seed_for(*parts: str | int) -> int:
    """A seed from what identifies a sample, e.g. (run seed, iteration, kind, problem id, index).

    It has 53 bits, which every JSON reader keeps exactly.
    """
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 11


def generator(*parts: str | int) -> random.Random:
    """A random generator for one decision, such as which problems an iteration takes."""
    return random.Random(seed_for(*parts))


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for token `position` of the sample with this seed.

    Counter-based (the finalizer of SplitMix64, Steele et al. 2014, over seed + position steps), so that the tokens of a
    sample do not depend on the other samples of a batch.
    """
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) >> 11) / float(1 << 53)
