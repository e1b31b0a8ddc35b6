"""Spoils deliveries on their way to the model, to show that the model notices."""

import itertools

# One delivery in so many is spoiled. A lost one cannot be noticed if its reader ends just then.
EVERY = 200
SPOILS = ["drop", "twice", "swap"]


def spoil(model, kind):
    """Makes the model miss deliveries, see them twice, or see two of a reader and channel in the wrong order."""
    deliver, held, numbers = model.deliver, [], itertools.count(1)

    def spoiled(reader, frame, connection):
        now = next(numbers) % EVERY == 0
        if held and (held[0][0], held[0][1]["channel"]) == (reader, frame["channel"]):
            deliver(reader, frame, connection)
            return deliver(*held.pop())
        if now and kind == "drop":
            return None
        if now and kind == "swap" and not held:
            return held.append((reader, frame, connection))
        if now and kind == "twice":
            deliver(reader, frame, connection)
        return deliver(reader, frame, connection)

    model.deliver = spoiled
