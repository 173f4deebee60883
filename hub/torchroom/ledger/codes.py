"""Voucher codes: easy to type, impossible to guess, and not readable where kept.

A code is TR-XXXX-XXXX-XXXX-XXXX in Crockford's base32: 80 random bits, no I, L, O or U.
The ledger keeps its SHA-256 only. That is enough without salt or stretching, because
nobody can try 2^80 codes.
"""

import hashlib
import unicodedata

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PREFIX = "TR"
RANDOM_BYTES = 10
N_CHARACTERS = 16
GROUP = 4
BITS = 5
TYPED_MAX = 64
"""What is longer than this is no code, whatever is in it."""
_READ_AS = str.maketrans("OIL", "011")


def code_of(random: bytes) -> str:
    """Return the code of these random bytes; other bytes give another code.

    Args:
        random: Ten bytes of a cryptographic source, used for nothing else.
    """
    if len(random) != RANDOM_BYTES:
        raise ValueError("A code is made of exactly 10 random bytes.")
    bits = int.from_bytes(random)
    characters = "".join(
        ALPHABET[bits >> BITS * place & (1 << BITS) - 1]
        for place in reversed(range(N_CHARACTERS))
    )
    groups = (characters[i : i + GROUP] for i in range(0, N_CHARACTERS, GROUP))
    return "-".join((PREFIX, *groups))


def digest_of(typed: str) -> str | None:
    """Return the SHA-256 (64 hex digits) of the code that a person typed.

    Capitals, spaces, hyphens and the prefix do not matter; O is read as 0, I and L
    as 1. None: it cannot be a code.
    """
    if len(typed) > TYPED_MAX:
        return None
    plain = "".join(
        character
        for character in unicodedata.normalize("NFKC", typed).upper()
        if not character.isspace() and unicodedata.category(character) != "Pd"
    )
    if len(plain) == len(PREFIX) + N_CHARACTERS:
        plain = plain.removeprefix(PREFIX)
    plain = plain.translate(_READ_AS)
    if len(plain) != N_CHARACTERS or not set(plain) <= set(ALPHABET):
        return None
    return hashlib.sha256(plain.encode("ascii")).hexdigest()
