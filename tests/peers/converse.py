"""One side of the conversation, in Python: the role comes on standard input, what was received leaves on standard output."""

import json
import os
import sys

import jwt
from websockets.sync.client import connect

role = json.load(sys.stdin)
name, channel, share, texts = role["name"], role["channel"], role["share"], role["texts"]
heard = dict.fromkeys(role["others"], 0)
sent = 0
received = []

token = jwt.encode({"read": [channel], "write": [channel], "sub": name}, os.environ["SECRET"])
with connect(f"ws://{role['address']}/", additional_headers={"Authorization": f"Bearer {token}"}) as socket:
    print("open", flush=True)
    for frame in socket:
        message = json.loads(frame)
        received.append(message)
        data = message.get("data", "")
        if data == "end":
            break
        sender = data.split(" ")[0]
        if sender in heard:
            heard[sender] += 1
        while sent < share and sent < min(heard.values()) + role["lead"]:
            socket.send(json.dumps({"channel": channel, "data": f"{name} {sent} {texts[sent % len(texts)]}"}))
            sent += 1

json.dump(received, sys.stdout)
