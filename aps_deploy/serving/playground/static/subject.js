// One served model under the shifts of one picture: what it answered unshifted, and everything it answered since.

import { best, modulo, numbers, pictureOf, roll, sameBits, softmax } from "./tensors.js";

const NUM_SHOWN = 3;

/**
 * A model. `problem` is a sentence where it cannot be asked, else empty; `tensor` is its prepared input, unshifted;
 * `answers` holds its last answer to every shift that was tried, by the shift's place in the picture.
 */
export class Subject {
  constructor({ name, version = "", state, reason = "" }) {
    this.name = name;
    this.version = version;
    this.isReady = state === "READY";
    this.problem = this.isReady ? "" : `Not ready: ${reason || state.toLowerCase()}`;
    this.description = null;
    this.forget();
  }

  get key() {
    return `${this.name} ${this.version} ${this.isReady}`;
  }

  get isAsked() {
    return this.isReady && this.tensor !== null && !this.isRefused;
  }

  get size() {
    const [height, width] = this.tensor.shape.slice(-2);
    return { height, width };
  }

  /** Forgets the picture and its answers. */
  forget() {
    this.tensor = null;
    this.isRefused = false;
    this.picture = null;
    this.unshifted = null;
    this.answer = null;
    this.answers = new Map();
    this.numChanged = 0;
    this.numIdentical = 0;
    this.numBroken = 0;
  }

  /** Takes a picture, which the server prepares; where it cannot, `problem` says why. */
  async take(server, picture, signal) {
    this.forget();
    this.problem = "";
    const description = await server.describe(this);
    signal.throwIfAborted();
    this.description = description;
    if (description.preprocessing === null) {
      throw new Error("its file does not say how pictures are prepared, so it cannot be tried here.");
    }
    const tensor = await server.prepare(this, picture, signal);
    const shown = await createImageBitmap(pictureOf(tensor, description.preprocessing));
    signal.throwIfAborted();
    this.tensor = tensor;
    this.picture = shown;
  }

  /** Asks for the answer to the picture shifted by whole pixels of this model's input, and remembers it. */
  async ask(server, shift, signal) {
    if (this.unshifted === null && this.place(shift) !== 0) {
      await this.ask(server, { right: 0, down: 0 }, signal);
    }
    const scores = await server.infer(this, roll(this.tensor, shift), this.description.scores, signal);
    signal.throwIfAborted(); // meanwhile another picture was taken
    const answer = this.#read(scores, shift);
    this.answer = answer;
    this.#remember(answer);
    return answer;
  }

  /** Returns the place of a shift among all shifts of this model's input. */
  place({ right, down }) {
    return modulo(down, this.size.height) * this.size.width + modulo(right, this.size.width);
  }

  #read(scores, shift) {
    const values = numbers(scores).subarray(0, scores.shape.at(-1)); // of the first row; a fixed batch has equal ones
    if (!values.every(Number.isFinite)) {
      throw new Error("its scores are not finite.");
    }
    const probabilities = softmax(values);
    const top = best(values, NUM_SHOWN).map((index) => ({
      index,
      label: this.description.labels?.[index] ?? `class ${index}`,
      probability: probabilities[index],
    }));
    this.unshifted ??= { scores, top };
    const isChanged = top[0].index !== this.unshifted.top[0].index;
    const isIdentical = sameBits(scores, this.unshifted.scores);
    return { shift, top, isChanged, isIdentical, isBroken: this.#isBroken(shift, isChanged, isIdentical) };
  }

  #isBroken({ right, down }, isChanged, isIdentical) {
    const { promise, shift_step: step } = this.description;
    if (promise === "nothing" || modulo(right, step) !== 0 || modulo(down, step) !== 0) {
      return false;
    }
    return promise === "bits" ? !isIdentical : isChanged;
  }

  #remember(answer) {
    const place = this.place(answer.shift);
    if (place === 0) {
      return; // the unshifted picture is what the others are compared with
    }
    const before = this.answers.get(place);
    this.answers.set(place, answer);
    for (const [count, flag] of [["numChanged", "isChanged"], ["numIdentical", "isIdentical"], ["numBroken", "isBroken"]]) {
      this[count] += Number(answer[flag]) - Number(before?.[flag] ?? false);
    }
  }
}
