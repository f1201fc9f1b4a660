// Raw tensors as the server's binary extension carries them: little-endian, in rows of (N, C, H, W).

const ITEM_BYTES = { FP16: 2, FP32: 4, FP64: 8 };

/** Returns the remainder that is never negative. */
export function modulo(value, size) {
  return ((value % size) + size) % size;
}

/** Returns the tensor circularly shifted by whole pixels, `right` and `down`: numpy.roll(x, (down, right), (2, 3)). */
export function roll(tensor, { right, down }) {
  const [height, width] = tensor.shape.slice(-2);
  const lineBytes = width * ITEM_BYTES[tensor.datatype];
  const movedBytes = modulo(right, width) * ITEM_BYTES[tensor.datatype];
  const planeBytes = height * lineBytes;
  const moved = new Uint8Array(tensor.bytes.length);
  for (let plane = 0; plane < moved.length; plane += planeBytes) {
    for (let line = 0; line < height; line += 1) {
      const from = plane + line * lineBytes;
      const to = plane + modulo(line + down, height) * lineBytes;
      const cut = from + lineBytes - movedBytes;
      moved.set(tensor.bytes.subarray(from, cut), to + movedBytes);
      moved.set(tensor.bytes.subarray(cut, from + lineBytes), to);
    }
  }
  return { ...tensor, bytes: moved };
}

/** Returns a tensor's elements as numbers, in their order. */
export function numbers({ bytes, datatype }) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const itemBytes = ITEM_BYTES[datatype];
  if (itemBytes === undefined) {
    throw new Error(`the page cannot read numbers of the type ${datatype}.`);
  }
  const read = {
    FP16: (at) => halfToNumber(view.getUint16(at, true)),
    FP32: (at) => view.getFloat32(at, true),
    FP64: (at) => view.getFloat64(at, true),
  }[datatype];
  return Float64Array.from({ length: bytes.length / itemBytes }, (_, place) => read(place * itemBytes));
}

/** Returns the number that 16 bits stand for in IEEE 754's half precision. */
export function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) {
    return fraction ? NaN : sign * Infinity;
  }
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}

/** Returns whether two tensors are the same to the last bit. */
export function sameBits(one, other) {
  return one.bytes.length === other.bytes.length && one.bytes.every((byte, place) => byte === other.bytes[place]);
}

/** Returns the probabilities of scores. */
export function softmax(scores) {
  const largest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - largest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

/** Returns the places of the largest values, largest first; among equal ones the first. */
export function best(values, count) {
  return Array.from(values.keys())
    .sort((one, other) => values[other] - values[one] || one - other)
    .slice(0, count);
}

/** Returns the picture that a prepared tensor shows, with its preprocessing undone. */
export function pictureOf(tensor, preprocessing) {
  const [height, width] = tensor.shape.slice(-2);
  const values = numbers(tensor);
  const picture = new ImageData(width, height);
  const order = preprocessing.channel_order === "BGR" ? [2, 1, 0] : [0, 1, 2];
  for (let pixel = 0; pixel < height * width; pixel += 1) {
    order.forEach((channel, colour) => {
      const value = values[channel * height * width + pixel];
      picture.data[4 * pixel + colour] = Math.round(
        255 * (value * preprocessing.std[channel] + preprocessing.mean[channel]),
      );
    });
    picture.data[4 * pixel + 3] = 255;
  }
  return picture;
}
