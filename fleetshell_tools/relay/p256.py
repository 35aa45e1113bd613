"""ECDSA over P-256: making a key and one signature of it, for the relay's certificate (SEC 1, FIPS 186-5).

Python's library has no such thing, and a host with Python and OpenSSH alone has no `openssl` program. Nothing here runs in
constant time: it signs once, on the machine that keeps the key, where nobody can time it.
"""

from __future__ import annotations

import hashlib
import secrets

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
"""The field, the order and the base point (SEC 2, section 2.4.2)."""

_Point = tuple[int, int]


def new_key() -> int:
    """A private key."""
    return secrets.randbelow(_N - 1) + 1


def public_bytes(key: int) -> bytes:
    """The public key as an uncompressed point (SEC 1, section 2.3.3)."""
    x, y = _times(key, _G)
    return b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")


def sign(key: int, message: bytes) -> tuple[int, int]:
    """The signature (r, s) of a message's SHA-256 (SEC 1, section 4.1.3)."""
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    while True:
        once = new_key()
        r = _times(once, _G)[0] % _N
        s = pow(once, -1, _N) * (digest + r * key) % _N
        if r and s:
            return r, s


def _times(factor: int, point: _Point) -> _Point:
    total: _Point | None = None
    while factor:
        if factor & 1:
            total = point if total is None else _plus(total, point)
        point = _plus(point, point)
        factor >>= 1
    assert total is not None, "a key is never 0"
    return total


def _plus(a: _Point, b: _Point) -> _Point:
    """The sum of two points whose sum is not the point at infinity: no multiple below the order comes to that."""
    (ax, ay), (bx, by) = a, b
    slope = 3 * (ax * ax - 1) * pow(2 * ay, -1, _P) if a == b else (by - ay) * pow(bx - ax, -1, _P)
    x = (slope * slope - ax - bx) % _P
    return x, (slope * (ax - x) - ay) % _P
