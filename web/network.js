// The networks of all masks, as chains of ONNX graphs that ONNX Runtime runs in the page.

/**
 * @typedef {import("onnxruntime-web").InferenceSession} Session
 * @typedef {import("./link.js").FileFacts} FileFacts
 * @typedef {{
 *   format: number, n_blocks: number, class_names: string[],
 *   inputs: { shape: [number, number, number], mean: number[], std: number[] },
 *   units: Record<string, FileFacts>, arrivals: string[][], orders: Record<string, number[]>,
 *   accuracies: Record<string, Record<string, number>>,
 *   images: FileFacts & { labels: number[], changes: number[], hits: Record<string, number> },
 * }} Model
 */

/** Whether a letter of a mask names the teacher. @param {string} letter */
export const isTeacher = (letter) => letter.toUpperCase() === "T";

/** What the names of units end with that a small letter stands for: their weights are int8. @param {string} letter */
export const bitsOf = (letter) => (letter === letter.toUpperCase() ? "" : "-8bit");

/** The units of a mask's network in the order in which they run. @param {string} mask */
export function chain(mask) {
  return [...mask].flatMap((letter, i) => {
    const own = `${isTeacher(letter) ? "teacher" : "student"}-${i + 1}${bitsOf(letter)}`;
    if (i === 0 || isTeacher(letter) === isTeacher(mask[i - 1])) return [own];
    // A converter comes with the teacher's block beside it.
    return [isTeacher(letter) ? `decoder-${i}${bitsOf(letter)}` : `encoder-${i}${bitsOf(mask[i - 1])}`, own];
  });
}

/** Probabilities from logits. @param {ArrayLike<number>} logits */
export function softmax(logits) {
  const values = Array.from(logits), top = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - top)), sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** The place of the largest value; the first one of several. @param {ArrayLike<number>} values */
export function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

export class Network {
  /**
   * @param {typeof import("onnxruntime-web")} ort
   * @param {Model} model
   */
  constructor(ort, model) {
    this.ort = ort;
    this.model = model;
    /** @type {Map<string, Session>} */
    this.sessions = new Map();
    /** @type {Promise<unknown>} */
    this.turn = Promise.resolve(); // the runtime does one thing at a time
  }

  /** @template T @param {() => Promise<T>} work @returns {Promise<T>} */
  inTurn(work) {
    const mine = this.turn.then(work);
    this.turn = mine.catch(() => {});
    return mine;
  }

  /** @param {string} name @param {Uint8Array} content an ONNX file */
  async add(name, content) {
    // Without the option, matrix products with int8 weights would round their inputs too.
    const options = { executionProviders: ["wasm"], extra: { session: { disable_quant_qdq: "1" } } };
    const session = await this.inTurn(() => this.ort.InferenceSession.create(content, options));
    this.sessions.set(name, session);
  }

  /** @param {string} name */
  has(name) {
    return this.sessions.has(name);
  }

  /**
   * The logits of a mask's network, one row of classes after the other.
   * @param {Float32Array} inputs normalised
   * @param {number} batch
   * @param {string} mask
   * @returns {Promise<Float32Array>}
   */
  logits(inputs, batch, mask) {
    const sessions = chain(mask).filter((name) => name in this.model.units).map((name) => this.sessions.get(name));
    return this.inTurn(async () => {
      let state = new this.ort.Tensor("float32", inputs, [batch, ...this.model.inputs.shape]);
      for (const session of sessions) {
        if (!session) throw new Error(`the network ${mask} has not arrived`);
        const next = await session.run({ state });
        state = /** @type {typeof state} */ (next.next);
      }
      return /** @type {Float32Array} */ (state.data);
    });
  }

  async release() {
    const sessions = [...this.sessions.values()];
    this.sessions.clear();
    await this.inTurn(async () => { for (const session of sessions) await session.release(); });
  }
}
