// Where the image is on the stage: one scale and one offset, in CSS pixels.

const MAX_SCALE = 32;
// A small image is not enlarged beyond this to fill the stage.
const MAX_FIT_SCALE = 12;

export class View {
  constructor(stage) {
    Object.assign(this, { stage, size: { width: 1, height: 1 }, scale: 1, x: 0, y: 0, fitted: true });
  }

  get fillScale() {
    const { clientWidth, clientHeight } = this.stage;
    const margin = Math.min(16, clientWidth * 0.02);
    return Math.min((clientWidth - 2 * margin) / this.size.width, (clientHeight - 2 * margin) / this.size.height);
  }

  get fitScale() {
    return Math.min(this.fillScale, MAX_FIT_SCALE);
  }

  fit() {
    this.fitted = true;
    this.scale = this.fitScale;
    this.clampOffset();
  }

  // The stage has a new size.
  resized() {
    if (this.fitted) this.fit();
    else this.clampOffset();
  }

  zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const scale = Math.min(Math.max(this.scale * factor, Math.min(this.fillScale, 1)), Math.max(MAX_SCALE, this.fillScale));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.fitted = Math.abs(scale - this.fitScale) < 1e-6;
    this.scale = scale;
    this.clampOffset();
  }

  move(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.clampOffset();
  }

  // Whether the image is larger than the stage, so that it can be moved.
  get isLarger() {
    return this.size.width * this.scale > this.stage.clientWidth + 1 || this.size.height * this.scale > this.stage.clientHeight + 1;
  }

  // Centred if smaller than the stage; otherwise no edge moves into the stage.
  clampOffset() {
    const clamped = (offset, size, room) => (size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, offset)));
    this.x = clamped(this.x, this.size.width * this.scale, this.stage.clientWidth);
    this.y = clamped(this.y, this.size.height * this.scale, this.stage.clientHeight);
  }

  // The pixel at a place on the stage; `null` outside the image, unless `clamp`.
  pixel(x, y, clamp = false) {
    const column = Math.floor((x - this.x) / this.scale);
    const row = Math.floor((y - this.y) / this.scale);
    const { width, height } = this.size;
    if (clamp) return [Math.min(Math.max(column, 0), width - 1), Math.min(Math.max(row, 0), height - 1)];
    return column >= 0 && row >= 0 && column < width && row < height ? [column, row] : null;
  }

  // The centre of a pixel on the stage.
  place(column, row) {
    return [this.x + (column + 0.5) * this.scale, this.y + (row + 0.5) * this.scale];
  }
}
