// One side of the conversation, for the browser and for Node; any WebSocket with the browser's interface works.

/**
 * Publishes `share` messages on `channel` and keeps everything that arrives, from "go" to "end".
 * Is never more than `lead` messages ahead of the slowest of `others`, so that the messages of the three mix.
 * Resolves to the received messages in order; rejects if the connection ends before the conversation.
 */
export function converse(socket, { name, others, channel, share, lead, texts }) {
  const received = [];
  const heard = Object.fromEntries(others.map((other) => [other, 0]));
  let sent = 0;

  const speak = () => {
    while (sent < share && sent < Math.min(...Object.values(heard)) + lead) {
      socket.send(JSON.stringify({ channel, data: `${name} ${sent} ${texts[sent % texts.length]}` }));
      sent += 1;
    }
  };

  return new Promise((resolve, reject) => {
    socket.onclose = ({ code, reason }) => reject(new Error(`${name} was closed: ${code} ${reason}`));
    socket.onmessage = (event) => {
      const message = JSON.parse(event.data);
      received.push(message);
      if (message.data === "end") resolve(received);
      const from = message.data?.split(" ")[0];
      if (from in heard) heard[from] += 1;
      speak();
    };
  });
}
