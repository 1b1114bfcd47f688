"""OAUTHBEARER: where the token comes from, asked anew for every connection and before a session runs out (KIP-368)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kafka import errors
from kafka.net.sasl.oauth import AbstractTokenProvider

Tokens = Callable[[], str]


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc] # kafka-python is untyped
    """What kafka-python calls for a token; it never shows one."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self._tokens = tokens

    def token(self) -> str:
        """A token as it is now; whatever goes wrong is a failed authentication, which names no token."""
        try:
            token = self._tokens()
        except Exception as error:
            reason = f"no OAuth token: {type(error).__name__}: {error}"
            raise errors.SaslAuthenticationFailedError(reason) from error
        if not isinstance(token, str) or not token or not token.isascii() or any(c.isspace() for c in token):
            raise errors.SaslAuthenticationFailedError("no OAuth token: what was given is not one word of ASCII text")
        return token


def token_file(path: Path) -> Tokens:
    """Tokens from a file that somebody else keeps fresh, as Kubernetes does with a projected service account token."""

    def read() -> str:
        try:
            return path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no text") from None  # the error would quote what stands there

    return read
