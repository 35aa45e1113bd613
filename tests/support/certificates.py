"""Certificates for tests, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def put_signed_certificate(certs: Path, work: Path) -> None:
    """Put a certificate for relay.example.com and *.example.org, signed by a CA of the test's own, into a folder of certificates."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)

    ca, ca_key, request, extensions = (str(work / name) for name in ("ca.pem", "ca.key", "request.pem", "extensions"))
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *curve, "-subj", "/CN=Test CA", "-keyout", ca_key, "-out", ca)
    openssl("req", *curve, "-subj", "/CN=relay.example.com", "-keyout", str(certs / "key.pem"), "-out", request)
    Path(extensions).write_text("subjectAltName=DNS:relay.example.com,DNS:*.example.org")
    openssl(
        "x509",
        "-req",
        "-in",
        request,
        "-CA",
        ca,
        "-CAkey",
        ca_key,
        "-extfile",
        extensions,
        "-out",
        str(certs / "cert.pem"),
    )
    (certs / "key.pem").chmod(0o600)
