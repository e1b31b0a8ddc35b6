"""Signs tokens for clients, as an application's backend does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from datetime import datetime, timedelta
from typing import Any, Dict, Iterable, List, Mapping, Optional, Union

#: The largest ``info`` that a server accepts, in bytes.
LARGEST_INFO = 256
#: The most entries that a server accepts in each list of ``may`` and in ``presence``.
MOST_PATTERNS = 64

Expiry = Union[timedelta, datetime, int, None]


def sign(
    secret: Union[str, bytes],
    *,
    exp: Expiry,
    read: Iterable[str] = (),
    write: Iterable[str] = (),
    may: Optional[Mapping[str, Iterable[str]]] = None,
    presence: Union[bool, Iterable[str]] = False,
    info: Optional[Mapping[str, Any]] = None,
    sub: Optional[str] = None,
    api: Union[bool, Iterable[str]] = False,
) -> str:
    """Signs a token with HS256.

    ::

        sign(secret, read=["news"], may={"read": ["room:*"], "write": ["room:*"]}, sub="alice", exp=timedelta(hours=1))

    :param secret: the server's; of a secret file, which may be passed as it is, the first line signs.
    :param exp: when the token expires: a time from now, a time (a naive one is local), seconds since 1970, or ``None`` for
        never.
    :param read: channels that are read at once; no character in a name is special.
    :param write: channels that may be written.
    :param may: with the keys ``read`` and ``write``: channels that may be joined, and others that may be written: names, or
        with ``*`` at the end the beginnings of names.
    :param presence: ``True``, or channels as in ``may``: the client may see who reads a channel that it reads.
    :param info: what others see of it there, besides the subject; at most 256 bytes of JSON.
    :param sub: the subject: the client's name, which is delivered with what it publishes.
    :param api: ``True`` opens the HTTP API, a list of rights parts of it.
    :raises TypeError: for a claim of a wrong type.
    :raises ValueError: for a claim that no server accepts, or an empty secret.
    """
    claims: Dict[str, Any] = {"read": _names("read", read), "write": _names("write", write)}
    if may is not None:
        if not isinstance(may, Mapping) or not may.keys() <= {"read", "write"}:
            raise TypeError("may must be a mapping with the keys read and write")
        claims["may"] = {key: _patterns(f"may[{key!r}]", names) for key, names in may.items()}
    if presence:
        claims["presence"] = presence if presence is True else _patterns("presence", presence)
    if info is not None:
        size = len(_encode(dict(info)))
        if size > LARGEST_INFO:
            raise ValueError(f"info has {size} bytes of JSON; the limit is {LARGEST_INFO}")
        claims["info"] = dict(info)
    if sub is not None:
        if not isinstance(sub, str):
            raise TypeError("sub must be a str")
        claims["sub"] = sub
    if api:
        claims["api"] = api if api is True else _names("api", api)
        # With these claims the API is limited to these channels, so empty ones would forbid everything.
        claims = {key: value for key, value in claims.items() if value or key not in ("read", "write")}
    if exp is not None:
        claims["exp"] = _seconds(exp)
    body = _base64(_encode({"alg": "HS256", "typ": "JWT"})) + b"." + _base64(_encode(claims))
    signature = hmac.new(_key(secret), body, hashlib.sha256).digest()
    return (body + b"." + _base64(signature)).decode()


def _names(claim: str, names: Iterable[str]) -> List[str]:
    # A str would be taken apart into its characters.
    found = None if isinstance(names, (str, bytes, Mapping)) else list(names)
    if found is None or not all(isinstance(name, str) for name in found):
        raise TypeError(f"{claim} must be a list of str")
    return found


def _patterns(claim: str, names: Iterable[str]) -> List[str]:
    found = _names(claim, names)
    if len(found) > MOST_PATTERNS:
        raise ValueError(f"{claim} has {len(found)} entries; the limit is {MOST_PATTERNS}")
    return found


def _seconds(exp: Union[timedelta, datetime, int]) -> int:
    if isinstance(exp, timedelta):
        return int(time.time() + exp.total_seconds())
    if isinstance(exp, datetime):
        return int(exp.timestamp())
    if isinstance(exp, bool) or not isinstance(exp, int):
        raise TypeError("exp must be a timedelta, a datetime, seconds since 1970 as an int, or None")
    return exp


def _key(secret: Union[str, bytes]) -> bytes:
    key = secret.encode() if isinstance(secret, str) else secret
    key = key.split(b"\n")[0]
    if not key:
        raise ValueError("the secret is empty")
    return key


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
