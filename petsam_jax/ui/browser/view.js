// Where the picture is on the stage: one scale and one offset, in CSS pixels.

const MOST = 32;

export class View {
  constructor(stage) {
    Object.assign(this, { stage, picture: { width: 1, height: 1 }, scale: 1, x: 0, y: 0, fitted: true });
  }

  get least() {
    const { clientWidth, clientHeight } = this.stage;
    const margin = Math.min(16, clientWidth * 0.02);
    return Math.min((clientWidth - 2 * margin) / this.picture.width, (clientHeight - 2 * margin) / this.picture.height);
  }

  fit() {
    this.fitted = true;
    this.scale = Math.min(this.least, 12);
    this.settle();
  }

  // After the stage has another size.
  resized() {
    if (this.fitted) this.fit();
    else this.settle();
  }

  zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const scale = Math.min(Math.max(this.scale * factor, Math.min(this.least, 1)), Math.max(MOST, this.least));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.fitted = Math.abs(scale - Math.min(this.least, 12)) < 1e-6;
    this.scale = scale;
    this.settle();
  }

  move(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.settle();
  }

  // Whether there is anything to move to.
  get isLarger() {
    return this.picture.width * this.scale > this.stage.clientWidth + 1 || this.picture.height * this.scale > this.stage.clientHeight + 1;
  }

  // In the middle where it is smaller than the stage; no further than its edges where it is larger.
  settle() {
    const axis = (offset, size, room) => (size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, offset)));
    this.x = axis(this.x, this.picture.width * this.scale, this.stage.clientWidth);
    this.y = axis(this.y, this.picture.height * this.scale, this.stage.clientHeight);
  }

  // Pixel under a place on the stage; `null` outside of the picture unless `clamped`.
  pixel(x, y, clamped = false) {
    const column = Math.floor((x - this.x) / this.scale);
    const row = Math.floor((y - this.y) / this.scale);
    const { width, height } = this.picture;
    if (clamped) return [Math.min(Math.max(column, 0), width - 1), Math.min(Math.max(row, 0), height - 1)];
    return column >= 0 && row >= 0 && column < width && row < height ? [column, row] : null;
  }

  // Middle of a pixel on the stage.
  place(column, row) {
    return [this.x + (column + 0.5) * this.scale, this.y + (row + 0.5) * this.scale];
  }
}
