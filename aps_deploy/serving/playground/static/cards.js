// What a model says now, and what came of all shifts so far: one card each.

import { nearest } from "./shifts.js";
import { modulo } from "./tensors.js";

const LARGEST_MAP = 64;
const COLOURS = ["--untried", "--same", "--changed", "--ink"];

/** Returns an element with its classes, text and children. */
export function element(tag, { classes = "", text = "", ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  made.className = classes;
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    made.setAttribute(name.replace("_", "-"), value);
  }
  made.append(...children);
  return made;
}

/** Returns a share in percent, never rounded up to all or down to nothing. */
export function percent(share) {
  if (share > 0 && share < 0.0005) {
    return "< 0.1 %";
  }
  return `${(share < 1 ? Math.min(share * 100, 99.9) : 100).toFixed(1)} %`;
}

/** The card of one model. */
export class Card {
  constructor(subject) {
    this.subject = subject;
    this.element = element("article", { classes: "card" });
    this.map = element("canvas", { role: "img" });
    this.mapped = null; // the tensor whose shifts the map shows
    this.last = 0;
    this.draw();
  }

  /** Shows what the model says now. */
  draw() {
    const { subject } = this;
    const state = subject.answer === null || subject.problem ? "" : subject.answer.isChanged ? "changed" : "same";
    this.element.className = `card ${state}`;
    const parts = [this.#head()];
    if (subject.problem) {
      parts.push(element("p", { classes: "problem", text: subject.problem }));
    }
    if (subject.answer !== null && !subject.problem) {
      parts.push(this.#answer(), this.#bars()); // else they would be those of another shift
    }
    if (subject.answer !== null) {
      parts.push(this.#evidence(), this.#promise());
    }
    this.element.replaceChildren(...parts);
  }

  #head() {
    const { subject } = this;
    const facts = [`version ${subject.version}`];
    if (subject.description?.precision) {
      facts.push(subject.description.precision);
    }
    if (subject.tensor !== null) {
      facts.push(`${subject.size.width} × ${subject.size.height} pixels`);
    }
    const line = subject.version ? facts.join(" · ") : "";
    return element("div", {}, element("h2", { text: subject.name }), element("p", { classes: "hint", text: line }));
  }

  #answer() {
    const { answer, unshifted } = this.subject;
    const { label } = unshifted.top[0];
    const words = answer.isChanged ? `changed, was ${label}` : this.subject.place(answer.shift) ? "as unshifted" : "unshifted";
    return element(
      "div",
      { classes: "answer" },
      element("strong", { text: answer.top[0].label }),
      element("span", { classes: "badge", text: words }),
    );
  }

  #bars() {
    const lines = this.subject.answer.top.map(({ label, probability }) => {
      const fill = element("span", { classes: "fill" });
      fill.style.width = `${100 * probability}%`;
      const name = element("span", { classes: "name", text: label });
      return element("li", {}, fill, name, element("span", { classes: "number", text: percent(probability) }));
    });
    return element("ol", { classes: "bars", aria_label: "Best classes" }, ...lines);
  }

  #evidence() {
    const { subject } = this;
    const tried = subject.answers.size;
    const all = subject.size.width * subject.size.height - 1;
    this.drawMap();
    const changed = element("dd", {
      classes: subject.numChanged ? "bad" : "",
      text: subject.numChanged ? `at ${subject.numChanged} (${percent(subject.numChanged / tried)})` : tried ? "never" : "–",
    });
    const bits = element("dd", { text: tried ? `at ${subject.numIdentical} of ${tried}` : "–" });
    const list = element(
      "dl",
      {},
      element("div", {}, element("dt", { text: "shifts tried" }), element("dd", { text: `${tried} of ${all}` })),
      element("div", {}, element("dt", { text: "answer changed" }), changed),
      element("div", {}, element("dt", { text: "scores bit-identical" }), bits),
    );
    const isWhole = Math.max(subject.size.width, subject.size.height) <= LARGEST_MAP;
    const caption = element("figcaption", { text: isWhole ? "one point per shift" : `shifts to ${LARGEST_MAP / 2} px` });
    return element("div", { classes: "evidence" }, element("figure", {}, this.map, caption), list);
  }

  #promise() {
    const { subject } = this;
    const { promise, shift_step: step } = subject.description;
    if (promise === "nothing") {
      return element("p", { classes: "promise", text: "Promises nothing of shifts." });
    }
    const what = promise === "bits" ? "not one bit of the scores changes" : "the answer does not change";
    const where = step > 1 ? `, for shifts by multiples of ${step} pixels` : "";
    const tried = subject.answers.size;
    const broken = `Promise broken at ${subject.numBroken} shifts. It was`;
    const [state, verdict] = subject.numBroken ? ["broken", broken] : tried ? ["kept", "Kept"] : ["", "Promise"];
    return element("p", { classes: `promise ${state}`, text: `${verdict}: ${what}${where}.` });
  }

  /** Draws the map of the shifts, the unshifted picture in the middle; anew, or only what changed since. */
  drawMap(isAnew = false) {
    const { subject, map } = this;
    const { width, height } = subject.size;
    const here = subject.place(subject.answer.shift);
    const context = map.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const [untried, same, changed, ink] = COLOURS.map((name) => style.getPropertyValue(name));
    const [across, along] = [Math.min(width, LARGEST_MAP), Math.min(height, LARGEST_MAP)];
    const paint = (place, colour) => {
      const right = nearest(place % width, width) + Math.floor(across / 2);
      const down = nearest(Math.floor(place / width), height) + Math.floor(along / 2);
      context.fillStyle = colour;
      // The farthest shift to the right is the farthest to the left, too.
      context.fillRect(across === width ? modulo(right, width) : right, along === height ? modulo(down, height) : down, 1, 1);
    };
    const colourOf = (place) => (subject.answers.get(place)?.isChanged ? changed : same);
    if (isAnew || this.mapped !== subject.tensor) {
      [map.width, map.height] = [across, along];
      context.fillStyle = untried;
      context.fillRect(0, 0, across, along);
      subject.answers.forEach((_, place) => paint(place, colourOf(place)));
      this.mapped = subject.tensor;
      paint(0, same);
    } else {
      paint(this.last, colourOf(this.last));
    }
    paint(here, ink);
    this.last = here;
    const words = `Map of the shifts: ${subject.numChanged} of ${subject.answers.size} tried ones changed the answer.`;
    map.setAttribute("aria-label", words);
    map.title = words;
  }
}
