/* What the explorable page computes: Eq. 8, the map on the film, Dice and the pointing game, as in
   rctpl_utils (scoring, encoders.frame, evaluation.grounding_metrics).
   A plain script, so that the page works from a folder; Node.js reads it with require. */
"use strict";

const measures = {
  /** Cosines: base64 of little-endian 16-bit whole numbers of `step`, as arrays of `length`. */
  unpack(text, step, length) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const all = Float64Array.from({ length: bytes.length / 2 }, (_, k) => step * view.getInt16(2 * k, true));
    return Array.from({ length: all.length / length }, (_, k) => all.subarray(k * length, (k + 1) * length));
  },

  /** Eq. 8: the softmax-weighted sum of cosines; `inverse` is 1 / tau_c. */
  aggregate(cosines, inverse) {
    const highest = Math.max(...cosines);
    const weights = cosines.map((cosine) => Math.exp((cosine - highest) * inverse));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return cosines.reduce((sum, cosine, k) => sum + weights[k] * cosine, 0) / total;
  },

  /** Bilinear resampling of a map of cells on the padded square to the film's pixels. */
  onFilm(cells, [rows, columns], [height, width]) {
    const side = Math.max(height, width);
    const places = (count, length, cut) =>
      Array.from({ length }, (_, pixel) => {
        const place = Math.max(((pixel + cut + 0.5) * count) / side - 0.5, 0);
        const low = Math.floor(place);
        return [low, Math.min(low + 1, count - 1), place - low];
      });
    const across = places(columns, width, Math.floor((side - width) / 2));
    const down = places(rows, height, Math.floor((side - height) / 2));
    const map = new Float64Array(height * width);
    down.forEach(([above, below, v], y) =>
      across.forEach(([left, right, u], x) => {
        const at = (row, column) => cells[row * columns + column];
        const upper = (1 - u) * at(above, left) + u * at(above, right);
        const lower = (1 - u) * at(below, left) + u * at(below, right);
        map[y * width + x] = (1 - v) * upper + v * lower;
      }),
    );
    return map;
  },

  /** A map to [0, 1] by its own lowest and highest value. */
  stretch(map) {
    const low = Math.min(...map);
    const range = Math.max(Math.max(...map) - low, 1e-12);
    return map.map((value) => (value - low) / range);
  },

  /** A mask from the lengths of its runs, false first. */
  maskOf(runs) {
    return Uint8Array.from(runs.flatMap((length, k) => Array(length).fill(k % 2)));
  },

  /** 2 |A n B| / (|A| + |B|) of the pixels that reach a threshold and of a mask. */
  dice(heat, mask, threshold) {
    let both = 0;
    let total = 0;
    heat.forEach((value, k) => {
      both += value >= threshold && mask[k];
      total += (value >= threshold) + mask[k];
    });
    return total ? (2 * both) / total : 1;
  },

  /** The number of the highest pixel; of several, the first. */
  peak(map) {
    return map.indexOf(Math.max(...map));
  },

  /** The pointing game: a highest pixel lies inside; a constant map misses. */
  points(map, mask) {
    const highest = Math.max(...map);
    return Math.min(...map) < highest && map.some((value, k) => value === highest && mask[k]);
  },

  /** The edges of a region as an SVG path, in pixels. */
  outline(inside, [height, width]) {
    const at = (y, x) => y >= 0 && x >= 0 && y < height && x < width && inside(y * width + x);
    let path = "";
    for (let y = 0; y <= height; y++) {
      for (let x = 0; x <= width; x++) {
        if (at(y, x) !== at(y - 1, x)) path += `M${x} ${y}h1`;
        if (at(y, x) !== at(y, x - 1)) path += `M${x} ${y}v1`;
      }
    }
    return path;
  },
};

if (typeof module !== "undefined") module.exports = measures;
