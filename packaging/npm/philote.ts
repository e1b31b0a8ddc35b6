// The Philote client for browsers and Node: it keeps one connection, and says what it could not keep.

/** A message as it arrived. */
export interface Message {
  channel: string;
  /** The text that was sent; absent in a bare signal. */
  data?: string;
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
  /** The most bytes of one frame that the server takes. Absent, as the rates, from servers that do not tell it. */
  max_message_size?: number;
  /** What this connection may send in a second; absent where there is no limit. The client keeps to it. */
  messages_per_second?: number | null;
  bytes_per_second?: number | null;
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
  /** What the server refused, tokens that could not be had, and handlers of channels that the token does not read. */
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
  /** Gives a token, within 20 s; asked before each connection and before the one in force expires. */
  token: () => string | Promise<string>;
  /** `false`: values are strings and are sent as they are. */
  json?: boolean;
  /** `true`: each handler of a channel, whenever it is added, begins with all that the server keeps of the channel. */
  history?: boolean;
  /** How many publishes may wait for their answer, sent or not. */
  queue?: number;
  /** The first and the longest span, in milliseconds, out of which the wait before a reconnection is drawn. */
  backoff?: [number, number];
  /**
   * After how many milliseconds of silence the server is given up; it is asked for a sign of life after three fifths of
   * them. With 0 it is asked only when the browser says that it is online again.
   */
  probe?: number;
  /** A WebSocket to use in place of the global one, such as that of npm's `ws`. */
  WebSocket?: new (url: string, protocol: string) => Socket;
}

/**
 * Why a publish failed: the server's `forbidden` or `bad_message`, or `message_too_big` (for the server's
 * `max_message_size`: it was not sent), `queue_full`, `unanswered` (the connection ended first: it may or may not have
 * been delivered) or `closed`.
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
  /** It was sent on a connection that a message over the limit ended. */
  again?: boolean;
  resolve: (readers: number) => void;
  reject: (error: PhiloteError) => void;
}

/** A token that was shown and is not answered yet. */
interface Shown {
  token: string;
  bytes: number;
  /** The handlers that begin with what is kept of their channels when it is accepted. */
  begin: [string, Handler[]][];
}

/** For `token()`, for a connection with the server's first answer, and for the answer to a later token, in milliseconds. */
const PATIENCE = 20_000;
/** A connection that lasted as long, in milliseconds, was a good one: the next wait is short again. */
const STEADY = 5_000;
/** Timers take no longer spans. */
const LONGEST_TIMER = 2 ** 31 - 1;
/** Earlier connections of this client whose messages may still be in a history; beyond, the oldest are forgotten. */
const OWN = 100;
/** The silence, in milliseconds, after which a server is given up, unless `probe` says otherwise. */
const SILENCE = 15_000;
/** What a late timer leaves to be heard first, in milliseconds, before a silent server is given up. */
const SECOND_LOOK = 100;
/** What the server lets come at once, in milliseconds of its rate. */
const BURST = 1000;
/** The pause after `rate_limited`, in milliseconds: a little more than after what the server forgives it. */
const PAUSE = 1200;

/** Milliseconds, by a clock that nobody sets. */
const clock = () => performance.now();

const size = (text: string) => new TextEncoder().encode(text).length;

/** The URL of a WebSocket, or a sentence that says why it is none. It is not quoted: it may hold a token. */
function address(url: string | URL): string {
  let whole: URL;
  try {
    if (typeof url !== "string" && !(url instanceof URL)) throw 0;
    whole = new URL(url, globalThis.location?.href);
  } catch {
    throw new TypeError('this is no URL: write the whole of it, as in "wss://chat.example.org/"');
  }
  if (!/^(ws|http)s?:$/.test(whole.protocol)) {
    throw new TypeError(`the URL must begin with ws:// or wss://, not "${whole.protocol}"`);
  }
  if (whole.href.includes("#")) throw new TypeError("the URL of a WebSocket must not have a fragment (#...)");
  return whole.href.replace(/^http/, "ws");
}

/** What `token()` gave, without `Bearer` and white space; where it is no token, why. */
function checkToken(given: unknown): string | Error {
  if (typeof given === "string") {
    return given.trim().replace(/^Bearer(\s+|$)/i, "") || new Error("token() gave an empty string");
  }
  const what = given == null ? given : `${typeof given === "object" ? "an" : "a"} ${typeof given}`;
  return new Error(`token() gave ${what}, not a string`);
}

/** Whether an id is that of a place or of one before it. */
function isReached(place: string | undefined, id: string): boolean {
  const [epoch, number] = id.split("-");
  const [reached, last] = place?.split("-") ?? [];
  return epoch === reached && +number! <= +last!;
}

/**
 * Keeps to the rates that the server tells. It reckons as the server does, but from the answers: what is answered was
 * counted before, so that no delay on the way can make it come faster than it was sent.
 */
class Pace {
  /** Messages and bytes a second; 0 is no limit. */
  #rates = [0, 0];
  /** Until when what was answered is paid for, by the clock. */
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

  /** Milliseconds until so many bytes may go; `Infinity` is until an answer comes. */
  wait(bytes: number): number {
    const now = clock();
    let wait = this.#pausedUntil - now;
    this.#rates.forEach((rate, kind) => {
      if (!rate) return;
      const each = BURST / rate;
      const ahead = this.#paid[kind]! - now;
      const owed = this.#owed[kind]! * each;
      const cost = (kind ? bytes : 1) * each;
      // One message's room is left for the pong that a browser sends by itself.
      const room = kind || rate < 2 ? BURST : BURST - each;
      if (owed && owed + cost > room) wait = Infinity;
      // After a pause the server takes one thing of any size.
      else wait = Math.max(wait, Math.min(ahead, Math.max(ahead, 0) + owed + cost - room));
    });
    return wait;
  }

  sent(bytes: number): void {
    [1, bytes].forEach((amount, kind) => (this.#owed[kind]! += amount));
  }

  /** Answered; what was refused for the rate does not count. */
  answered(bytes: number, limited = false): void {
    [1, bytes].forEach((amount, kind) => {
      this.#owed[kind]! -= amount;
      const rate = this.#rates[kind];
      if (rate && !limited) this.#paid[kind] = Math.max(this.#paid[kind]!, clock()) + (amount * BURST) / rate;
    });
  }
}

/** One connection to a Philote server, kept until `close` or until the server says not to come back. */
export class Philote {
  #url: string;
  #options: Options;
  #handlers = new Map<string, Set<Handler>>();
  #state: State = { state: "connecting" };
  #access?: Access;
  #socket?: Socket;
  /** Counts connections and their ends: what was started in an earlier turn has nothing to say any more. */
  #turn = 0;
  #attempt = 0;
  #opened = 0;
  /** The next step: a question, its end, or that of a wait. */
  #timer?: ReturnType<typeof setTimeout>;
  #pulse?: ReturnType<typeof setTimeout>;
  /** When the server was heard last, and when it was asked for a sign of life since; 0 is not. */
  #heard = 0;
  #probed = 0;
  #doubted = false;
  /** Counts questions to `token()`: an answer to any but the newest is not used. */
  #question = 0;
  #asking = false;
  /** A token was on its way already when the application wanted another. */
  #again = false;
  /** The token that the server accepted last, the one to show next, and those that it has not answered. */
  #token = "";
  #next?: string;
  #shown: Shown[] = [];
  /** Each channel's last id, or its place before the first message. */
  #ids = new Map<string, string>();
  /** The server would not take the list of ids. */
  #bare = false;
  #own = new Set<string>();
  /** Channels that were read before a cut: what comes of them may be this client's own. */
  #resumed = new Set<string>();
  /** With `history`, the handlers that are to begin with what is kept, and channels of which they were not told something. */
  #late = new Map<string, Set<Handler>>();
  #skipped = new Set<string>();
  /** The handlers for which old messages come again. */
  #replay = new Map<string, Handler[]>();
  /** Channels with a handler of which it was told that the token does not read them. */
  #unread = new Set<string>();
  #attending = false;
  #pace = new Pace();
  #pacer?: ReturnType<typeof setTimeout>;
  #waiting = new Map<string, Publish>();
  #sent = new Map<string, Publish>();
  #acks = 0;

  /**
   * @param url `ws:` or `wss:`; `http:`, `https:` and, in a browser, relative ones are turned into these.
   * @throws TypeError, with a sentence, for a URL or an option that cannot work.
   */
  constructor(url: string | URL, options: Options) {
    this.#url = address(url);
    if (typeof options?.token !== "function") throw new TypeError("the option token must be a function that gives a token");
    const { queue = 0, probe = 0, backoff = [0, 0] } = options;
    if (backoff.length !== 2 || ![queue, probe, ...backoff].every((number) => number >= 0)) {
      throw new TypeError("the options queue and probe must be numbers, backoff an array of two, none below 0");
    }
    if (!(options.WebSocket ?? globalThis.WebSocket)) {
      throw new TypeError("there is no WebSocket here: give one, such as that of npm's ws, as the option WebSocket");
    }
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

  /**
   * Hears a channel that the token may read; of another an `error` tells, after the next `access`. A text that is no JSON
   * comes as it is. Returns what ends it.
   */
  on(channel: string, handler: (value: any, message: Message) => void): () => void {
    const end = this.#add("#" + channel, handler);
    if (this.#options.history && !(this.#isOpen && this.#isLive(channel))) {
      this.#late.set(channel, (this.#late.get(channel) ?? new Set()).add(handler));
    }
    if (!this.#attending) {
      this.#attending = true;
      // Later: the application may add more, or ask for a token with this channel.
      queueMicrotask(() => {
        this.#attending = false;
        this.#attend();
      });
    }
    return () => {
      end();
      this.#begun(channel, [handler]);
      if (!this.#handlers.has("#" + channel)) this.#unread.delete(channel);
    };
  }

  /** Hears what happens to the connection. Returns what ends it. */
  when<K extends keyof Events>(event: K, handler: (detail: Events[K]) => void): () => void {
    return this.#add(event, handler);
  }

  /**
   * Publishes a value; while there is no connection, or the server's rate allows no more, it waits in a queue. Resolves to
   * how many readers it was queued for. A publish whose connection ended before the answer is not sent again, unless
   * the close code says that it was not taken (4429, 1009): only the application knows whether twice is better than
   * never. A rejection that nobody looks at is no unhandled one.
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
      const frame = JSON.stringify({ channel, data, ack });
      this.#waiting.set(ack, { channel, frame, bytes: size(frame), resolve, reject });
      if (this.#isOpen) this.#refuseTooBig([ack]);
      this.#flush();
    });
    promise.catch(() => {});
    return promise;
  }

  /**
   * Asks for a token now and shows it to the server on the connection that stands: channels it no longer names are left,
   * new ones joined, and nothing else is disturbed. Of several questions only the newest counts.
   */
  refresh(): void {
    if (this.#isOpen) this.#refresh();
    else if (this.#socket) this.#again = true;
    else if (this.#asking) this.#askAndOpen();
  }

  /** Ends the connection for good. */
  close(): void {
    this.#end(1000, "closed by the application");
  }

  get #isOpen(): boolean {
    return this.#state.state === "open";
  }

  /** No other token is on its way than the one in force. */
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

  /** Drawn from the whole span ("full jitter"), so that clients cut off together do not come back together. */
  #wait(): number {
    const [first, longest] = this.#options.backoff ?? [500, 30_000];
    return Math.random() * Math.min(longest, first * 2 ** this.#attempt++);
  }

  #online = (): void => {
    if (this.#state.state === "waiting") this.#schedule(Math.random() * 500, () => this.#connect());
    // The path may be another than before, and the old one dead.
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
    this.#schedule(PATIENCE, () => this.#lost(1006, "no connection in time"));
    let socket: Socket;
    try {
      socket = new (this.#options.WebSocket ?? (globalThis.WebSocket as any))(this.#url, "philote.v1");
    } catch (error) {
      // A page of https: may not open ws:.
      return this.#lost(0, `cannot connect: ${(error as Error).message}`);
    }
    this.#socket = socket;
    const now = (what: (event: any) => void) => (event: any) => {
      if (turn === this.#turn) what(event);
    };
    socket.onopen = now(() => this.#show(token));
    socket.onmessage = now((event) => this.#hear(event.data));
    socket.onerror = () => {}; // a close follows and says more
    socket.onclose = now(({ code, reason }) => {
      // What was too large may have been the list of ids; the next connection does without.
      if (code === 1009 && !this.#isOpen) this.#bare = true;
      this.#lost(code, reason || (this.#isOpen ? "the connection was lost" : "cannot connect"));
    });
  }

  /** Asks for a token. `use` gets it, or why there is none, unless a newer question comes or the connection ends. */
  #ask(use: (token: string | Error) => void): void {
    const question = ++this.#question;
    const answer = (token: string | Error) => {
      if (question !== this.#question) return;
      this.#stopAsking();
      if (token instanceof Error) token = new Error(`no token: ${token.message}`);
      use(token);
    };
    this.#asking = true;
    this.#schedule(PATIENCE, () => answer(new Error(`token() gave none within ${PATIENCE / 1000} s`)));
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
        token = new Error(`no token: an open connection may show one of ${this.#longestAuth} bytes at most`);
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

  /** The most bytes of a frame with a token: when it opens, a connection takes any that the server's limits can need. */
  get #longestAuth(): number {
    const limit = this.#isOpen && this.#access?.max_message_size;
    return limit ? Math.max(limit, 2 * size(this.#token)) : Infinity;
  }

  #show(token: string): void {
    this.#next = token;
    this.#flush();
  }

  /** The frame that shows a token: with the places of what was read before a cut, or null for what a handler begins with. */
  #frame(token: string): [string, Shown] {
    const since: Record<string, string | null> = Object.create(null);
    const begin: [string, Handler[]][] = [];
    if (!this.#isOpen && !this.#bare) {
      for (const channel of this.#access?.read ?? []) since[channel] = this.#ids.get(channel) ?? null;
    }
    for (const [channel, handlers] of this.#late) {
      if (channel in since) continue;
      begin.push([channel, [...handlers]]);
      if (!this.#bare) since[channel] = null;
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
      // Told below.
    }
    if (typeof frame !== "object" || !frame) {
      return this.#tell("error", { error: "bad_message", message: "the server sent something that is no JSON object" });
    }
    if (frame.access) return this.#enter(frame.access);
    if (frame.error) return this.#refused(frame);
    if (frame.channel !== undefined) return this.#deliver(frame);
    const publish = this.#answered(frame.ack);
    if (!publish) return;
    const { channel } = publish;
    // What this client says itself moves its place as well: all before it has come.
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
    if (frame.error === "unauthorized" || (limited && frame.ack === undefined)) {
      const shown = this.#shown.shift();
      if (shown) this.#pace.answered(shown.bytes, limited);
      if (shown && this.#isSettled) {
        if (limited) this.#next = shown.token;
        // The token for the time after this one was not good: another may be.
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

  /** Puts what was sent and is known not to have been published back into its place. */
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
      // A history knows no connection that has ended: what this client published itself comes from there, too.
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

  /** Whether a handler of this channel, which is read, can only hear what comes from now on. */
  #isLive(channel: string): boolean {
    const { read, max_message_size } = this.#access!;
    // Servers that do not tell their limits give what is kept only with a channel that is entered.
    return read.includes(channel) && (!this.#ids.has(channel) || max_message_size === undefined);
  }

  /** Takes handlers out of those that are to begin. */
  #begun(channel: string, handlers: Handler[]): void {
    const late = this.#late.get(channel);
    for (const handler of handlers) late?.delete(handler);
    if (!late?.size) this.#late.delete(channel);
  }

  #enter(frame: Access & { recovered?: Record<string, boolean>; ids?: Record<string, string> }): void {
    const { recovered = {}, ids = {}, ...access } = frame;
    const before = this.#access;
    const shown = this.#shown.shift();
    if (shown) this.#pace.answered(shown.bytes);
    if (shown) this.#token = shown.token;
    this.#access = access;
    this.#pace.set(access.messages_per_second, access.bytes_per_second);
    this.#own.add(access.connection);
    if (this.#own.size > OWN) this.#own.delete(this.#own.values().next().value!);
    const read = new Set(access.read);
    // A new connection stands where it is told; one that goes on keeps its places, and is told those of new channels.
    if (!this.#isOpen) {
      this.#ids.clear();
      this.#resumed = new Set(before?.read);
    }
    for (const places of [this.#ids, this.#resumed]) {
      for (const channel of places.keys()) if (!read.has(channel)) places.delete(channel);
    }
    const told = new Map(Object.entries(ids));
    for (const [channel, id] of told) if (!this.#ids.has(channel)) this.#ids.set(channel, id);
    const missed = this.#begin(shown, read, told);

    const expires = access.expires_at;
    // By the clock of this machine; where that is ahead, the close code 4401 asks for the next token.
    const left = expires === null ? LONGEST_TIMER : Date.parse(expires) - Date.now();
    if (this.#isSettled) {
      clearTimeout(this.#timer);
      // Drawn as well, because tokens signed together expire together.
      if (left > 0) this.#schedule(Math.max(1000, left * (0.7 + 0.2 * Math.random())), () => this.#refresh());
    }
    const turn = this.#turn;
    if (!this.#isOpen) {
      this.#bare = false;
      this.#opened = clock();
      this.#watch();
      for (const channel of before?.read ?? []) if (read.has(channel)) missed.set(channel, recovered[channel] === true);
      this.#become({ state: "open" });
    }
    this.#tell("access", access);
    for (const [channel, recovered] of missed) this.#tell("recovered", { channel, recovered });
    // Any of these may have called `close`.
    if (turn !== this.#turn) return;
    if (this.#again) this.refresh();
    this.#again = false;
    this.#attend();
    this.#refuseTooBig(this.#waiting.keys());
    this.#flush();
  }

  /** Lets those handlers begin that can; gives the channels of which something was kept from them in vain. */
  #begin(shown: Shown | undefined, read: Set<string>, told: Map<string, string>): Map<string, boolean> {
    const missed = new Map<string, boolean>();
    this.#replay.clear();
    for (const [channel, handlers] of shown?.begin ?? []) {
      if (!read.has(channel)) continue;
      this.#begun(channel, handlers);
      if (told.has(channel)) this.#replay.set(channel, handlers);
      else if (this.#skipped.has(channel)) missed.set(channel, false);
      this.#skipped.delete(channel);
    }
    for (const channel of this.#late.keys()) if (this.#isLive(channel)) this.#late.delete(channel);
    for (const [key, handlers] of this.#handlers) {
      const channel = key.slice(1);
      // When it is entered again, it begins again.
      if (this.#options.history && key[0] === "#" && !read.has(channel)) this.#late.set(channel, new Set(handlers));
    }
    return missed;
  }

  /** Sees to handlers that were added since the last token was shown. */
  #attend(): void {
    if (!this.#isOpen || !this.#isSettled) return;
    const read = new Set(this.#access!.read);
    for (const key of [...this.#handlers.keys()]) {
      const channel = key.slice(1);
      if (key[0] !== "#") continue;
      if (read.has(channel)) this.#unread.delete(channel);
      else if (!this.#unread.has(channel)) {
        this.#unread.add(channel);
        this.#tell("error", { error: "forbidden", channel, message: `this token may not read channel "${channel}"` });
      }
    }
    if (!this.#isOpen || !this.#isSettled) return;
    for (const channel of this.#late.keys()) if (read.has(channel)) return this.#show(this.#token);
  }

  #watch(delay = 0): void {
    clearTimeout(this.#pulse);
    this.#heard ||= clock();
    if (this.#probed || this.#options.probe !== 0) this.#pulse = setTimeout(() => this.#check(), delay);
  }

  /** A browser answers pings by itself and tells nobody: a dead network is noticed only by asking. */
  #probe(): void {
    this.#probed = clock();
    this.#show(this.#next ?? this.#shown.at(-1)?.token ?? this.#token);
    this.#watch((this.#options.probe || SILENCE) / 3);
  }

  /** Counts by the clock: in a page that is not seen timers come late. */
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

  /** Sends the next token, then what waits to be published, as fast as the server allows. */
  #flush(): void {
    clearTimeout(this.#pacer);
    while (this.#socket) {
      const [ack, publish] = (this.#isOpen && this.#waiting.entries().next().value) || [];
      const [frame, shown] = this.#next === undefined ? [publish?.frame] : this.#frame(this.#next);
      if (frame === undefined) return;
      const { bytes } = shown ?? publish!;
      const wait = this.#pace.wait(bytes);
      if (wait > 0) {
        if (wait < Infinity) this.#pacer = setTimeout(() => this.#flush(), Math.ceil(wait));
        return;
      }
      if (shown) {
        this.#next = undefined;
        this.#shown.push(shown);
      } else {
        this.#waiting.delete(ack!);
        this.#sent.set(ack!, publish!);
      }
      this.#pace.sent(bytes);
      this.#socket.send(frame);
    }
  }

  #leave(code: string, sentence: string): void {
    this.#turn++;
    this.#stopAsking();
    clearTimeout(this.#pulse);
    clearTimeout(this.#pacer);
    this.#heard = this.#probed = 0;
    this.#doubted = false;
    this.#next = undefined;
    this.#shown = [];
    this.#replay.clear();
    this.#pace = new Pace();
    this.#socket?.close();
    this.#socket = undefined;
    for (const { reject } of this.#sent.values()) reject(new PhiloteError(code, sentence));
    this.#sent.clear();
  }

  #lost(code: number, reason: string): void {
    if (code === 4403) return this.#end(code, reason);
    if (this.#isOpen && clock() - this.#opened >= STEADY) this.#attempt = 0;
    // Full, draining, or too fast: a moment is too short.
    if (code === 1013 || code === 4429) this.#attempt = Math.max(this.#attempt, 3);
    // With these the server has answered all that it took, so that the rest can go again; but what is too big for it
    // only once, and where it tells the limit by which this client finds it.
    const tells = this.#access?.max_message_size !== undefined;
    const unheard = [...this.#sent].filter(([, { again }]) => code === 4429 || (code === 1009 && tells && !again));
    for (const [ack, publish] of unheard) {
      publish.again ||= code === 1009;
      this.#sent.delete(ack);
    }
    this.#putBack(unheard);
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
