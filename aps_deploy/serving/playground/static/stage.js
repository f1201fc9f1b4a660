// The picture that is moved: by mouse, finger or pen, by the arrow keys, and by itself.

import { drawShifted, inWords, nearest, spiral } from "./shifts.js";

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const STRIDE = 8;
const FINEST_PIXELATED = 96;

/** The picture on the page; `moved` is told every new shift, `toggled` that playing should begin or end. */
export class Stage {
  constructor({ element, canvas, words }, { moved, toggled }) {
    this.element = element;
    this.canvas = canvas;
    this.words = words;
    this.moved = moved;
    this.picture = null;
    this.shift = { right: 0, down: 0 };
    this.drag = null;
    element.addEventListener("keydown", (event) => this.#key(event, toggled));
    element.addEventListener("pointerdown", (event) => this.#grab(event));
    element.addEventListener("pointermove", (event) => this.#pull(event));
    for (const name of ["pointerup", "pointercancel"]) {
      element.addEventListener(name, () => {
        this.drag = null;
      });
    }
  }

  /** Shows a picture, unshifted; null shows none. */
  show(picture) {
    this.picture = picture;
    this.drag = null;
    this.shift = { right: 0, down: 0 };
    this.element.classList.toggle("full", picture !== null);
    this.element.classList.toggle("fine", picture !== null && picture.width > FINEST_PIXELATED);
    this.draw();
  }

  /** Moves the picture to a shift and says so. */
  goTo(shift) {
    this.shift = shift;
    this.draw();
    this.moved();
  }

  /** Moves the picture by whole pixels from where it is. */
  moveBy(right, down) {
    this.goTo({ right: this.shift.right + right, down: this.shift.down + down });
  }

  /** Moves to the next shift of a spiral around the unshifted picture: the smallest shifts first. */
  step() {
    const { width, height } = this.picture;
    const next = spiral(nearest(this.shift.right, width), nearest(this.shift.down, height));
    const isDone = Math.max(Math.abs(next.right), Math.abs(next.down)) > Math.max(width, height) / 2;
    this.goTo(isDone ? { right: 0, down: 0 } : next);
  }

  draw() {
    if (this.picture === null) {
      this.words.textContent = "not shifted";
      return;
    }
    drawShifted(this.canvas, this.picture, this.shift);
    this.words.textContent = inWords(this.shift, this.picture);
  }

  #key(event, toggled) {
    if (this.picture === null || event.ctrlKey || event.altKey || event.metaKey) {
      return;
    }
    if (event.key in KEYS) {
      const [right, down] = KEYS[event.key];
      const pixels = event.shiftKey ? STRIDE : 1;
      this.moveBy(right * pixels, down * pixels);
    } else if (event.key === "Home") {
      this.goTo({ right: 0, down: 0 });
    } else if (event.key === " ") {
      toggled();
    } else {
      return;
    }
    event.preventDefault();
  }

  #grab(event) {
    if (this.picture === null || event.button !== 0) {
      return;
    }
    this.element.setPointerCapture(event.pointerId);
    this.drag = { x: event.clientX, y: event.clientY, shift: this.shift };
  }

  #pull(event) {
    if (this.drag === null) {
      return;
    }
    const pixels = this.picture.width / this.element.clientWidth;
    const right = this.drag.shift.right + Math.round((event.clientX - this.drag.x) * pixels);
    const down = this.drag.shift.down + Math.round((event.clientY - this.drag.y) * pixels);
    if (right !== this.shift.right || down !== this.shift.down) {
      this.goTo({ right, down });
    }
  }
}
