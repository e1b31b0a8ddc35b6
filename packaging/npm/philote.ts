// The Philote client for browsers and Node: it keeps one connection open, and reports what it could not recover.

/** A message as it arrived. */
export interface Message {
  channel: string;
  /** The text that was sent; absent if the message has no data. */
  data?: string;
  /** The id of the publisher's connection. */
  issuer: string;
  /** The subject of the publisher's token. */
  subject?: string;
  /** The position of the message in the channel, if the server keeps a history. */
  id?: string;
}

/** What the token in force allows. */
export interface Access {
  connection: string;
  subject?: string | null;
  read: string[];
  write: string[];
  /** Channels that may be joined, and others that may be written: names, or with `*` at the end the beginnings of names. */
  may?: { read: string[]; write: string[] };
  /** RFC 3339; `null` for a token that never expires. */
  expires_at: string | null;
  /** The largest frame in bytes that the server accepts. Servers that do not report it omit the rates, too. */
  max_message_size?: number;
  /** What this connection may send in a second; absent if there is no limit. The client respects it. */
  messages_per_second?: number | null;
  bytes_per_second?: number | null;
}

/** The state of the connection. */
export interface State {
  /** `waiting` reconnects, `closed` does not. */
  state: "connecting" | "open" | "waiting" | "closed";
  /** Why the last connection ended: the close code and the server's sentence. */
  code?: number;
  reason?: string;
  /** The time until the next attempt, in milliseconds. */
  retryIn?: number;
  /** While it is open: `events` over HTTP where no WebSocket can be opened. */
  transport?: "websocket" | "events";
}

/** Who reads a channel. */
export interface Presence {
  channel: string;
  /** The subjects, with what their tokens say about them in `info`; absent if there are too many to be told. */
  subjects?: Map<string, { info?: any }>;
  /** The subjects that joined and left since the handler was called last; both are empty when all are told anew. */
  joined: string[];
  left: string[];
  /** The number of subjects, and of connections that have none. */
  count: number;
  anonymous: number;
}

/** The events for `when`. */
export interface Events {
  state: State;
  access: Access;
  /** After each reconnection, once for each channel: `false` if messages may have been missed. */
  recovered: { channel: string; recovered: boolean };
  message: Message;
  /**
 * Rejections by the server, tokens and states that could not be obtained (`token`, `load`), and handlers of channels that
 * the token does not read.
   */
  error: { error: string; message: string; channel?: string };
}

/** How a handler of `on` gets its messages. */
export interface Follow {
  /**
 * Fetches the state that the handler's messages change, and returns the id of the channel at which it was read. It is called
 * before the channel is joined, and again whenever messages may be missing. The handler then gets each message after
 * this id once, in order. Where the server keeps no history, the result is not used.
   */
  load?: () => Id | Promise<Id>;
}

/** An id of a channel, as the backend gets it from `GET /api/channels/NAME` and `POST /api/publish`. */
export type Id = string | null | undefined | void;

/** The part of the browser's WebSocket that the client uses; npm's `ws` has it too. */
export interface Socket {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export interface Options {
  /** Returns a token within 20 s; called before each connection and before the token in force expires. */
  token: () => string | Promise<string>;
  /** `false`: values are strings and are sent unchanged. */
  json?: boolean;
  /** `true`: each new handler of a channel first gets all messages that the server keeps of the channel. */
  history?: boolean;
  /** How many publishes may wait for their answer, sent or not. */
  queue?: number;
  /** The first and the longest range, in milliseconds, from which the random wait before a reconnection is taken. */
  backoff?: [number, number];
  /**
 * The silence in milliseconds after which the server counts as dead; it is probed after three fifths of this time. With 0
 * it is probed only when the browser reports that it is online again.
   */
  probe?: number;
  /** `false`: does without the events over HTTP that replace a WebSocket after two attempts in a row that no server answered. */
  events?: boolean;
  /** A WebSocket to use instead of the global one, such as that of npm's `ws`. */
  WebSocket?: new (url: string, protocol: string) => Socket;
}

/**
 * Why a publish failed: the server's `forbidden` or `bad_message`, or `message_too_big` (larger than the server's
 * `max_message_size`; it was not sent), `queue_full`, `unanswered` (the connection ended before the answer; the message
 * may or may not have been delivered) or `closed`.
 */
export class PhiloteError extends Error {
  constructor(readonly code: string, message: string) {
    super(message);
    this.name = "PhiloteError";
  }
}

type Handler = (...details: any[]) => void;

interface Publish {
  channel: string;
  frame: string;
  /** Of the frame, in UTF-8. */
  bytes: number;
  /** It was sent on a connection that a too large message ended. */
  again?: boolean;
  resolve: (readers: number | null) => void;
  reject: (error: PhiloteError) => void;
}

/** A token that was sent and has not been answered. */
interface Shown {
  token: string;
  bytes: number;
  /** The handlers that get the history of their channels when the token is accepted. */
  begin: [string, Handler[]][];
}

/** A request to join or leave channels that was sent and has not been answered. */
interface Request {
  frame: string;
  bytes: number;
  /** The handlers that get the history of their channels when they are joined. */
  begin: [string, Handler[]][];
  /** The channels to join, to leave, or to follow or not. */
  names: string[];
  kind: "join" | "leave" | "presence";
  /** Whether presence is followed from then on. */
  follow?: boolean;
  /** The answers to wait for. */
  answers: number;
}

/** A `join` that was not answered yet. */
interface Joining {
  resolve: () => void;
  reject: (error: PhiloteError) => void;
}

/** Limit for `token()`, for connecting including the first answer, and for the answer to a later token, in milliseconds. */
const PATIENCE = 20_000;
/** A connection that lasted this long, in milliseconds, resets the wait before the next attempt. */
const STEADY = 5_000;
/** The longest time that timers accept. */
const LONGEST_TIMER = 2 ** 31 - 1;
/** Earlier connections of this client whose messages may still be in a history; the oldest are forgotten first. */
const OWN = 100;
/** The silence, in milliseconds, after which a server counts as dead, unless `probe` changes it. */
const SILENCE = 15_000;
/** The time, in milliseconds, to read waiting messages after a late timer, before a silent server counts as dead. */
const SECOND_LOOK = 100;
/** The most channels in one request for presence: fewer than the server answers in a second. */
const FOLLOWS = 50;
/** The burst that the server allows, in milliseconds of its rate. */
const BURST = 1000;
/** The messages that a handler may miss while `load()` runs, and their length in UTF-16 units; with more, it is called again. */
const HELD = 1000;
const HELD_LENGTH = 2 ** 22;
/** The pause after `rate_limited`, in milliseconds: a little longer than the time after which the server forgets it. */
const PAUSE = 1200;

/** The default of the option. */
const BACKOFF: [number, number] = [500, 30_000];
/**
 * The attempts in a row to open a WebSocket that fail without a close code before events over HTTP are tried, and the time in
 * milliseconds in which one must be opened once HTTP works.
 */
const FAILED = 2;
const CHECK = 5_000;
/** The waits of `backoff` after which a WebSocket is tried while events are read: at first, and at most. The time doubles. */
const TRIES = [60, 20] as const;
/** The most streams of events at once, fewer than a browser keeps to one server, and the most channels of each. */
const STREAMS = 4;
const CHANNELS = 16;
/** The silence of streams of events, in milliseconds, in which the server sends at least a comment. */
const QUIET = 90_000;

/** Milliseconds of a monotonic clock. */
const clock = () => performance.now();

const size = (text: string) => new TextEncoder().encode(text).length;

/** Returns the URL of a WebSocket, or throws a sentence. It does not quote the URL, which may contain a token. */
function address(url: string | URL): string {
  let whole: URL;
  try {
    if (typeof url !== "string" && !(url instanceof URL)) throw 0;
    whole = new URL(url, globalThis.location?.href);
  } catch {
    throw new TypeError('invalid URL: give the complete URL, such as "wss://chat.example.org/"');
  }
  if (!/^(ws|http)s?:$/.test(whole.protocol)) {
    throw new TypeError(`the URL must begin with ws:// or wss://, not "${whole.protocol}"`);
  }
  if (whole.href.includes("#")) throw new TypeError("the URL of a WebSocket must not have a fragment (#...)");
  return whole.href.replace(/^http/, "ws");
}

/** Returns the result of `token()` without `Bearer` and white space, or the reason why it is not a token. */
function checkToken(given: unknown): string | Error {
  if (typeof given === "string") {
    return given.trim().replace(/^Bearer(\s+|$)/i, "") || new Error("token() returned an empty string");
  }
  const what = given == null ? given : `${typeof given === "object" ? "an" : "a"} ${typeof given}`;
  return new Error(`token() returned ${what}, not a string`);
}

/** Whether one of these names or beginnings matches a channel. */
function allows(patterns: string[] | undefined, channel: string): boolean {
  return !!patterns?.some((one) => (one.endsWith("*") ? channel.startsWith(one.slice(0, -1)) : channel === one));
}

/** Whether an id is at or before this position. */
function isReached(place: string | undefined, id: string): boolean {
  const [epoch, number] = id.split("-");
  const [reached, last] = place?.split("-") ?? [];
  return epoch === reached && +number! <= +last!;
}

/**
 * Respects the server's rates. It counts as the server does, but from the answers: an answered message was counted
 * before, so no delay on the network can make the messages exceed the rate.
 */
class Pace {
  /** Messages and bytes a second; 0 is no limit. */
  #rates = [0, 0];
  /** The time, by the clock, until which the answered messages use up the rate. */
  #paid = [0, 0];
  /** Sent and not answered. */
  #owed = [0, 0];
  #pausedUntil = 0;

  set(messages?: number | null, bytes?: number | null): void {
    this.#rates = [messages ?? 0, bytes ?? 0];
  }

  pause(): void {
    this.#pausedUntil = clock() + PAUSE;
  }

  /** Milliseconds until this number of bytes may be sent; `Infinity` is until an answer arrives. */
  wait(bytes: number): number {
    const now = clock();
    let wait = this.#pausedUntil - now;
    this.#rates.forEach((rate, kind) => {
      if (!rate) return;
      const each = BURST / rate;
      const ahead = this.#paid[kind]! - now;
      const owed = this.#owed[kind]! * each;
      const cost = (kind ? bytes : 1) * each;
      // One message is reserved for the pong that a browser sends by itself.
      const room = kind || rate < 2 ? BURST : BURST - each;
      if (owed && owed + cost > room) wait = Infinity;
      // After a pause the server accepts one message of any size.
      else wait = Math.max(wait, Math.min(ahead, Math.max(ahead, 0) + owed + cost - room));
    });
    return wait;
  }

  sent(bytes: number): void {
    [1, bytes].forEach((amount, kind) => (this.#owed[kind]! += amount));
  }

  /** Counts an answer; a message that was rejected for the rate does not count. */
  answered(bytes: number, limited = false): void {
    [1, bytes].forEach((amount, kind) => {
      this.#owed[kind]! -= amount;
      const rate = this.#rates[kind];
      if (rate && !limited) this.#paid[kind] = Math.max(this.#paid[kind]!, clock()) + (amount * BURST) / rate;
    });
  }
}

/** A handler that follows a state: it gets the messages after the id at which the state was read. */
class Loading {
  /** Without a call of `load` or a state, in a call, before the next call, with a state, or following it. */
  #phase: "idle" | "calls" | "waits" | "loaded" | "follows" = "idle";
  /** The id of the state. */
  #id: unknown;
  /** The channel is read, and all messages after `#base` arrive; without a history it has no id. */
  #isRead = false;
  #base?: string;
  /** The channel was read already when the last call began, so that its state cannot be too old. */
  #isFresh = false;
  /** The messages that arrived during the call, and the length of their texts. */
  #held: [unknown, Message][] = [];
  #length = 0;
  /** Counts calls: only the newest answer is used. */
  #call = 0;
  #attempt = 0;
  #timer?: ReturnType<typeof setTimeout>;

  /** `wait` returns the milliseconds before the next attempt, and `loaded` is called when there is an id to join with. */
  constructor(
    private load: () => unknown,
    private apply: (value: unknown, message: Message) => void,
    private wait: (attempt: number) => number,
    private failed: (message: string) => void,
    private loaded: () => void,
  ) {}

  /** The id with which the channel can be joined. */
  get since(): string | undefined {
    return this.#phase === "loaded" && typeof this.#id === "string" ? this.#id : undefined;
  }

  /** The channel need not be joined yet, because there is no state. */
  get isAwaited(): boolean {
    return !this.#isRead && (this.#phase === "calls" || this.#phase === "waits");
  }

  start(): void {
    const call = ++this.#call;
    this.#phase = "calls";
    this.#isFresh = this.#isRead;
    const answer = (what: () => void) => {
      if (call === this.#call && this.#phase === "calls") what();
    };
    const fail = (why: string) => answer(() => this.#fail(why));
    this.#later(PATIENCE, () => fail(`load() did not answer within ${PATIENCE / 1000} s`));
    Promise.resolve()
      .then(() => (call === this.#call ? this.load() : undefined))
      .then(
        (id) => answer(() => this.#settle(id)),
        (error) => fail(`load() failed: ${error?.message ?? error}`),
      );
  }

  /** A message of the channel. */
  put(value: unknown, message: Message): void {
    if (this.#phase === "follows") {
      if (message.id === undefined || !isReached(this.#id as string, message.id)) this.apply(value, message);
      return;
    }
    if (this.#phase === "calls") {
      this.#held.push([value, message]);
      this.#length += message.data?.length ?? 0;
      if (this.#held.length <= HELD && this.#length <= HELD_LENGTH) return;
      this.#fail("too many messages arrived before load() answered");
    }
    this.#base = message.id;
  }

  /** The channel is read: all messages after `base` arrive. `isGapless`: no message is missing since it was read before. */
  enter(base: string | undefined, isGapless = false): void {
    if (isGapless && this.#isRead) return;
    this.#isRead = true;
    this.#isFresh = false;
    this.#drop();
    this.#base = base;
    if (this.#phase === "loaded") this.#follow();
    else if (this.#phase !== "calls") this.start();
  }

  /** The channel is not read any more. */
  leave(): void {
    this.#isRead = false;
    if (this.#phase === "follows") this.#phase = "idle";
  }

  end(): void {
    this.#call++;
    clearTimeout(this.#timer);
  }

  #later(delay: number, what: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(what, Math.min(delay, LONGEST_TIMER));
  }

  #drop(): void {
    if (this.#held.length) this.#base = this.#held.at(-1)![1].id;
    this.#held = [];
    this.#length = 0;
  }

  #fail(why: string): void {
    this.#phase = "waits";
    this.#drop();
    this.#later(this.wait(this.#attempt++), () => this.start());
    this.failed(why);
  }

  #settle(id: unknown): void {
    clearTimeout(this.#timer);
    this.#phase = "loaded";
    this.#id = id;
    if (this.#isRead) this.#follow();
    else this.loaded();
  }

  /** Follows the state, if all messages after it arrive or are held. */
  #follow(): void {
    const [id, base] = [this.#id, this.#base];
    if (base === undefined ? this.#isFresh : typeof id === "string" && isReached(id, base)) {
      this.#phase = "follows";
      this.#attempt = 0;
      const held = this.#held;
      this.#drop();
      for (const [value, message] of held) this.put(value, message);
    } else if (this.#isFresh) {
      const sentence = "it must be the id at which the state was read, and an id of this channel";
      this.#fail(`load() returned ${typeof id === "string" ? `the id ${id}` : "no id"}, and messages are known after ${base}: ${sentence}`);
    } else {
      this.start();
    }
  }
}

/** A stream of events, and the channels whose messages it delivers. */
interface Stream {
  abort: AbortController;
  /** The connection's id; empty before its `access`. */
  id: string;
  owns: Set<string>;
}

/**
 * A socket over HTTP, for networks that let no WebSocket pass: what arrives comes as Server-Sent Events, and what is sent
 * is a POST. It speaks philote.v1 to its client. Channels that are joined later come on streams of their own, because a
 * stream that is opened again may miss messages where the server keeps no history.
 */
class HttpSocket implements Socket {
  onopen: ((event: any) => void) | null = null;
  onmessage: ((event: any) => void) | null = null;
  onclose: ((event: any) => void) | null = null;
  onerror: ((event: any) => void) | null = null;
  #url: string;
  #token = "";
  /** The frame `access` of the first stream. */
  #access: any;
  #streams = new Set<Stream>();
  #heard = 0;
  #isClosed = false;
  /** The last POST: they are sent one after the other, so that messages stay in order. */
  #posted: Promise<void> = Promise.resolve();

  /** `isBlocked` tells, when the server has answered, whether no WebSocket can be opened; else this socket ends. */
  constructor(url: string, private isBlocked: () => Promise<boolean>) {
    this.#url = url.replace(/^ws/, "http");
    queueMicrotask(() => this.onopen?.({}));
  }

  send(text: string): void {
    const frame = JSON.parse(text);
    if (frame.auth !== undefined) this.#show(frame);
    else if (frame.join) this.#join(frame.join, frame.since ?? {});
    else if (frame.leave) this.#leave(frame.leave);
    else if (frame.presence) this.#deny(frame.presence[0], "who reads a channel is told on a WebSocket only");
    else this.#posted = this.#posted.then(() => this.#post(text, frame));
  }

  close(): void {
    this.#isClosed = true;
    for (const { abort } of this.#streams) abort.abort();
  }

  #end(code: number, reason: string): void {
    if (this.#isClosed) return;
    this.close();
    this.onclose?.({ code, reason });
  }

  #tell(frame: unknown): void {
    if (!this.#isClosed) this.onmessage?.({ data: JSON.stringify(frame) });
  }

  #deny(channel: string, message: string): void {
    queueMicrotask(() => this.#tell({ error: "forbidden", channel, message }));
  }

  #show({ auth, since = {} }: { auth: string; since?: Record<string, string | null> }): void {
    if (!this.#access) {
      this.#token = auth;
      return void this.#read([], since, (access) => {
        this.#access = access;
        this.#tell({ access });
        return access.read;
      });
    }
    // A stream has one token, and where the server keeps no history the next one may miss messages.
    if (auth !== this.#token) return queueMicrotask(() => this.#end(1012, "the next token needs another stream"));
    const again = Object.keys(since).filter((channel) => since[channel] === null);
    if (again.length && this.#streams.size < STREAMS) {
      return void this.#read(again, since, (access) => {
        this.#tell({ access: { ...this.#access, ids: access.ids } });
        return again;
      });
    }
    // The client probes a silent server, which writes a comment now and then.
    if (clock() - this.#heard < QUIET) queueMicrotask(() => this.#tell({ access: { ...this.#access, ids: undefined } }));
  }

  #join(channels: string[], since: Record<string, string | null>): void {
    if (this.#streams.size >= STREAMS || channels.length > CHANNELS) {
      return this.#deny(channels.at(-1)!, `without a WebSocket at most ${STREAMS} times ${CHANNELS} channels can be read`);
    }
    this.#read(channels, since, ({ ids = {}, recovered = {} }) => {
      const joined = channels.map((name) => [name, { id: ids[name], recovered: recovered[name] }]);
      this.#tell({ joined: Object.fromEntries(joined) });
      return channels;
    });
  }

  #leave(channels: string[]): void {
    for (const channel of channels) this.#own(undefined, channel);
    queueMicrotask(() => this.#tell({ left: channels }));
  }

  /** Gives a channel to a stream. A stream that was opened for channels that it has no more ends. */
  #own(stream: Stream | undefined, channel: string): void {
    const [first] = this.#streams;
    for (const other of this.#streams) {
      if (other === stream || !other.owns.delete(channel) || other.owns.size || other === first) continue;
      this.#streams.delete(other);
      other.abort.abort();
    }
    stream?.owns.add(channel);
  }

  /** Opens a stream; `begin` gets its `access` and returns the channels that it delivers from then on. */
  async #read(channels: string[], since: Record<string, string | null>, begin: (access: any) => string[]): Promise<void> {
    const url = new URL(this.#url);
    for (const channel of channels) url.searchParams.append("channel", channel);
    const positions = Object.entries(since).slice(0, CHANNELS);
    const headers: Record<string, string> = { Accept: "text/event-stream", Authorization: `Bearer ${this.#token}` };
    if (positions.length) {
      headers["Last-Event-ID"] = positions.map(([name, id]) => `${encodeURIComponent(name)}=${id ?? ""}`).join("&");
    }
    const stream: Stream = { abort: new AbortController(), id: "", owns: new Set() };
    const isFirst = !this.#streams.size;
    this.#streams.add(stream);
    try {
      const answer = await fetch(url, { headers, signal: stream.abort.signal, cache: "no-store" });
      const isEvents = answer.headers.get("Content-Type")?.startsWith("text/event-stream");
      if (!answer.ok || !isEvents) return this.#rejected(answer.status, await answer.text(), isFirst ? undefined : channels.at(-1));
      await this.#hear(answer.body!, stream, begin);
      this.#ended(stream, 1006, "the stream of events ended");
    } catch (error) {
      this.#ended(stream, 1006, this.#access ? "the connection was lost" : `cannot connect: ${(error as Error).message}`);
    }
  }

  /** The socket ends with each of its streams that has not been left. */
  #ended(stream: Stream, code: number, reason: string): void {
    if (this.#streams.has(stream)) this.#end(code, reason);
  }

  async #hear(body: ReadableStream<Uint8Array>, stream: Stream, begin: (access: any) => string[]): Promise<void> {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    let event = { kind: "", data: "" };
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.#heard = clock();
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        if (line.startsWith("event: ")) event.kind = line.slice(7);
        else if (line.startsWith("data: ")) event.data = line.slice(6);
        else if (line === "" && event.data) {
          if (!this.#access && event.kind === "access" && !(await this.isBlocked())) {
            return this.#end(1012, "a WebSocket can be opened");
          }
          this.#take(stream, event.kind, event.data, begin);
          event = { kind: "", data: "" };
        }
      }
    }
  }

  #take(stream: Stream, kind: string, data: string, begin: (access: any) => string[]): void {
    if (!this.#streams.has(stream)) return;
    const frame = JSON.parse(data);
    if (kind === "access") {
      stream.id = frame.access.connection;
      // From here on this stream delivers them.
      for (const channel of begin(frame.access)) this.#own(stream, channel);
    } else if (kind === "close") {
      this.#ended(stream, frame.code, frame.reason);
    } else if (stream.owns.has(frame.channel) && !this.#isClosed) {
      this.onmessage?.({ data });
    }
  }

  /** A stream was rejected: one for channels to join leaves the others as they are. */
  #rejected(status: number, text: string, channel?: string): void {
    const { error, message = `the server answered ${status}` } = parse(text);
    if (error === "forbidden" && channel !== undefined) {
      const [, ...others] = this.#streams;
      for (const stream of others) if (!stream.id) this.#streams.delete(stream);
      return this.#tell({ error, channel, message });
    }
    const codes: Record<number, number> = { 401: 4401, 403: error === "forbidden" ? 4403 : 1006, 431: 1009 };
    this.#end(codes[status] ?? 1006, message);
  }

  async #post(text: string, { channel, ack }: { channel: string; ack: string }): Promise<void> {
    if (this.#isClosed) return;
    const url = new URL(this.#url);
    for (const { id } of this.#streams) if (id) url.searchParams.append("connection", id);
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${this.#token}` };
    try {
      const abort = new AbortController();
      const timer = setTimeout(() => abort.abort(), PATIENCE);
      const answer = await fetch(url, { method: "POST", headers, body: text, signal: abort.signal });
      const body = parse(await answer.text());
      clearTimeout(timer);
      if (answer.ok && body.ack === ack) this.#tell(body);
      else if (answer.status === 401) this.#end(4401, body.message);
      else if (typeof body.error === "string") this.#tell({ ...body, channel, ack });
      else this.#end(1006, `the server answered ${answer.status}`);
    } catch {
      this.#end(1006, "the connection was lost");
    }
  }
}

/** Returns the object of a JSON text, or an empty one. */
function parse(text: string): any {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
}

/** One connection to a Philote server, kept open until `close` or until the server forbids to reconnect. */
export class Philote {
  #url: string;
  #options: Options;
  #handlers = new Map<string, Set<Handler>>();
  #state: State = { state: "connecting" };
  #access?: Access;
  #socket?: Socket;
  /** Counts connections and their ends: callbacks of an earlier turn are ignored. */
  #turn = 0;
  #attempt = 0;
  #opened = 0;
  /** The timer of the next step: a call of `token()`, its time limit, or the end of a wait. */
  #timer?: ReturnType<typeof setTimeout>;
  #pulse?: ReturnType<typeof setTimeout>;
  /** How the last attempt was made, whether its WebSocket was opened, and how many in a row were not. */
  #transport: "websocket" | "events" = "websocket";
  #isUpgraded = false;
  #failed = 0;
  /** Before the next attempt to open a WebSocket while events are read. */
  #trial?: ReturnType<typeof setTimeout>;
  /** When the last frame arrived, and when the server was probed since then; 0 if it was not. */
  #heard = 0;
  #probed = 0;
  #doubted = false;
  /** Counts calls of `token()`: only the newest answer is used. */
  #question = 0;
  #asking = false;
  /** A token was being sent when the application requested another. */
  #again = false;
  /** The token that the server accepted last, the one to send next, and those that it has not answered. */
  #token = "";
  #next?: string;
  #shown: Shown[] = [];
  /** Each channel's last id, or its position before the first message. */
  #ids = new Map<string, string>();
  /** The server rejected the list of ids as too large. */
  #bare = false;
  #own = new Set<string>();
  /** Channels that were read before a cut: their messages may be this client's own. */
  #resumed = new Set<string>();
  /** With `history`, the handlers that wait for the history, and channels of which they missed a message meanwhile. */
  #late = new Map<string, Set<Handler>>();
  #skipped = new Set<string>();
  /** The handlers for which old messages are delivered again. */
  #replay = new Map<string, Handler[]>();
  /** Channels with a handler for which it was reported that the token does not allow to read them. */
  #unread = new Set<string>();
  /** The channels that the application joined, and its calls of `join` that wait for the answer. */
  #rooms = new Map<string, Joining[]>();
  /** The channels that this connection has joined, and those that the one before had, which it resumes. */
  #joined = new Set<string>();
  #rejoin = new Set<string>();
  /** The request that was sent and not answered, and whether there may be more to ask for. */
  #asked?: Request;
  #stale = false;
  /** The handlers whose state is loaded. */
  #loads = new Map<string, Set<Loading>>();
  /** The handlers of presence, what is known, and the channels that this connection follows. */
  #watchers = new Map<string, Set<(presence: Presence) => void>>();
  #present = new Map<string, Presence>();
  #followed = new Set<string>();
  /** A request was invalid, which does not tell because of which channel, so each request has one channel. */
  #single = false;
  #attending = false;
  #pace = new Pace();
  #pacer?: ReturnType<typeof setTimeout>;
  #waiting = new Map<string, Publish>();
  #sent = new Map<string, Publish>();
  #acks = 0;

  /**
 * @param url `ws:` or `wss:`; `http:`, `https:` and, in a browser, relative URLs are converted to these.
 * @throws TypeError, with a sentence, for a URL or an option that cannot work.
   */
  constructor(url: string | URL, options: Options) {
    this.#url = address(url);
    if (typeof options?.token !== "function") throw new TypeError("the option token must be a function that returns a token");
    const { queue = 0, probe = 0, backoff = [0, 0] } = options;
    if (backoff.length !== 2 || ![queue, probe, ...backoff].every((number) => number >= 0)) {
      throw new TypeError("the options queue and probe must be numbers and backoff two numbers, none below 0");
    }
    if (!(options.WebSocket ?? globalThis.WebSocket)) {
      throw new TypeError("there is no WebSocket: pass one, such as that of npm's ws, in the option WebSocket");
    }
    this.#options = options;
    globalThis.addEventListener?.("online", this.#online);
    // Later, so that the application can add its handlers first.
    this.#schedule(0, () => this.#connect());
  }

  get state(): State {
    return this.#state;
  }

  /** What the token in force allows; `undefined` before the first connection. */
  get access(): Access | undefined {
    return this.#access;
  }

  /**
 * Calls a handler for each message of a channel that the token reads. A channel that it only allows to join is joined, and
 * left with its last handler. For another channel an `error` follows the next `access`. A text that is not JSON is passed
 * unchanged. With `load`, the handler follows a state. Returns a function that removes the handler.
   */
  on(channel: string, handler: (value: any, message: Message) => void, { load }: Follow = {}): () => void {
    if (load) return this.#load(channel, handler, load);
    const end = this.#add("#" + channel, handler);
    if (this.#options.history && !(this.#isOpen && this.#isLive(channel))) {
      this.#late.set(channel, (this.#late.get(channel) ?? new Set()).add(handler));
    }
    this.#attendLater();
    return () => {
      end();
      this.#begun(channel, [handler]);
      if (!this.#handlers.has("#" + channel)) this.#unread.delete(channel);
      this.#attendLater();
    };
  }

  #load(channel: string, handler: Handler, load: () => unknown): () => void {
    const isThere = () => !!this.#loads.get(channel)?.has(loading);
    const loading = new Loading(
      load,
      (value, message) => isThere() && this.#call(handler, [value, message]),
      (attempt) => this.#wait(attempt),
      (message) => this.#tell("error", { error: "load", channel, message }),
      () => this.#attend(),
    );
    const end = this.#add("#" + channel, (value, message) => loading.put(value, message));
    this.#loads.set(channel, (this.#loads.get(channel) ?? new Set()).add(loading));
    if (this.#isOpen && this.#reads(channel)) loading.enter(this.#ids.get(channel));
    else if (this.#state.state !== "closed") loading.start();
    this.#attendLater();
    return () => {
      end();
      loading.end();
      const loads = this.#loads.get(channel);
      loads?.delete(loading);
      if (!loads?.size) this.#loads.delete(channel);
      if (!this.#handlers.has("#" + channel)) this.#unread.delete(channel);
      this.#attendLater();
    };
  }

  /** The id after which a channel that was not read follows the states that are loaded. */
  #loadedId(channel: string): string | undefined {
    const ids = [...(this.#loads.get(channel) ?? [])].flatMap(({ since }) => since ?? []);
    return ids.find((id) => ids.every((other) => isReached(other, id))) ?? ids[0];
  }

  /**
 * Joins a channel that the token allows to join; the messages go to the handlers of `message` and `on`. It stays joined,
 * also after a reconnection, until `leave`. Rejected with the code `forbidden` if it may not be joined.
   */
  join(channel: string): Promise<void> {
    const promise = new Promise<void>((resolve, reject) => {
      if (this.#state.state === "closed") throw new PhiloteError("closed", "the client is closed");
      if (this.#isOpen && this.#reads(channel)) resolve();
      this.#rooms.set(channel, [...(this.#rooms.get(channel) ?? []), { resolve, reject }]);
      this.#unread.delete(channel);
      this.#attendLater();
    });
    promise.catch(() => {});
    return promise;
  }

  /** Leaves a channel that was joined; it stays joined as long as it has handlers. */
  leave(channel: string): void {
    this.#dismiss(channel, new PhiloteError("left", `channel "${channel}" was left before it was joined`));
    this.#attendLater();
  }

  /**
 * Calls a handler with those who read a channel, at first and whenever somebody joins or leaves. The token must have the
 * claim `presence`, and the channel is joined if it must be. Returns a function that removes the handler.
   */
  presence(channel: string, handler: (presence: Presence) => void): () => void {
    const known = this.#present.get(channel);
    this.#watchers.set(channel, (this.#watchers.get(channel) ?? new Set()).add(handler));
    if (known) queueMicrotask(() => this.#watchers.get(channel)?.has(handler) && handler(known));
    this.#unread.delete(channel);
    this.#attendLater();
    return () => {
      const watchers = this.#watchers.get(channel);
      watchers?.delete(handler);
      if (watchers && !watchers.size) this.#watchers.delete(channel);
      this.#attendLater();
    };
  }

  /** Calls a handler for each event of the connection. Returns a function that removes the handler. */
  when<K extends keyof Events>(event: K, handler: (detail: Events[K]) => void): () => void {
    return this.#add(event, handler);
  }

  /**
 * Publishes a value. While there is no connection, or the server's rate is reached, it waits in a queue. Resolves to the
 * number of readers for which it was queued, or to null in a cluster, where no node knows all readers. If the connection ends before the answer, the message is not sent again,
 * unless the close code shows that it was not accepted (4429, 1009): only the application knows whether twice is better
 * than never. An ignored rejection does not count as unhandled.
   */
  publish(channel: string, value: unknown): Promise<number | null> {
    const promise = new Promise<number | null>((resolve, reject) => {
      const data = this.#options.json === false ? value : JSON.stringify(value);
      if (typeof data !== "string") throw new PhiloteError("bad_message", "this value cannot be sent as text");
      const limit = this.#options.queue ?? 1000;
      if (this.#state.state === "closed") throw new PhiloteError("closed", "the client is closed");
      if (this.#waiting.size + this.#sent.size >= limit) {
        throw new PhiloteError("queue_full", `${limit} messages are already waiting`);
      }
      const ack = String(++this.#acks);
      const frame = JSON.stringify({ channel, data, ack });
      this.#waiting.set(ack, { channel, frame, bytes: size(frame), resolve, reject });
      if (this.#isOpen) this.#refuseTooBig([ack]);
      this.#flush();
    });
    promise.catch(() => {});
    return promise;
  }

  /**
 * Calls `token()` and sends the result on the open connection: channels that it no longer names are left, new ones are
 * joined, and others are not affected. Of several calls only the newest counts.
   */
  refresh(): void {
    if (this.#isOpen) this.#refresh();
    else if (this.#socket) this.#again = true;
    else if (this.#asking) this.#askAndOpen();
  }

  /** Closes the connection permanently. */
  close(): void {
    this.#end(1000, "closed by the application");
  }

  get #isOpen(): boolean {
    return this.#state.state === "open";
  }

  /** Only the token in force is in use; no other is being requested or sent. */
  get #isSettled(): boolean {
    return !this.#asking && this.#next === undefined && !this.#shown.length;
  }

  #add(key: string, handler: Handler): () => void {
    let handlers = this.#handlers.get(key);
    if (!handlers) this.#handlers.set(key, (handlers = new Set()));
    handlers.add(handler);
    return () => {
      handlers.delete(handler);
      if (!handlers.size && this.#handlers.get(key) === handlers) this.#handlers.delete(key);
    };
  }

  #emit(key: string, details: unknown[], fits = (_: Handler) => true): void {
    const handlers = this.#handlers.get(key);
    for (const handler of [...(handlers ?? [])]) {
      if (!handlers!.has(handler) || !fits(handler)) continue;
      this.#call(handler, details);
    }
  }

  #call(handler: Handler, details: unknown[]): void {
    try {
      handler(...details);
    } catch (error) {
      // An exception of the application must neither end the connection nor be hidden.
      queueMicrotask(() => {
        throw error;
      });
    }
  }

  #tell<K extends keyof Events>(event: K, detail: Events[K]): void {
    this.#emit(event, [detail]);
  }

  #become(state: State): void {
    this.#state = state;
    this.#tell("state", state);
  }

  #schedule(delay: number, what: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(what, Math.min(delay, LONGEST_TIMER));
  }

  /** Random in the whole range ("full jitter"), so that clients that were cut together do not reconnect together. */
  #wait(attempt = this.#attempt++): number {
    const [first, longest] = this.#options.backoff ?? BACKOFF;
    return Math.random() * Math.min(longest, first * 2 ** attempt);
  }

  #online = (): void => {
    if (this.#state.state === "waiting") this.#schedule(Math.random() * 500, () => this.#connect());
    // The network may have changed, and the old connection may be dead.
    if (this.#isOpen && !this.#probed) this.#probe();
  };

  #connect(): void {
    const turn = ++this.#turn;
    this.#again = false;
    this.#become({ state: "connecting" });
    if (turn === this.#turn) this.#askAndOpen();
  }

  #askAndOpen(): void {
    this.#ask((token) => {
      const turn = this.#turn;
      if (typeof token === "string") return this.#open(token);
      this.#tell("error", { error: "token", message: token.message });
      if (turn === this.#turn) this.#lost(0, token.message);
    });
  }

  #open(token: string): void {
    const turn = this.#turn;
    this.#schedule(PATIENCE, () => this.#lost(1006, "the connection took too long"));
    let socket: Socket;
    const mayRead = this.#options.events !== false && typeof fetch === "function";
    this.#transport = this.#failed >= FAILED && mayRead ? "events" : "websocket";
    this.#isUpgraded = false;
    try {
      socket = this.#transport === "events" ? new HttpSocket(this.#url, () => this.#isBlocked()) : this.#webSocket();
    } catch (error) {
      // A page of https: may not open ws:.
      return this.#lost(0, `cannot connect: ${(error as Error).message}`);
    }
    this.#socket = socket;
    const now = (what: (event: any) => void) => (event: any) => {
      if (turn === this.#turn) what(event);
    };
    socket.onopen = now(() => {
      this.#isUpgraded = true;
      if (this.#transport === "websocket") this.#failed = 0;
      this.#show(token);
    });
    socket.onmessage = now((event) => this.#hear(event.data));
    socket.onerror = () => {}; // a close with the reason follows
    socket.onclose = now(({ code, reason }) => {
      // The list of ids may have been too large; the next connection omits it.
      if (code === 1009 && !this.#isOpen) this.#bare = true;
      this.#lost(code, reason || (this.#isOpen ? "the connection was lost" : "cannot connect"));
    });
  }

  #webSocket(): Socket {
    return new (this.#options.WebSocket ?? (globalThis.WebSocket as any))(this.#url, "philote.v1");
  }

  /** Whether a WebSocket can be opened within a time in milliseconds. */
  #opens(patience: number): Promise<boolean> {
    return new Promise((resolve) => {
      let socket: Socket;
      try {
        socket = this.#webSocket();
      } catch {
        return resolve(false);
      }
      const timer = setTimeout(() => done(false), patience);
      this.#trial = timer;
      const done = (isOpen: boolean) => {
        clearTimeout(timer);
        socket.close();
        resolve(isOpen);
      };
      socket.onopen = () => done(true);
      socket.onclose = socket.onerror = () => done(false);
    });
  }

  /** Whether no WebSocket can be opened although HTTP works. If one can, the attempts before failed because nothing worked. */
  async #isBlocked(): Promise<boolean> {
    const turn = this.#turn;
    const isOpen = this.#failed === FAILED && (await this.#opens(CHECK));
    if (turn !== this.#turn) return false;
    if (isOpen) this.#attempt = 0;
    else this.#failed = FAILED + 1;
    return !isOpen;
  }

  /** Tries now and then whether a WebSocket can be opened, which serves the client better than events. */
  #tryWebSocket(attempt = 0): void {
    const turn = this.#turn;
    const [first, longest] = this.#options.backoff ?? BACKOFF;
    const delay = Math.min(longest * TRIES[1], first * TRIES[0] * 2 ** attempt);
    this.#trial = setTimeout(async () => {
      // What was sent must be answered first.
      const isOpen = !this.#sent.size && (await this.#opens(PATIENCE));
      if (turn !== this.#turn) return;
      if (!isOpen || this.#sent.size) return this.#tryWebSocket(attempt + 1);
      this.#failed = 0;
      this.#lost(1012, "a WebSocket can be opened again");
    }, delay * (0.5 + Math.random()));
  }

  /** Calls `token()`. `use` gets the token or the error, unless a newer call follows or the connection ends. */
  #ask(use: (token: string | Error) => void): void {
    const question = ++this.#question;
    const answer = (token: string | Error) => {
      if (question !== this.#question) return;
      this.#stopAsking();
      if (token instanceof Error) token = new Error(`no token: ${token.message}`);
      use(token);
    };
    this.#asking = true;
    this.#schedule(PATIENCE, () => answer(new Error(`token() did not answer within ${PATIENCE / 1000} s`)));
    new Promise((resolve) => resolve(this.#options.token())).then(
      (given) => answer(checkToken(given)),
      (error) => answer(error instanceof Error ? error : new Error(String(error))),
    );
  }

  #stopAsking(): void {
    this.#question++;
    this.#asking = false;
    clearTimeout(this.#timer);
  }

  #refresh(): void {
    this.#ask((token) => {
      if (typeof token === "string" && size(JSON.stringify({ auth: token })) > this.#longestAuth) {
        token = new Error(`no token: the limit on an open connection is ${this.#longestAuth} bytes`);
      }
      if (token instanceof Error) {
        this.#schedule(1000 + this.#wait(), () => this.#refresh());
        this.#tell("error", { error: "token", message: token.message });
        return this.#attend();
      }
      this.#schedule(PATIENCE, () => this.#refresh());
      this.#show(token);
    });
  }

  /** The largest frame with a token, in bytes: a new connection accepts any that the server's limits can need. */
  get #longestAuth(): number {
    const limit = this.#isOpen && this.#access?.max_message_size;
    return limit ? Math.max(limit, 2 * size(this.#token)) : Infinity;
  }

  #show(token: string): void {
    this.#next = token;
    this.#flush();
  }

  /** The frame with a token, with the ids of channels that were read before a cut, and null for those with waiting handlers. */
  #frame(token: string): [string, Shown] {
    const since: Record<string, string | null> = Object.create(null);
    const begin: [string, Handler[]][] = [];
    if (!this.#isOpen && !this.#bare) {
      // The token may now read a channel that was joined.
      for (const channel of [...(this.#access?.read ?? []), ...this.#rejoin]) since[channel] = this.#ids.get(channel) ?? null;
    }
    for (const [channel, handlers] of this.#late) {
      if (channel in since || this.#isRoom(channel)) continue;
      begin.push([channel, [...handlers]]);
      if (!this.#bare) since[channel] = null;
    }
    for (const channel of this.#bare ? [] : this.#loads.keys()) {
      const id = this.#loadedId(channel);
      if (id !== undefined && !(channel in since)) since[channel] = id;
    }
    const bare = JSON.stringify({ auth: token });
    const frame = JSON.stringify({ auth: token, since });
    const fits = Object.keys(since).length && size(frame) <= this.#longestAuth;
    return [fits ? frame : bare, { token, bytes: size(fits ? frame : bare), begin }];
  }

  #hear(text: unknown): void {
    this.#heard = clock();
    this.#probed = 0;
    this.#doubted = false;
    let frame: any;
    try {
      frame = JSON.parse(text as string);
    } catch {
      // Reported below.
    }
    if (typeof frame !== "object" || !frame) {
      return this.#tell("error", { error: "bad_message", message: "the server sent a frame that is not a JSON object" });
    }
    try {
      this.#take(frame);
    } catch (error) {
      // Exceptions of the application do not arrive here, so no server of Philote has sent this.
      const message = `the server sent a frame of a wrong form: ${(error as Error).message}`;
      this.#tell("error", { error: "bad_message", message });
      this.#lost(1002, "the server does not speak philote.v1");
    }
  }

  #take(frame: any): void {
    const { access, id } = frame;
    // What later frames would stumble over, too.
    const ids = [id, ...Object.values(access?.ids ?? {})];
    if (ids.some((id) => id !== undefined && typeof id !== "string") || (access && !Array.isArray(access.read))) {
      throw new TypeError("ids are strings, and read is an array");
    }
    if (frame.access) return this.#enter(frame.access);
    if (frame.presence) return this.#told(frame.presence);
    if (frame.joined) return this.#entered(frame.joined);
    if (frame.left) return this.#parted(frame.left);
    if (frame.error) return this.#refused(frame);
    if (frame.channel !== undefined) return this.#deliver(frame);
    const publish = this.#answered(frame.ack);
    if (!publish) return;
    const { channel } = publish;
    // The client's own message advances its id as well, because all messages before it have arrived.
    if (frame.id && this.#ids.has(channel) && !isReached(this.#ids.get(channel), frame.id)) this.#ids.set(channel, frame.id);
    publish.resolve(frame.readers);
    this.#flush();
  }

  #answered(ack: string, limited = false): Publish | undefined {
    const publish = this.#sent.get(ack);
    if (publish) this.#pace.answered(publish.bytes, limited);
    this.#sent.delete(ack);
    return publish;
  }

  #refused(frame: Events["error"] & Access & { ack?: string }): void {
    const limited = frame.error === "rate_limited";
    if (limited) {
      this.#pace.pause();
      const { messages_per_second, bytes_per_second } = frame;
      if (messages_per_second || bytes_per_second) this.#pace.set(messages_per_second, bytes_per_second);
    }
    if (this.#asked && frame.ack === undefined && frame.error !== "unauthorized") {
      // A request is sent only when no token is on its way, so this is its answer.
      this.#denied(frame, limited);
      return this.#flush();
    }
    if (frame.error === "unauthorized" || (limited && frame.ack === undefined)) {
      const shown = this.#shown.shift();
      if (shown) this.#pace.answered(shown.bytes, limited);
      if (shown && this.#isSettled) {
        if (limited) this.#next = shown.token;
        // The token that should have replaced this one was rejected; another may be accepted.
        else this.#schedule(1000 + this.#wait(), () => this.#refresh());
      }
    } else {
      const ack = frame.ack ?? this.#sent.keys().next().value!;
      const publish = this.#answered(ack, limited);
      if (publish && limited) this.#putBack([[ack, publish]]);
      else publish?.reject(new PhiloteError(frame.error, frame.message));
    }
    if (!limited) this.#tell("error", frame);
    this.#flush();
  }

  /** Puts sent messages that were certainly not published back into the queue. */
  #putBack(publishes: Iterable<[string, Publish]>): void {
    this.#waiting = new Map([...publishes, ...this.#waiting].sort(([one], [other]) => +one - +other));
  }

  #deliver(message: Message): void {
    const { channel, data, id, issuer } = message;
    const key = "#" + channel;
    const isOld = id !== undefined && isReached(this.#ids.get(channel), id);
    const late = this.#late.get(channel);
    if (!isOld) {
      if (id !== undefined) this.#ids.set(channel, id);
      // A history does not know ended connections, so it also delivers what this client published itself.
      if (this.#own.has(issuer) && this.#resumed.has(channel)) return;
      if (late) this.#skipped.add(channel);
      this.#tell("message", message);
    }
    if (!this.#handlers.has(key)) return;
    let value: unknown = data;
    if (this.#options.json !== false) {
      try {
        if (data !== undefined) value = JSON.parse(data);
      } catch {
        // Text of a client that sends no JSON.
      }
    }
    const replay = this.#replay.get(channel);
    this.#emit(key, [value, message], (handler) => (isOld ? !!replay?.includes(handler) : !late?.has(handler)));
  }

  /** Whether a handler of this channel, which is read, can only get new messages. */
  #isLive(channel: string): boolean {
    // Servers that do not report their limits deliver the history only of a channel that is joined.
    return this.#reads(channel) && (!this.#ids.has(channel) || this.#access!.max_message_size === undefined);
  }

  /** Removes handlers from those that wait for the history. */
  #begun(channel: string, handlers: Handler[]): void {
    const late = this.#late.get(channel);
    for (const handler of handlers) late?.delete(handler);
    if (!late?.size) this.#late.delete(channel);
  }

  #enter(frame: Access & { recovered?: Record<string, boolean>; ids?: Record<string, string> }): void {
    const { recovered = {}, ids = {}, ...access } = frame;
    const before = this.#access;
    const stays = new Set([...this.#loads.keys()].filter((channel) => this.#isOpen && this.#reads(channel)));
    const shown = this.#shown.shift();
    if (shown) this.#pace.answered(shown.bytes);
    if (shown) this.#token = shown.token;
    this.#access = access;
    this.#pace.set(access.messages_per_second, access.bytes_per_second);
    this.#own.add(access.connection);
    if (this.#own.size > OWN) this.#own.delete(this.#own.values().next().value!);
    const read = new Set(access.read);
    // What the token before read and this one allows to join is joined without a gap.
    for (const channel of before?.read ?? []) if (this.#isRoom(channel)) this.#rejoin.add(channel);
    // A new connection gets the ids of all channels; an open one keeps its ids, and gets those of new channels.
    if (!this.#isOpen) {
      for (const channel of this.#ids.keys()) if (!this.#rejoin.has(channel)) this.#ids.delete(channel);
      this.#resumed = new Set(before?.read);
    }
    // Another token may have ended the following; all are asked for again.
    this.#followed.clear();
    // What was denied before may be allowed now.
    for (const channel of this.#unread) if (this.#mayJoin(channel)) this.#unread.delete(channel);
    for (const places of [this.#ids, this.#resumed]) {
      for (const channel of places.keys()) {
        if (!this.#reads(channel) && !this.#rejoin.has(channel)) places.delete(channel);
      }
    }
    const told = new Map(Object.entries(ids));
    for (const [channel, id] of told) if (!this.#ids.has(channel)) this.#ids.set(channel, id);
    const missed = this.#begin(shown?.begin ?? [], told);
    for (const [channel, loads] of this.#loads) {
      for (const loading of loads) {
        if (!this.#reads(channel)) this.#rejoin.has(channel) || loading.leave();
        else if (!stays.has(channel)) loading.enter(told.get(channel), recovered[channel] === true);
      }
    }

    const expires = access.expires_at;
    // By the clock of this machine. If it is fast, the close code 4401 causes the request of the next token.
    const left = expires === null ? LONGEST_TIMER : Date.parse(expires) - Date.now();
    if (this.#isSettled) {
      clearTimeout(this.#timer);
      // Random as well, because tokens that were signed together expire together.
      if (left > 0) this.#schedule(Math.max(1000, left * (0.7 + 0.2 * Math.random())), () => this.#refresh());
    }
    const turn = this.#turn;
    if (!this.#isOpen) {
      this.#bare = false;
      this.#opened = clock();
      this.#watch();
      for (const channel of [...(before?.read ?? []), ...this.#rejoin]) {
        if (read.has(channel)) missed.set(channel, recovered[channel] === true);
      }
      for (const channel of read) this.#rejoin.delete(channel);
      if (this.#transport === "events") this.#tryWebSocket();
      this.#become({ state: "open", transport: this.#transport });
    }
    this.#tell("access", access);
    for (const [channel, recovered] of missed) this.#tell("recovered", { channel, recovered });
    // Any of these handlers may have called `close`.
    if (turn !== this.#turn) return;
    if (this.#again) this.refresh();
    this.#again = false;
    this.#refuseTooBig(this.#waiting.keys());
    this.#attend();
    this.#flush();
  }

  /** Lets waiting handlers start if they can; returns the channels of which they missed messages without a history. */
  #begin(begin: [string, Handler[]][], told: Map<string, string>): Map<string, boolean> {
    const missed = new Map<string, boolean>();
    this.#replay.clear();
    for (const [channel, handlers] of begin) {
      if (!this.#reads(channel)) continue;
      this.#begun(channel, handlers);
      if (told.has(channel)) this.#replay.set(channel, handlers);
      else if (this.#skipped.has(channel)) missed.set(channel, false);
      this.#skipped.delete(channel);
    }
    for (const channel of this.#late.keys()) if (this.#isLive(channel)) this.#late.delete(channel);
    for (const [key, handlers] of this.#handlers) {
      const channel = key.slice(1);
      // If the channel is joined again, its handlers get the history again.
      if (this.#options.history && key[0] === "#" && !this.#reads(channel) && !this.#rejoin.has(channel)) {
        this.#late.set(channel, new Set(handlers));
      }
    }
    return missed;
  }

  /** Later, because the application may add more handlers, or request a token with this channel. */
  #attendLater(): void {
    if (this.#attending) return;
    this.#attending = true;
    queueMicrotask(() => {
      this.#attending = false;
      this.#attend();
    });
  }

  /** Handles what the application wants to read since the last token was sent. */
  #attend(): void {
    if (!this.#isOpen || !this.#isSettled) return;
    const wanted = this.#wanted();
    for (const channel of this.#rejoin) {
      if (wanted.has(channel)) continue;
      for (const places of [this.#rejoin, this.#ids, this.#resumed]) places.delete(channel);
    }
    for (const channel of wanted) {
      if (this.#reads(channel)) {
        this.#unread.delete(channel);
        this.#satisfy(channel);
      } else if (!this.#unread.has(channel) && !this.#mayJoin(channel)) {
        this.#forbid(channel, `this token may not read channel "${channel}"`);
      }
    }
    if (!this.#isOpen || !this.#isSettled) return;
    this.#stale = true;
    const waits = (channel: string) => this.#access!.read.includes(channel);
    if ([...this.#late.keys()].some(waits)) this.#show(this.#token);
    else this.#flush();
  }

  /** The channels with a handler, and those that the application joined. */
  #wanted(): Set<string> {
    const handled = [...this.#handlers.keys()].filter((key) => key[0] === "#").map((key) => key.slice(1));
    return new Set([...handled, ...this.#rooms.keys(), ...this.#watchers.keys()]);
  }

  /** Whether the token reads a channel, or this connection has joined it. */
  #reads(channel: string): boolean {
    return this.#joined.has(channel) || !!this.#access?.read.includes(channel);
  }

  #mayJoin(channel: string): boolean {
    return allows(this.#access?.may?.read, channel);
  }

  /** Whether a channel must be joined to be read. */
  #isRoom(channel: string): boolean {
    return !this.#access?.read.includes(channel) && this.#mayJoin(channel);
  }

  /** Whether a channel is wanted only by handlers whose first state has not been loaded yet. */
  #isAwaited(channel: string): boolean {
    const loads = [...(this.#loads.get(channel) ?? [])].filter(({ isAwaited }) => isAwaited);
    const others = this.#handlers.get("#" + channel)?.size !== loads.length;
    return loads.length > 0 && !others && !this.#rooms.has(channel) && !this.#watchers.has(channel);
  }

  /** Resolves the calls of `join` for a channel that is read. */
  #satisfy(channel: string): void {
    const waiting = this.#rooms.get(channel);
    if (waiting?.length) this.#rooms.set(channel, []);
    for (const { resolve } of waiting ?? []) resolve();
  }

  #dismiss(channel: string, error: PhiloteError): void {
    for (const { reject } of this.#rooms.get(channel) ?? []) reject(error);
    this.#rooms.delete(channel);
  }

  /** Reports that a channel cannot be read. */
  #forbid(channel: string, message: string): void {
    this.#rejoin.delete(channel);
    for (const loading of this.#loads.get(channel) ?? []) loading.leave();
    this.#dismiss(channel, new PhiloteError("forbidden", message));
    if (this.#handlers.has("#" + channel)) this.#unread.add(channel);
    this.#tell("error", { error: "forbidden", channel, message });
  }

  /** The next request to join or leave channels, if there is one to send. Answers come in order, so one is sent at a time. */
  #request(): Request | undefined {
    if (!this.#stale || !this.#isOpen || this.#asked || this.#shown.length) return;
    const wanted = this.#wanted();
    const left = [...this.#joined].filter((channel) => !wanted.has(channel));
    const limit = (this.#access!.max_message_size ?? 65_536) - 64;
    const names: string[] = [];
    const since: Record<string, string | null> = Object.create(null);
    const begin: [string, Handler[]][] = [];
    let bytes = 0;
    const fits = (channel: string, count: number) =>
      (bytes += 2 * size(JSON.stringify(channel)) + 64) <= limit && !(this.#single && count);
    if (left.length) {
      const some = left.filter(fits);
      const isIn = new Set(this.#access!.read);
      const rooms = some.filter((channel) => !isIn.has(channel));
      for (const channel of some) if (isIn.has(channel)) this.#joined.delete(channel);
      if (!rooms.length) return this.#request();
      const frame = JSON.stringify({ leave: rooms });
      return { frame, bytes: size(frame), begin, names: rooms, kind: "leave", answers: 1 };
    }
    for (const channel of wanted) {
      const late = this.#late.get(channel);
      if (!this.#isRoom(channel) || this.#unread.has(channel)) continue;
      if (this.#joined.has(channel) && !(late && !this.#isLive(channel))) continue;
      const id = this.#loadedId(channel);
      if (this.#isAwaited(channel)) continue;
      if (!fits(channel, names.length)) break;
      names.push(channel);
      if (this.#rejoin.has(channel)) since[channel] = this.#ids.get(channel) ?? null;
      else if (late) {
        since[channel] = null;
        begin.push([channel, [...late]]);
      } else if (id !== undefined) since[channel] = id;
    }
    if (names.length) {
      const frame = JSON.stringify({ join: names, since });
      return { frame, bytes: size(frame), begin, names, kind: "join", answers: 1 };
    }
    const follow = [...this.#watchers.keys()].filter((one) => !this.#followed.has(one) && this.#reads(one));
    const some = follow.length ? follow : [...this.#followed].filter((one) => !this.#watchers.has(one));
    names.push(...some.filter((one) => fits(one, names.length)).slice(0, FOLLOWS));
    this.#stale = names.length > 0;
    if (!names.length) return;
    const request = { presence: names, follow: follow.length > 0 };
    const frame = JSON.stringify(request);
    return { frame, bytes: size(frame), begin, names, kind: "presence", follow: request.follow, answers: names.length };
  }

  #settleRequest(limited = false): Request | undefined {
    const request = this.#asked;
    if (request) this.#pace.answered(request.bytes, limited);
    this.#asked = undefined;
    return request;
  }

  /** Channels were joined. */
  #entered(joined: Record<string, { id?: string; recovered?: boolean }>): void {
    const request = this.#settleRequest();
    const told = new Map<string, string>();
    const resumed = new Map<string, boolean>();
    for (const [channel, { id, recovered }] of Object.entries(joined)) {
      const isNew = !this.#joined.has(channel);
      if (this.#rejoin.delete(channel)) {
        this.#resumed.add(channel);
        resumed.set(channel, recovered === true);
      }
      if (isNew && id === undefined) this.#ids.delete(channel);
      else if (isNew) this.#ids.set(channel, id!);
      if (id !== undefined) told.set(channel, id);
      if (isNew) for (const loading of this.#loads.get(channel) ?? []) loading.enter(id, recovered === true);
      this.#joined.add(channel);
      this.#satisfy(channel);
    }
    const missed = new Map([...this.#begin(request?.begin ?? [], told), ...resumed]);
    for (const [channel, recovered] of missed) this.#tell("recovered", { channel, recovered });
    this.#attend();
  }

  /** Channels were left, because the application wanted it or because another token does not allow them. */
  #parted(left: string[]): void {
    const asked = this.#asked?.kind === "leave" ? this.#asked.names : [];
    if (asked.length && asked.length === left.length && asked.every((name) => left.includes(name))) this.#settleRequest();
    for (const channel of left) {
      for (const places of [this.#joined, this.#ids, this.#resumed]) places.delete(channel);
      for (const loading of this.#loads.get(channel) ?? []) loading.leave();
      this.#unfollow(channel);
    }
    this.#attend();
  }

  #unfollow(channel: string): void {
    this.#followed.delete(channel);
    this.#present.delete(channel);
  }

  /** Who reads a channel, or what has changed since. */
  #told(frame: any): void {
    const { channel, subjects, joined = [], left = [], info = {}, count, anonymous } = frame;
    const before = this.#present.get(channel);
    const isChange = frame.joined !== undefined;
    const names: Presence["subjects"] = subjects || (isChange && before?.subjects) ? new Map(isChange ? before!.subjects : []) : undefined;
    for (const name of isChange ? joined : Object.keys(subjects ?? {})) {
      names?.set(name, Object.hasOwn(info, name) ? { info: info[name] } : {});
    }
    for (const name of left) names?.delete(name);
    const presence = { channel, joined, left, count, anonymous: anonymous ?? before?.anonymous ?? 0, ...(names && { subjects: names }) };
    // The answers to a request come one for each channel; changes may come between them.
    if (this.#asked?.kind === "presence" && !isChange && this.#asked.names.includes(channel) && !--this.#asked.answers) {
      this.#settleRequest();
      this.#attend();
    }
    if (!this.#followed.has(channel)) return;
    this.#present.set(channel, presence);
    for (const handler of [...(this.#watchers.get(channel) ?? [])]) this.#call(handler, [presence]);
  }

  /** The request was rejected, because of one of its channels or because it was too fast. */
  #denied({ channel, message }: { channel?: string; message: string }, limited: boolean): void {
    const { names, kind } = this.#settleRequest(limited)!;
    this.#stale = true;
    if (kind === "presence") for (const name of names) this.#unfollow(name);
    if (limited) return;
    if (channel === undefined && names.length > 1) this.#single = true;
    // What cannot be left is read because of the token.
    else if (kind === "leave") this.#joined.delete(channel ?? names[0]!);
    else if (kind === "presence") {
      this.#watchers.delete(channel ?? names[0]!);
      this.#tell("error", { error: "forbidden", channel: channel ?? names[0]!, message });
    }
    else this.#forbid(channel ?? names[0]!, message);
  }

  #watch(delay = 0): void {
    clearTimeout(this.#pulse);
    this.#heard ||= clock();
    if (this.#probed || this.#options.probe !== 0) this.#pulse = setTimeout(() => this.#check(), delay);
  }

  /** A browser answers pings by itself and does not report them, so only a probe detects a dead network. */
  #probe(): void {
    this.#probed = clock();
    this.#show(this.#next ?? this.#shown.at(-1)?.token ?? this.#token);
    this.#watch((this.#options.probe || SILENCE) / 3);
  }

  /** Measures by the clock, because timers are late in a page in the background. */
  #check(): void {
    const silence = this.#options.probe || SILENCE;
    const left = this.#probed ? this.#probed + silence / 3 - clock() : this.#heard + (silence * 3) / 5 - clock();
    if (left > 0) return this.#watch(left);
    if (!this.#probed) return this.#probe();
    if (this.#doubted) return this.#lost(1006, "no answer from the server");
    this.#doubted = true;
    this.#watch(SECOND_LOOK);
  }

  #refuseTooBig(acks: Iterable<string>): void {
    const limit = this.#access?.max_message_size ?? Infinity;
    for (const ack of [...acks]) {
      const publish = this.#waiting.get(ack)!;
      if (publish.bytes <= limit) continue;
      this.#waiting.delete(ack);
      const sentence = `this message has ${publish.bytes} bytes, and the server's max_message_size is ${limit}`;
      publish.reject(new PhiloteError("message_too_big", sentence));
    }
  }

  /** Sends the next token, then requests, then the waiting messages, as fast as the server allows. */
  #flush(): void {
    clearTimeout(this.#pacer);
    while (this.#socket) {
      const [ack, publish] = (this.#isOpen && this.#waiting.entries().next().value) || [];
      const request = this.#next === undefined ? this.#request() : undefined;
      const [frame, shown] = this.#next === undefined ? [(request ?? publish)?.frame] : this.#frame(this.#next);
      if (frame === undefined) return;
      const { bytes } = shown ?? request ?? publish!;
      const wait = this.#pace.wait(bytes);
      if (wait > 0) {
        if (wait < Infinity) this.#pacer = setTimeout(() => this.#flush(), Math.ceil(wait));
        return;
      }
      if (shown) {
        this.#next = undefined;
        this.#shown.push(shown);
      } else if (request) {
        this.#asked = request;
        if (request.kind === "presence") {
          for (const name of request.names) request.follow ? this.#followed.add(name) : this.#unfollow(name);
        }
      } else {
        this.#waiting.delete(ack!);
        this.#sent.set(ack!, publish!);
      }
      this.#pace.sent(bytes);
      this.#socket.send(frame);
    }
  }

  #drop(code: string, sentence: string): void {
    this.#turn++;
    this.#stopAsking();
    clearTimeout(this.#pulse);
    clearTimeout(this.#trial);
    clearTimeout(this.#pacer);
    this.#heard = this.#probed = 0;
    this.#doubted = false;
    this.#next = undefined;
    this.#shown = [];
    this.#asked = undefined;
    this.#single = false;
    this.#followed.clear();
    this.#present.clear();
    for (const channel of this.#joined) this.#rejoin.add(channel);
    this.#joined.clear();
    this.#replay.clear();
    this.#pace = new Pace();
    this.#socket?.close(1000);
    this.#socket = undefined;
    for (const { reject } of this.#sent.values()) reject(new PhiloteError(code, sentence));
    this.#sent.clear();
  }

  #lost(code: number, reason: string): void {
    if (code === 4403) return this.#end(code, reason);
    if (this.#socket && this.#transport === "events" && !this.#isOpen) this.#failed = FAILED - 1;
    else if (this.#socket && !this.#isUpgraded && code === 1006) this.#failed++;
    if (this.#isOpen && clock() - this.#opened >= STEADY) this.#attempt = 0;
    // The server is full, draining, or was sent too much; a moment is too short.
    if (code === 1013 || code === 4429) this.#attempt = Math.max(this.#attempt, 3);
    // With these codes the server has answered everything that it accepted, so the rest can be sent again. A message that
    // was too large is sent only once more, and only if the server reports the limit, by which this client finds it.
    const tells = this.#access?.max_message_size !== undefined;
    const unheard = [...this.#sent].filter(([, { again }]) => code === 4429 || (code === 1009 && tells && !again));
    for (const [ack, publish] of unheard) {
      publish.again ||= code === 1009;
      this.#sent.delete(ack);
    }
    this.#putBack(unheard);
    this.#drop("unanswered", `${reason}: the message may or may not have been delivered`);
    const retryIn = this.#wait();
    this.#schedule(retryIn, () => this.#connect());
    this.#become({ state: "waiting", code, reason, retryIn });
  }

  #end(code: number, reason: string): void {
    if (this.#state.state === "closed") return;
    globalThis.removeEventListener?.("online", this.#online);
    this.#drop("closed", reason);
    for (const { reject } of this.#waiting.values()) reject(new PhiloteError("closed", reason));
    this.#waiting.clear();
    for (const channel of [...this.#rooms.keys()]) this.#dismiss(channel, new PhiloteError("closed", reason));
    for (const loads of this.#loads.values()) for (const loading of loads) loading.end();
    this.#become({ state: "closed", code, reason });
  }
}
