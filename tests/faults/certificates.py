"""Certificates of an authority that lives for one test, made with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: the authority, the broker's key with its chain, and the client's, whose key has a password."""

    ca: Path
    broker: Path
    client: Path
    client_key: Path
    client_password: str


def make(directory: Path, client: str, password: str) -> Certificates:
    """An authority, a certificate of it for 127.0.0.1, and one for the client of that name."""
    if shutil.which("openssl") is None:
        pytest.fail("the openssl command is missing, which makes the certificates of the TLS tests: install openssl")
    run = _Openssl(directory)
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority",
        "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
    run.signed("broker", "/CN=broker", "subjectAltName=IP:127.0.0.1")
    run.signed("client", f"/CN={client}", "extendedKeyUsage=clientAuth")
    run("pkcs8", "-topk8", "-in", "client.key", "-out", "client.locked", "-passout", f"pass:{password}")
    chain = directory / "broker.chain.pem"
    chain.write_text("".join((directory / name).read_text() for name in ("broker.key", "broker.pem", "ca.pem")))
    return Certificates(directory / "ca.pem", chain, directory / "client.pem", directory / "client.locked", password)


class _Openssl:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=self._directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"openssl {arguments[0]}: {done.stderr}"

    def signed(self, name: str, subject: str, extension: str) -> None:
        """A key and a certificate of the authority for it."""
        (self._directory / f"{name}.ext").write_text(f"{extension}\n")
        self("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", subject,
             "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        self("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
             "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip
