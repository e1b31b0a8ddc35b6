"""The asyncio client of Philote, a WebSocket server for publish/subscribe.

``Philote`` keeps a connection open, and reports what it could not recover; ``sign`` signs tokens; ``philote_client.api`` is
for backends, and needs httpx.
"""

from ._client import Philote
from ._handlers import Messages
from ._sign import sign
from ._types import Access, ErrorEvent, May, Message, PhiloteError, Presence, Recovered, State

__version__ = "1.0.0"

__all__ = [
    "Access",
    "ErrorEvent",
    "May",
    "Message",
    "Messages",
    "Philote",
    "PhiloteError",
    "Presence",
    "Recovered",
    "State",
    "sign",
]
