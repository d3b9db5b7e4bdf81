// From runs of labels to coloured pixels and outlines.

// Each pixel's label, 0 for none or i + 1 for objects[i], from [label, length, label, length, ...].
export function unpack({ width, height, runs }) {
  const labels = new Uint8Array(width * height);
  let start = 0;
  for (let i = 0; i < runs.length; i += 2) {
    if (runs[i]) labels.fill(runs[i], start, start + runs[i + 1]);
    start += runs[i + 1];
  }
  return { width, height, labels };
}

// An opaque canvas with each label in its colour; `colours[label]` is '#rrggbb' or nothing.
export function paint({ width, height, labels }, colours) {
  const canvas = new OffscreenCanvas(width, height);
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  // The bytes are red, green, blue and alpha; the first one is the number's lowest.
  const table = Uint32Array.from({ length: 256 }, (_, label) => {
    const hex = colours[label];
    return hex ? (0xff000000 | (parseInt(hex.slice(5, 7), 16) << 16) | (parseInt(hex.slice(3, 5), 16) << 8) | parseInt(hex.slice(1, 3), 16)) >>> 0 : 0;
  });
  for (let i = 0; i < labels.length; i += 1) if (labels[i]) pixels[i] = table[labels[i]];
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

// The outline of each label, as a path in pixels.
export function outlines({ width, height, labels }, count) {
  const paths = Array.from({ length: count + 1 }, () => new Path2D());
  const edge = (label, x0, y0, x1, y1) => {
    if (!label || label > count) return;
    paths[label].moveTo(x0, y0);
    paths[label].lineTo(x1, y1);
  };
  // Along rows: an edge continues while the labels on both sides stay the same.
  for (let y = 0; y <= height; y += 1) {
    let start = 0, above = 0, below = 0;
    for (let x = 0; x <= width; x += 1) {
      const up = x < width && y > 0 ? labels[(y - 1) * width + x] : 0;
      const down = x < width && y < height ? labels[y * width + x] : 0;
      if (up !== above || down !== below) {
        if (above !== below) {
          edge(above, start, y, x, y);
          edge(below, start, y, x, y);
        }
        [start, above, below] = [x, up, down];
      }
    }
  }
  // Down columns: edges stay open from row to row.
  const open = new Int32Array(width + 1).fill(-1);
  const sides = new Uint16Array(width + 1);
  for (let y = 0; y <= height; y += 1) {
    let left = 0;
    for (let x = 0; x <= width; x += 1) {
      const right = x < width && y < height ? labels[y * width + x] : 0;
      const pair = left === right ? 0 : (left << 8) | right;
      if (pair !== sides[x]) {
        if (sides[x]) {
          edge(sides[x] >> 8, x, open[x], x, y);
          edge(sides[x] & 255, x, open[x], x, y);
        }
        [sides[x], open[x]] = [pair, y];
      }
      left = right;
    }
  }
  return paths;
}
