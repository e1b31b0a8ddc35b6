// The Philote client for browsers and Node: it keeps one connection, and says what it could not keep.

/** A message as it arrived. */
export interface Message {
  channel: string;
  /** The text that was sent. */
  data: string;
  /** The connection that published it. */
  issuer: string;
  /** Who published it, by the publisher's token. */
  subject?: string;
  /** Its place in the channel, where the server keeps a history. */
  id?: string;
}

/** What the token in force allows. */
export interface Access {
  connection: string;
  subject?: string | null;
  read: string[];
  write: string[];
  /** RFC 3339; `null` for a token that never expires. */
  expires_at: string | null;
}

/** How the connection is. */
export interface State {
  /** `waiting` will try again, `closed` never will. */
  state: "connecting" | "open" | "waiting" | "closed";
  /** Why the last connection ended: the close code and the server's sentence. */
  code?: number;
  reason?: string;
  /** When it tries again, in milliseconds from now. */
  retryIn?: number;
}

/** What `when` tells. */
export interface Events {
  state: State;
  access: Access;
  /** After each reconnection, once for each channel: `false` where messages may have been missed. */
  recovered: { channel: string; recovered: boolean };
  message: Message;
  /** What the server refused, and tokens that could not be had. */
  error: { error: string; message: string; channel?: string };
}

/** The part of the browser's WebSocket that is used; npm's `ws` has it too. */
export interface Socket {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export interface Options {
  /** Gives a token; asked before each connection and before the one in force expires. */
  token: () => string | Promise<string>;
  /** `false`: values are strings and are sent as they are. */
  json?: boolean;
  /** `true`: a channel that has a handler begins with all that the server keeps of it. */
  history?: boolean;
  /** How many publishes may wait for their answer, sent or not. */
  queue?: number;
  /** The first and the longest span, in milliseconds, out of which the wait before a reconnection is drawn. */
  backoff?: [number, number];
  /** After how many milliseconds of silence the server is asked for a sign of life; 0 for never. */
  probe?: number;
  /** A WebSocket to use in place of the global one, such as that of npm's `ws`. */
  WebSocket?: new (url: string, protocol: string) => Socket;
}

/**
 * Why a publish failed: the server's `forbidden`, `bad_message` or `rate_limited`, or `queue_full`, `unanswered`
 * (the connection ended first: it may or may not have been delivered) or `closed`.
 */
export class PhiloteError extends Error {
  constructor(readonly code: string, message: string) {
    super(message);
    this.name = "PhiloteError";
  }
}

interface Publish {
  channel: string;
  frame: string;
  resolve: (readers: number) => void;
  reject: (error: PhiloteError) => void;
}

/** For a token, an open socket and the server's answer together, in milliseconds. */
const CONNECT = 20_000;
/** A connection that lasted as long, in milliseconds, was a good one: the next wait is short again. */
const STEADY = 5_000;
/** Timers take no longer spans. */
const LONGEST_TIMER = 2 ** 31 - 1;
/** Earlier connections of this client whose messages may still be in a history; beyond, the oldest are forgotten. */
const OWN = 100;

/** One connection to a Philote server, kept until `close` or until the server says not to come back. */
export class Philote {
  #url: string;
  #options: Options;
  #handlers = new Map<string, Set<(...details: any[]) => void>>();
  #state: State = { state: "connecting" };
  #access?: Access;
  #socket?: Socket;
  /** Counts connections and their ends: what was started in an earlier turn has nothing to say any more. */
  #turn = 0;
  #attempt = 0;
  #opened = 0;
  #timer?: ReturnType<typeof setTimeout>;
  #pulse?: ReturnType<typeof setInterval>;
  #heard = false;
  #probing = false;
  /** A token was asked for already when the application wanted another. */
  #again = false;
  /** The token that the server accepted, and the one that it was shown last. */
  #token = "";
  #shown = "";
  /** Each channel's last id, or its place before the first message. */
  #ids = new Map<string, string>();
  /** The server would not take the list of ids. */
  #bare = false;
  #own = new Set<string>();
  #waiting = new Map<string, Publish>();
  #sent = new Map<string, Publish>();
  #acks = 0;

  /** @param url `ws:` or `wss:`; `http:`, `https:` and, in a browser, relative ones are turned into these. */
  constructor(url: string, options: Options) {
    this.#url = new URL(url, globalThis.location?.href).href.replace(/^http/, "ws");
    this.#options = options;
    globalThis.addEventListener?.("online", this.#online);
    // Later, so that the application can first say what it wants to hear.
    this.#schedule(0, () => this.#connect());
  }

  get state(): State {
    return this.#state;
  }

  /** What the token in force allows; `undefined` before the first connection. */
  get access(): Access | undefined {
    return this.#access;
  }

  /** Hears a channel that the token may read. A text that is no JSON comes as it is. Returns what ends it. */
  on(channel: string, handler: (value: any, message: Message) => void): () => void {
    return this.#add("#" + channel, handler);
  }

  /** Hears what happens to the connection. Returns what ends it. */
  when<K extends keyof Events>(event: K, handler: (detail: Events[K]) => void): () => void {
    return this.#add(event, handler);
  }

  /**
   * Publishes a value; while there is no connection it waits in a queue. Resolves to how many readers it was queued for.
   * A publish whose connection ended before the answer is not sent again: only the application knows whether twice is
   * better than never. A rejection that nobody looks at is no unhandled one.
   */
  publish(channel: string, value: unknown): Promise<number> {
    const promise = new Promise<number>((resolve, reject) => {
      const data = this.#options.json === false ? value : JSON.stringify(value);
      if (typeof data !== "string") throw new PhiloteError("bad_message", "this value has no text");
      const limit = this.#options.queue ?? 1000;
      if (this.#state.state === "closed") throw new PhiloteError("closed", "the client is closed");
      if (this.#waiting.size + this.#sent.size >= limit) {
        throw new PhiloteError("queue_full", `${limit} messages are waiting already`);
      }
      const ack = String(++this.#acks);
      this.#waiting.set(ack, { channel, frame: JSON.stringify({ channel, data, ack }), resolve, reject });
      this.#flush();
    });
    promise.catch(() => {});
    return promise;
  }

  /**
   * Asks for a token now and shows it to the server on the connection that stands: channels it no longer names are left,
   * new ones joined, and nothing else is disturbed.
   */
  refresh(): void {
    this.#again = this.#state.state === "connecting";
    if (this.#state.state === "open") this.#refresh();
  }

  /** Ends the connection for good. */
  close(): void {
    this.#end(1000, "closed by the application");
  }

  #add(key: string, handler: (...details: any[]) => void): () => void {
    let handlers = this.#handlers.get(key);
    if (!handlers) this.#handlers.set(key, (handlers = new Set()));
    handlers.add(handler);
    return () => {
      handlers.delete(handler);
      if (!handlers.size && this.#handlers.get(key) === handlers) this.#handlers.delete(key);
    };
  }

  #emit(key: string, ...details: unknown[]): void {
    for (const handler of this.#handlers.get(key) ?? []) {
      try {
        handler(...details);
      } catch (error) {
        // The application's mistake must not cost it the connection, nor be hidden.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  #tell<K extends keyof Events>(event: K, detail: Events[K]): void {
    this.#emit(event, detail);
  }

  #become(state: State): void {
    this.#state = state;
    this.#tell("state", state);
  }

  #schedule(delay: number, what: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(what, Math.min(delay, LONGEST_TIMER));
  }

  /** Drawn from the whole span ("full jitter"), so that clients cut off together do not come back together. */
  #wait(): number {
    const [first, longest] = this.#options.backoff ?? [500, 30_000];
    return Math.random() * Math.min(longest, first * 2 ** this.#attempt++);
  }

  #online = (): void => {
    if (this.#state.state === "waiting") this.#schedule(Math.random() * 500, () => this.#connect());
  };

  async #connect(): Promise<void> {
    const turn = ++this.#turn;
    this.#again = false;
    this.#schedule(CONNECT, () => this.#lost(1006, "no connection in time"));
    this.#become({ state: "connecting" });
    const token = await this.#ask();
    if (turn !== this.#turn) return;
    if (token instanceof Error) return this.#lost(0, `no token: ${token.message}`);
    const socket = new (this.#options.WebSocket ?? (globalThis.WebSocket as any))(this.#url, "philote.v1") as Socket;
    this.#socket = socket;
    const now = (what: (event: any) => void) => (event: any) => {
      if (turn === this.#turn) what(event);
    };
    socket.onopen = now(() => this.#show(token, this.#bare ? [] : (this.#access?.read ?? [])));
    socket.onmessage = now((event) => this.#hear(event.data));
    socket.onerror = () => {}; // a close follows and says more
    socket.onclose = now(({ code, reason }) => {
      // What was too large may have been the list of ids; the next connection does without.
      if (code === 1009 && this.#state.state !== "open") this.#bare = true;
      this.#lost(code, reason || (this.#state.state === "open" ? "the connection was lost" : "cannot connect"));
    });
  }

  async #ask(): Promise<string | Error> {
    try {
      return await this.#options.token();
    } catch (error) {
      return error instanceof Error ? error : new Error(String(error));
    }
  }

  /** Shows a token; `lost` are the channels that were read before a cut. Without an id it is all that is kept. */
  #show(token: string, lost: string[] = []): void {
    const since: Record<string, string | null> = Object.create(null);
    for (const channel of lost) since[channel] = this.#ids.get(channel) ?? null;
    if (this.#options.history && !this.#bare) {
      for (const key of this.#handlers.keys()) {
        const channel = key.slice(1);
        if (key[0] === "#" && !this.#access?.read.includes(channel)) since[channel] = null;
      }
    }
    this.#shown = token;
    const some = Object.keys(since).length > 0;
    this.#socket?.send(JSON.stringify(some ? { auth: token, since } : { auth: token }));
  }

  #hear(text: string): void {
    this.#heard = true;
    const frame = JSON.parse(text);
    if (frame.access) return this.#enter(frame.access);
    const ack = frame.ack ?? (frame.error && frame.error !== "unauthorized" && this.#sent.keys().next().value);
    const publish = this.#sent.get(ack);
    this.#sent.delete(ack);
    if (frame.error) {
      publish?.reject(new PhiloteError(frame.error, frame.message));
      this.#tell("error", frame);
      // The token for the time after this one was not good: another may be.
      if (frame.error === "unauthorized") this.#schedule(1000 + this.#wait(), () => this.#refresh());
    } else if (frame.channel === undefined) {
      if (publish) this.#advance(publish.channel, frame.id);
      publish?.resolve(frame.readers);
    } else {
      this.#deliver(frame);
    }
  }

  /** What this client says itself moves its place as well: all that stands before it has come. */
  #advance(channel: string, id = ""): void {
    const [epoch, number] = id.split("-");
    const [before, reached] = this.#ids.get(channel)?.split("-") ?? [];
    if (number && reached && (epoch !== before || +number > +reached)) this.#ids.set(channel, id);
  }

  #deliver(message: Message): void {
    const { channel, data, id, issuer } = message;
    if (id !== undefined) this.#ids.set(channel, id);
    // A history knows no connection that has ended: what this client published itself comes from there, too.
    if (this.#own.has(issuer)) return;
    this.#tell("message", message);
    const key = "#" + channel;
    if (!this.#handlers.has(key)) return;
    let value: unknown = data;
    if (this.#options.json !== false) {
      try {
        value = JSON.parse(data);
      } catch {
        // Text of a client that sends no JSON.
      }
    }
    this.#emit(key, value, message);
  }

  #enter(frame: Access & { recovered?: Record<string, boolean>; ids?: Record<string, string> }): void {
    const { recovered = {}, ids = {}, ...access } = frame;
    const before = this.#access;
    this.#token = this.#shown;
    this.#access = access;
    this.#own.add(access.connection);
    if (this.#own.size > OWN) this.#own.delete(this.#own.values().next().value!);
    const read = new Set(access.read);
    // A new connection stands where it is told; one that goes on keeps its places, and is told those of new channels.
    if (this.#state.state !== "open") this.#ids.clear();
    for (const channel of this.#ids.keys()) if (!read.has(channel)) this.#ids.delete(channel);
    for (const [channel, id] of Object.entries(ids)) this.#ids.set(channel, id);
    // By the clock of this machine; where that is ahead, the close code 4401 asks for the next token.
    const left = access.expires_at === null ? LONGEST_TIMER : Date.parse(access.expires_at) - Date.now();
    clearTimeout(this.#timer);
    // Drawn as well, because tokens signed together expire together.
    if (left > 0) this.#schedule(Math.max(1000, left * (0.7 + 0.2 * Math.random())), () => this.#refresh());
    if (this.#state.state === "open") return this.#tell("access", access);

    this.#bare = false;
    this.#opened = Date.now();
    const probe = this.#options.probe ?? 15_000;
    if (probe) this.#pulse = setInterval(() => this.#check(), probe);
    const turn = this.#turn;
    this.#become({ state: "open" });
    this.#tell("access", access);
    for (const channel of before?.read ?? []) {
      if (!read.has(channel)) continue;
      this.#tell("recovered", { channel, recovered: recovered[channel] === true });
    }
    // Any of these may have called `close`.
    if (turn !== this.#turn) return;
    this.#flush();
    if (this.#again) this.refresh();
  }

  async #refresh(): Promise<void> {
    const turn = this.#turn;
    const token = await this.#ask();
    if (turn !== this.#turn) return;
    if (!(token instanceof Error)) return this.#show(token);
    this.#tell("error", { error: "token", message: `no token: ${token.message}` });
    this.#schedule(1000 + this.#wait(), () => this.#refresh());
  }

  /** A browser answers pings by itself and tells nobody: a dead network is noticed only by asking. */
  #check(): void {
    if (!this.#heard && this.#probing) return this.#lost(1006, "no answer from the server");
    this.#probing = !this.#heard;
    this.#heard = false;
    if (this.#probing) this.#show(this.#token);
  }

  #flush(): void {
    if (this.#state.state !== "open") return;
    for (const [ack, publish] of this.#waiting) {
      this.#waiting.delete(ack);
      this.#sent.set(ack, publish);
      this.#socket?.send(publish.frame);
    }
  }

  #leave(code: string, sentence: string): void {
    this.#turn++;
    clearTimeout(this.#timer);
    clearInterval(this.#pulse);
    this.#heard = this.#probing = false;
    this.#socket?.close();
    this.#socket = undefined;
    for (const { reject } of this.#sent.values()) reject(new PhiloteError(code, sentence));
    this.#sent.clear();
  }

  #lost(code: number, reason: string): void {
    if (code === 4403) return this.#end(code, reason);
    if (this.#state.state === "open" && Date.now() - this.#opened >= STEADY) this.#attempt = 0;
    // Full, draining, or too fast: a moment is too short.
    if (code === 1013 || code === 4429) this.#attempt = Math.max(this.#attempt, 3);
    this.#leave("unanswered", `${reason}: it may or may not have been delivered`);
    const retryIn = this.#wait();
    this.#schedule(retryIn, () => this.#connect());
    this.#become({ state: "waiting", code, reason, retryIn });
  }

  #end(code: number, reason: string): void {
    if (this.#state.state === "closed") return;
    globalThis.removeEventListener?.("online", this.#online);
    this.#leave("closed", reason);
    for (const { reject } of this.#waiting.values()) reject(new PhiloteError("closed", reason));
    this.#waiting.clear();
    this.#become({ state: "closed", code, reason });
  }
}
