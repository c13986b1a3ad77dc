"""As much of X.509 as a pin needs: the public key of a certificate, and the names that it is for (RFC 5280, 4.1).

Reads only; whether a certificate may be believed is for TLS to say.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

_SEQUENCE = 0x30
_VERSION = 0xA0
_EXTENSIONS = 0xA3
_OID = 0x06
_OCTETS = 0x04
_DNS_NAME = 0x82
_IP_ADDRESS = 0x87
#: 2.5.29.17, subjectAltName.
_ALTERNATIVE_NAMES = bytes.fromhex("551d11")


def public_key(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a certificate in DER, with its header. ValueError for what is none."""
    fields = [whole for _, _, whole in _signed_part(certificate)]
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
    if len(fields) <= 5:
        raise ValueError("no certificate")
    return fields[5]


def names(certificate: bytes) -> list[str]:
    """What the certificate is for: names first, then addresses. Empty if nothing can be read."""
    dns: list[str] = []
    addresses: list[str] = []
    try:
        for tag, value in _alternative_names(certificate):
            if tag == _DNS_NAME:
                dns.append(value.decode("ascii"))
            elif tag == _IP_ADDRESS:
                addresses.append(str(ipaddress.ip_address(value)))
    except ValueError:
        return []
    # A name with a star stands for others, and is none itself.
    return [name for name in dns if "*" not in name] + addresses


def _alternative_names(certificate: bytes) -> Iterator[tuple[int, bytes]]:
    for tag, value, _ in _signed_part(certificate):
        if tag != _EXTENSIONS:
            continue
        [(_, extensions, _)] = list(_elements(value))
        for _, extension, _ in _elements(extensions):
            parts = list(_elements(extension))
            if parts[0][:2] == (_OID, _ALTERNATIVE_NAMES) and parts[-1][0] == _OCTETS:
                [(_, general_names, _)] = list(_elements(parts[-1][1]))
                yield from ((tag, name) for tag, name, _ in _elements(general_names))


def _signed_part(certificate: bytes) -> list[tuple[int, bytes, bytes]]:
    """The fields of the part that is signed, without the version."""
    outer = next(_elements(certificate), None)
    if outer is None or outer[0] != _SEQUENCE:
        raise ValueError("no certificate")
    inner = next(_elements(outer[1]), None)
    if inner is None or inner[0] != _SEQUENCE:
        raise ValueError("no certificate")
    return [element for element in _elements(inner[1]) if element[0] != _VERSION]


def _elements(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The elements of DER one after the other: tag, content, all of it. ValueError where one is cut off."""
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise ValueError("cut off")
        tag, length, begin = data[at], data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(data[begin : begin + count], "big")
            begin += count
        end = begin + length
        if end > len(data):
            raise ValueError("cut off")
        yield tag, data[begin:end], data[at:end]
        at = end
