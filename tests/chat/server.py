"""The backend of a chat: logs users in, and signs tokens for the rooms that they may enter.

Uses Python's standard library and PyJWT. SECRET is Philote's secret; PHILOTE is its URL (ws://127.0.0.1:6380/), and PORT
the port to serve on (8000). A real backend would check a password, and serve over TLS.
"""

import json
import os
import secrets
import time
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt

ROOMS = ["lobby", "kitchen", "garden"]  # their channels are room:lobby and so on
SECRET = os.environ["SECRET"]
PHILOTE = os.environ.get("PHILOTE", "ws://127.0.0.1:6380/")
TOKEN_LASTS = int(os.environ.get("TOKEN_LASTS", "600"))  # seconds; the page requests the next token itself
HERE = Path(__file__).parent
CLIENT = next(
    path
    for path in (HERE / "../../packaging/npm/philote.js", Path("/usr/share/philote/npm/philote.js"))
    if path.exists()
)
FILES = {"/": (HERE / "chat.html", "text/html"), "/philote.js": (CLIENT, "text/javascript")}

sessions = {}  # cookie: name


class Chat(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/me":
            return self.answer(200, {"name": self.name(), "rooms": ROOMS, "philote": PHILOTE})
        if self.path not in FILES:
            return self.answer(404, {"error": "there is no such page"})
        path, kind = FILES[self.path]
        self.send(200, kind + "; charset=utf-8", path.read_bytes())

    def do_POST(self):
        asked = json.loads(self.rfile.read(min(int(self.headers["Content-Length"]), 10_000)))
        if self.path == "/login":
            name = str(asked.get("name", "")).strip()[:40]
            if not name or name in sessions.values():
                return self.answer(403, {"error": "choose another name"})
            cookie = secrets.token_urlsafe()
            sessions[cookie] = name
            return self.answer(200, {}, ("Set-Cookie", f"session={cookie}; HttpOnly; SameSite=Strict"))
        if self.path == "/token":
            if not self.name():
                return self.answer(403, {"error": "log in first"})
            # The page joins the rooms that it shows, and sees who is there.
            may = {"read": ["room:*"], "write": ["room:*"]}
            claims = {"sub": self.name(), "may": may, "presence": True, "exp": int(time.time()) + TOKEN_LASTS}
            return self.answer(200, {"token": jwt.encode(claims, SECRET, algorithm="HS256")})
        self.answer(404, {"error": "there is no such page"})

    def name(self):
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("session")
        return sessions.get(cookie.value) if cookie else None

    def answer(self, status, value, *headers):
        self.send(status, "application/json", json.dumps(value).encode(), *headers)

    def send(self, status, kind, body, *headers):
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", len(body)), ("Cache-Control", "no-store"), *headers):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Chat)
print(f"the chat is on http://127.0.0.1:{server.server_port}/", flush=True)
server.serve_forever()
