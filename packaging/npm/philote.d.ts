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
    may?: {
        read: string[];
        write: string[];
    };
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
    subjects?: Map<string, {
        info?: any;
    }>;
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
    recovered: {
        channel: string;
        recovered: boolean;
    };
    message: Message;
    /**
   * Rejections by the server, tokens and states that could not be obtained (`token`, `load`), and handlers of channels that
   * the token does not read.
     */
    error: {
        error: string;
        message: string;
        channel?: string;
    };
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
export declare class PhiloteError extends Error {
    readonly code: string;
    constructor(code: string, message: string);
}
/** One connection to a Philote server, kept open until `close` or until the server forbids to reconnect. */
export declare class Philote {
    #private;
    /**
   * @param url `ws:` or `wss:`; `http:`, `https:` and, in a browser, relative URLs are converted to these.
   * @throws TypeError, with a sentence, for a URL or an option that cannot work.
     */
    constructor(url: string | URL, options: Options);
    get state(): State;
    /** What the token in force allows; `undefined` before the first connection. */
    get access(): Access | undefined;
    /**
   * Calls a handler for each message of a channel that the token reads. A channel that it only allows to join is joined, and
   * left with its last handler. For another channel an `error` follows the next `access`. A text that is not JSON is passed
   * unchanged. With `load`, the handler follows a state. Returns a function that removes the handler.
     */
    on(channel: string, handler: (value: any, message: Message) => void, { load }?: Follow): () => void;
    /**
   * Joins a channel that the token allows to join; the messages go to the handlers of `message` and `on`. It stays joined,
   * also after a reconnection, until `leave`. Rejected with the code `forbidden` if it may not be joined.
     */
    join(channel: string): Promise<void>;
    /** Leaves a channel that was joined; it stays joined as long as it has handlers. */
    leave(channel: string): void;
    /**
   * Calls a handler with those who read a channel, at first and whenever somebody joins or leaves. The token must have the
   * claim `presence`, and the channel is joined if it must be. Returns a function that removes the handler.
     */
    presence(channel: string, handler: (presence: Presence) => void): () => void;
    /** Calls a handler for each event of the connection. Returns a function that removes the handler. */
    when<K extends keyof Events>(event: K, handler: (detail: Events[K]) => void): () => void;
    /**
   * Publishes a value. While there is no connection, or the server's rate is reached, it waits in a queue. Resolves to the
   * number of readers for which it was queued, or to null in a cluster, where no node knows all readers. If the connection ends before the answer, the message is not sent again,
   * unless the close code shows that it was not accepted (4429, 1009): only the application knows whether twice is better
   * than never. An ignored rejection does not count as unhandled.
     */
    publish(channel: string, value: unknown): Promise<number | null>;
    /**
   * Calls `token()` and sends the result on the open connection: channels that it no longer names are left, new ones are
   * joined, and others are not affected. Of several calls only the newest counts.
     */
    refresh(): void;
    /** Closes the connection permanently. */
    close(): void;
}
