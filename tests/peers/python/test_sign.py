"""``sign`` of packaging/python, against PyJWT."""

import time
import unittest
from datetime import datetime, timedelta, timezone

import jwt
from support import Box  # noqa: F401  finds the package

from philote_client import sign

SECRET = "0123456789abcdef0123456789abcdef"


def claims(**options):
    return jwt.decode(sign(SECRET, **{"exp": None, **options}), SECRET, algorithms=["HS256"])


class Sign(unittest.TestCase):
    def test_the_claims_are_those_that_were_given(self):
        may = {"read": ["room:*"], "write": ("room:*", "dm:17")}
        found = claims(
            read=["chat", "שלום"], write=iter(["chat"]), may=may, presence=["room:*"], info={"name": "Ann é"}, sub="ann", exp=4_000_000_000
        )
        self.assertEqual(found, {
            "read": ["chat", "שלום"], "write": ["chat"], "may": {"read": ["room:*"], "write": ["room:*", "dm:17"]},
            "presence": ["room:*"], "info": {"name": "Ann é"}, "sub": "ann", "exp": 4_000_000_000,
        })  # fmt: skip
        self.assertEqual(claims(), {"read": [], "write": []})
        self.assertEqual(claims(presence=True)["presence"], True)

    def test_a_token_of_the_api_is_limited_to_channels_only_if_some_are_named(self):
        self.assertEqual(claims(api=True), {"api": True})
        self.assertEqual(claims(api=["publish"], write=["chat"]), {"api": ["publish"], "write": ["chat"]})

    def test_an_expiry_may_be_a_time_from_now_or_a_time(self):
        self.assertAlmostEqual(claims(exp=timedelta(hours=1))["exp"], time.time() + 3600, delta=60)
        self.assertEqual(claims(exp=datetime(2040, 1, 2, tzinfo=timezone.utc))["exp"], 2_209_075_200)
        self.assertEqual(claims(exp=datetime.fromtimestamp(2_209_075_200))["exp"], 2_209_075_200)

    def test_of_a_secret_file_the_first_line_signs(self):
        for secret in [SECRET + "\n", SECRET + "\nolder\n", SECRET.encode(), (SECRET + "\n").encode()]:
            jwt.decode(sign(secret, exp=None), SECRET, algorithms=["HS256"])

    def test_what_no_server_accepts_is_refused(self):
        bad = [
            {"read": "chat"}, {"write": b"chat"}, {"read": [1]}, {"read": {"chat": 1}}, {"may": ["room:*"]}, {"may": {"raed": []}},
            {"may": {"read": "room:*"}}, {"presence": "room:*"}, {"sub": 7}, {"exp": "tomorrow"}, {"exp": True}, {"exp": 1.5},
            {"info": {"name": "x" * 256}}, {"may": {"read": ["x"] * 65}}, {"api": "publish"}, {"info": {"x": float("nan")}},
        ]  # fmt: skip
        for one in bad:
            with self.assertRaises((TypeError, ValueError), msg=one):
                claims(**one)
        for secret in ["", "\n", b""]:
            with self.assertRaises(ValueError):
                sign(secret, exp=None)
        claims(info={"name": "x" * 245})
