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
    recovered: {
        channel: string;
        recovered: boolean;
    };
    message: Message;
    /** What the server refused, tokens that could not be had, and handlers of channels that the token does not read. */
    error: {
        error: string;
        message: string;
        channel?: string;
    };
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
export declare class PhiloteError extends Error {
    readonly code: string;
    constructor(code: string, message: string);
}
/** One connection to a Philote server, kept until `close` or until the server says not to come back. */
export declare class Philote {
    #private;
    /**
     * @param url `ws:` or `wss:`; `http:`, `https:` and, in a browser, relative ones are turned into these.
     * @throws TypeError, with a sentence, for a URL or an option that cannot work.
     */
    constructor(url: string | URL, options: Options);
    get state(): State;
    /** What the token in force allows; `undefined` before the first connection. */
    get access(): Access | undefined;
    /**
     * Hears a channel that the token may read; of another an `error` tells, after the next `access`. A text that is no JSON
     * comes as it is. Returns what ends it.
     */
    on(channel: string, handler: (value: any, message: Message) => void): () => void;
    /** Hears what happens to the connection. Returns what ends it. */
    when<K extends keyof Events>(event: K, handler: (detail: Events[K]) => void): () => void;
    /**
     * Publishes a value; while there is no connection, or the server's rate allows no more, it waits in a queue. Resolves to
     * how many readers it was queued for. A publish whose connection ended before the answer is not sent again, unless
     * the close code says that it was not taken (4429, 1009): only the application knows whether twice is better than
     * never. A rejection that nobody looks at is no unhandled one.
     */
    publish(channel: string, value: unknown): Promise<number>;
    /**
     * Asks for a token now and shows it to the server on the connection that stands: channels it no longer names are left,
     * new ones joined, and nothing else is disturbed. Of several questions only the newest counts.
     */
    refresh(): void;
    /** Ends the connection for good. */
    close(): void;
}
