"""X.509 certificates in DER: making a self-signed leaf, and reading what one says (RFC 5280, X.690)."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from fleetshell_tools.relay import p256

_BOOLEAN, _INTEGER, _BITS, _OCTETS, _OID, _UTF8, _SEQUENCE, _SET = 1, 2, 3, 4, 6, 12, 0x30, 0x31
_UTC_TIME, _TIME = 23, 24
_DNS, _ADDRESS = 0x82, 0x87
"""The tags of a general name: a host name, an IP address (section 4.2.1.6)."""

_KEY_TYPE = "1.2.840.10045.2.1"
_CURVE = "1.2.840.10045.3.1.7"
_SIGNED_WITH = "1.2.840.10045.4.3.2"
_COMMON_NAME, _ORGANIZATION = "2.5.4.3", "2.5.4.10"
_CONSTRAINTS, _KEY_USAGE, _PURPOSES, _KEY_NAME = "2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.14"
_ALTERNATIVE_NAMES = "2.5.29.17"
_SERVER = "1.3.6.1.5.5.7.3.1"


@dataclass(frozen=True)
class Facts:
    """What a certificate says.

    Attributes:
        names: Its DNS names.
        addresses: Its IP addresses.
        self_signed: Whether it names itself as its issuer.
    """

    names: tuple[str, ...]
    addresses: tuple[str, ...]
    ends: datetime
    self_signed: bool


def self_signed_leaf(
    title: str, names: list[str], addresses: list[str], begins: datetime, ends: datetime
) -> tuple[bytes, bytes]:
    """Make a server's certificate that no other can be signed by, and its key.

    Args:
        title: The common name, at most 64 characters.

    Returns:
        The certificate, and the private key as PKCS #8 (RFC 5958), both in DER.
    """
    key = p256.new_key()
    public = p256.public_bytes(key)
    algorithm = _sequence(_oid(_SIGNED_WITH))
    key_type = _sequence(_oid(_KEY_TYPE), _oid(_CURVE))
    who = _sequence(_name(_COMMON_NAME, title), _name(_ORGANIZATION, "FleetShell relay"))
    general = [_value(_DNS, name.encode()) for name in names]
    general += [_value(_ADDRESS, ipaddress.ip_address(address).packed) for address in addresses]
    extensions = _sequence(
        _extension(_CONSTRAINTS, _sequence(), critical=True),
        _extension(_KEY_USAGE, _value(_BITS, b"\x07\x80"), critical=True),  # digitalSignature alone
        _extension(_PURPOSES, _sequence(_oid(_SERVER))),
        _extension(_KEY_NAME, _value(_OCTETS, hashlib.sha1(public).digest())),
        _extension(_ALTERNATIVE_NAMES, _sequence(*general)),
    )
    body = _sequence(
        _value(0xA0, _integer(2)),
        _integer(secrets.randbits(158) | 1 << 158),
        algorithm,
        who,
        _sequence(_moment(begins), _moment(ends)),
        who,
        _sequence(key_type, _bits(public)),
        _value(0xA3, extensions),
    )
    r, s = p256.sign(key, body)
    certificate = _sequence(body, algorithm, _bits(_sequence(_integer(r), _integer(s))))
    secret = _sequence(_integer(1), _value(_OCTETS, key.to_bytes(32, "big")), _value(0xA1, _bits(public)))
    return certificate, _sequence(_integer(0), key_type, _value(_OCTETS, secret))


def read(certificate: bytes) -> Facts:
    """What a certificate in DER says.

    Raises:
        ValueError: It is none.
    """
    try:
        (_, whole), *_ = _parts(certificate)
        (_, body), *_ = _parts(whole)
        fields = [(tag, value) for tag, value in _parts(body) if tag != 0xA0]  # the version may be left out
        _, _, (_, issuer), (_, times), (_, subject), *_ = fields
        names, addresses = _alternative_names(fields)
        return Facts(names, addresses, _when(*list(_parts(times))[1]), issuer == subject)
    except (IndexError, ValueError) as error:
        raise ValueError("not a certificate") from error


def _alternative_names(fields: list[tuple[int, bytes]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names: list[str] = []
    addresses: list[str] = []
    for extensions in (value for tag, value in fields if tag == 0xA3):
        for _, extension in _parts(next(_parts(extensions))[1]):
            kind, *_, (_, content) = _parts(extension)
            if kind != (_OID, _oid(_ALTERNATIVE_NAMES)[2:]):
                continue
            for tag, value in _parts(next(_parts(content))[1]):
                if tag == _DNS:
                    names.append(value.decode("ascii"))
                elif tag == _ADDRESS:
                    addresses.append(str(ipaddress.ip_address(value)))
    return tuple(names), tuple(addresses)


def _when(tag: int, value: bytes) -> datetime:
    """A moment (section 4.1.2.5): two digits of a year mean 1950 to 2049."""
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        text = f"{'19' if text >= '5' else '20'}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The tags and contents that stand one after the other in `data`."""
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size > 127:
            digits = size - 128
            size = int.from_bytes(data[at : at + digits], "big")
            at += digits
        if at + size > len(data):
            raise ValueError("cut off")
        yield tag, data[at : at + size]
        at += size


def _value(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 + len(digits)]) + digits + content


def _sequence(*parts: bytes) -> bytes:
    return _value(_SEQUENCE, b"".join(parts))


def _integer(number: int) -> bytes:
    return _value(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _bits(content: bytes) -> bytes:
    return _value(_BITS, b"\0" + content)


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray()
    for number in (40 * first + second, *rest):
        digits = [number & 127]
        while number := number >> 7:
            digits.append(128 | number & 127)
        content += bytes(reversed(digits))
    return _value(_OID, bytes(content))


def _name(kind: str, text: str) -> bytes:
    return _value(_SET, _sequence(_oid(kind), _value(_UTF8, text.encode())))


def _moment(when: datetime) -> bytes:
    utc = when.astimezone(timezone.utc)
    early = utc.year < 2050
    return _value(_UTC_TIME if early else _TIME, utc.strftime("%y%m%d%H%M%SZ" if early else "%Y%m%d%H%M%SZ").encode())


def _extension(kind: str, content: bytes, *, critical: bool = False) -> bytes:
    return _sequence(_oid(kind), _value(_BOOLEAN, b"\xff") if critical else b"", _value(_OCTETS, content))
