// A link of limited bandwidth, and files fetched over it: the bytes really trickle, piece by piece, and are checked.

const PIECE_S = 0.05; // how much of the link a piece takes, so that bars move smoothly
const BACKLOG_MS = 500; // bytes that go on arriving while the page computes: what a browser's buffers hold at most
const PATIENCE_MS = 15_000; // without a single byte
const sleep = (/** @type {number} */ ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** @typedef {{ file: string, bytes: number, sha256: string }} FileFacts */

/** Why a file is not there, in words for a reader. */
export class TransferError extends Error {}

export class Link {
  /** @param {number} rate bytes per second; Infinity: as fast as they come */
  constructor(rate) {
    this.rate = rate;
    this.free = 0; // when the last piece will have arrived, in milliseconds
    this.patience = PATIENCE_MS;
    /** @type {Promise<void> | null} */
    this.closed = null;
    this.open = () => {};
  }

  pause() {
    this.closed ??= new Promise((resolve) => { this.open = resolve; });
  }

  /** Begin, or go on after a pause. */
  resume() {
    this.open();
    this.closed = null;
    this.free = performance.now();
  }

  get pieceBytes() {
    return this.rate === Infinity ? Infinity : Math.max(256, Math.round(this.rate * PIECE_S));
  }

  /** Resolves when so many more bytes can have arrived. @param {number} bytes */
  async carry(bytes) {
    while (this.closed) await this.closed;
    if (this.rate === Infinity) return;
    this.free = Math.max(this.free, performance.now() - BACKLOG_MS) + (1000 * bytes) / this.rate;
    const wait = this.free - performance.now();
    if (wait > 0) await sleep(wait);
    while (this.closed) await this.closed;
  }
}

/**
 * The content of a file, once all of its bytes have come over the link and its checksum is right.
 * @param {string} url
 * @param {FileFacts} facts
 * @param {Link} link
 * @param {(bytes: number) => void} came called with the number of bytes that have arrived so far
 * @param {AbortSignal} signal
 */
export async function fetchFile(url, facts, link, came, signal) {
  const content = new Uint8Array(facts.bytes);
  const silence = new AbortController(), both = AbortSignal.any([signal, silence.signal]);
  /** @template T @param {Promise<T>} answer @returns {Promise<T>} */
  const inTime = async (answer) => {
    const timer = setTimeout(() => silence.abort(), link.patience);
    try {
      return await answer;
    } finally {
      clearTimeout(timer);
    }
  };
  let size = 0;
  try {
    const response = await inTime(fetch(url, { cache: "no-store", signal: both }));
    if (!response.ok || !response.body) {
      throw new TransferError(`the server answers ${response.status} ${response.statusText}`.trim());
    }
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await inTime(reader.read());
      if (done) break;
      if (size + value.length > facts.bytes) throw new TransferError(`more than the ${facts.bytes} bytes announced came`);
      for (let begin = 0; begin < value.length; begin += link.pieceBytes) {
        const piece = value.subarray(begin, Math.min(value.length, begin + link.pieceBytes));
        await link.carry(piece.length);
        signal.throwIfAborted();
        content.set(piece, size);
        size += piece.length;
        came(size);
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof TransferError) throw error;
    const what = silence.signal.aborted ? `nothing came for ${link.patience / 1000} s` : "the connection broke";
    throw new TransferError(`${what} after ${size} of ${facts.bytes} bytes`, { cause: error });
  }
  if (size !== facts.bytes) throw new TransferError(`${size} bytes came instead of ${facts.bytes}`);
  if ((await sha256(content)) !== facts.sha256) throw new TransferError("its checksum is wrong");
  return content;
}

/** @param {Uint8Array<ArrayBuffer>} content */
async function sha256(content) {
  if (!crypto.subtle) throw new TransferError("its checksum cannot be verified: open this page over https, or from this machine");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
