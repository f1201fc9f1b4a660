// The strips of every answer in order, one line per model, and the pictures whose answer changed.

import { element, percent } from "./cards.js";
import { drawShifted, inArrows, inWords } from "./shifts.js";

const CELL_PX = 4;
const MOST_CELLS = 2000;
const MOST_CHANGES = 200;

/** One model's answers in order: `add` one per shift, null where there was none. */
export class Strip {
  constructor(name) {
    this.cells = [];
    this.canvas = element("canvas", { role: "img" });
    this.count = element("span", { classes: "number" });
    this.element = element(
      "div",
      { classes: "strip" },
      element("span", { classes: "name", text: name, title: name }),
      this.canvas,
      this.count,
    );
  }

  clear() {
    this.cells = [];
    this.draw(null);
  }

  add(answer, subject) {
    this.cells.push(answer === null ? null : answer.isChanged);
    if (this.cells.length > MOST_CELLS) {
      this.cells.shift();
    }
    this.draw(subject);
  }

  /** Draws the newest answers at the right; those that do not fit have left at the left. */
  draw(subject) {
    const { canvas } = this;
    const scale = globalThis.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    const [same, changed] = ["--same", "--changed"].map((name) => style.getPropertyValue(name));
    const shown = this.cells.slice(-Math.floor((width - 4) / CELL_PX));
    shown.forEach((isChanged, place) => {
      if (isChanged === null) {
        return;
      }
      const tall = isChanged ? height - 4 : height * 0.35;
      context.fillStyle = isChanged ? changed : same;
      context.fillRect(2 + place * CELL_PX, height - 2 - tall, CELL_PX - 1, tall);
    });
    const numChanged = this.cells.filter(Boolean).length;
    this.count.textContent = this.cells.length ? `${numChanged} changed` : "";
    this.count.classList.toggle("bad", numChanged > 0);
    const name = subject?.name ?? "this model";
    canvas.setAttribute("aria-label", `${this.cells.length} answers of ${name}, ${numChanged} of them changed`);
  }
}

/** The pictures whose answer changed, newest first; each brings its shift back when it is pressed. */
export class Changes {
  constructor(list, none, goTo) {
    this.list = list;
    this.none = none;
    this.goTo = goTo;
    this.clear();
  }

  clear() {
    this.items = new Map();
    this.list.replaceChildren();
    this.none.hidden = false;
  }

  /** Shows a changed answer once, however often its shift is tried. */
  add(subject, answer) {
    const key = `${subject.key} ${subject.place(answer.shift)}`;
    if (this.items.has(key)) {
      return;
    }
    const { label, probability } = answer.top[0];
    const words = `${label} ${percent(probability)}, ${inWords(answer.shift, subject.size)}, ${subject.name}: show this shift`;
    const button = element(
      "button",
      { type: "button", title: words, aria_label: words },
      thumbnail(subject, answer.shift),
      element("strong", { text: label }),
      element("span", { text: inArrows(answer.shift, subject.size) }),
      element("span", { text: subject.name }),
    );
    button.addEventListener("click", () => this.goTo(answer.shift));
    const item = element("li", {}, button);
    this.items.set(key, item);
    this.list.prepend(item);
    this.none.hidden = true;
    if (this.list.children.length > MOST_CHANGES) {
      this.list.lastElementChild.remove();
    }
  }
}

function thumbnail(subject, shift) {
  const canvas = element("canvas", { aria_hidden: "true" });
  drawShifted(canvas, subject.picture, shift);
  return canvas;
}
