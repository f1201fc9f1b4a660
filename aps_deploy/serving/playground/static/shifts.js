// Shifts in words and on a canvas.

import { modulo } from "./tensors.js";

/** Returns a shift in words, from the nearest side. */
export function inWords({ right, down }, { width, height }) {
  const across = nearest(right, width);
  const along = nearest(down, height);
  const parts = [];
  if (across !== 0) {
    parts.push(`${Math.abs(across)} px ${across > 0 ? "right" : "left"}`);
  }
  if (along !== 0) {
    parts.push(`${Math.abs(along)} px ${along > 0 ? "down" : "up"}`);
  }
  return parts.join(", ") || "not shifted";
}

/** Returns a shift in as few signs as possible, from the nearest side. */
export function inArrows({ right, down }, { width, height }) {
  const across = nearest(right, width);
  const along = nearest(down, height);
  return `${across < 0 ? "←" : "→"} ${Math.abs(across)}  ${along < 0 ? "↑" : "↓"} ${Math.abs(along)}`;
}

/** Returns an offset as counted from the nearer side. */
export function nearest(offset, size) {
  const rest = modulo(offset, size);
  return rest > size / 2 ? rest - size : rest;
}

/** Returns the shift after this one on a square spiral around no shift at all, each a pixel from the one before. */
export function spiral(right, down) {
  const ring = Math.max(Math.abs(right), Math.abs(down));
  if (right === ring && down === -ring) {
    return { right: right + 1, down }; // on to the next ring
  }
  if (right === ring && down < ring) {
    return { right, down: down + 1 };
  }
  if (down === ring && right > -ring) {
    return { right: right - 1, down };
  }
  return right === -ring && down > -ring ? { right, down: down - 1 } : { right: right + 1, down };
}

/** Draws a picture moved circularly, pixel for pixel what the model reads. */
export function drawShifted(canvas, picture, { right, down }) {
  const { width, height } = picture;
  if (canvas.width !== width || canvas.height !== height) {
    [canvas.width, canvas.height] = [width, height];
  }
  const context = canvas.getContext("2d");
  const [left, top] = [modulo(right, width), modulo(down, height)];
  for (const x of [left - width, left]) {
    for (const y of [top - height, top]) {
      context.drawImage(picture, x, y);
    }
  }
}
