// Draws the stage: the picture (or the result) on one canvas, masks and prompts on the one above.

import { colourOf } from './store.js';
import { outlines, paint, unpack } from './masks.js';

const PET = '#16a34a';
const BACKGROUND = '#dc2626';
const UNREAD = '#78716c';
// What is put behind a cut-out; as in `backgrounds.py`.
const BEHIND = { white: '#fff', green: '#00b140', black: '#000', mask: '#000' };
export const DOT = 8;

export class Painter {
  constructor(stage, view) {
    this.view = view;
    [this.below, this.above] = ['picture', 'marks'].map((name) => stage.querySelector(`[data-canvas=${name}]`));
    Object.assign(this, { image: null, mask: null, hint: null, show: 'overlay', opacity: 0.45, due: { below: false, above: false } });
    this.scene = null;
  }

  setImage(image) {
    Object.assign(this, { image, mask: null, hint: null, result: null });
    this.redraw();
  }

  // An answer's masks, with the objects that they belong to.
  setMask(answer, objects) {
    const unpacked = unpack(answer);
    const colours = [null, ...objects.map((object, i) => (answer.objects[i]?.region === 'background' ? BACKGROUND : colourOf(object)))];
    this.mask = { ...unpacked, colours, canvas: paint(unpacked, colours), paths: outlines(unpacked, objects.length) };
    this.result = null;
    this.redraw();
  }

  clearMask() {
    Object.assign(this, { mask: null, result: null });
    this.redraw();
  }

  // What a click would give: an answer about one object, or nothing.
  setHint(answer, colour) {
    this.hint = answer ? { path: outlines(unpack(answer), 1)[1], width: answer.width, colour } : null;
    this.redraw('above');
  }

  // Drawn once for the next frame, however often it is asked for.
  redraw(which = 'both') {
    const idle = !this.due.below && !this.due.above;
    if (which !== 'above') this.due.below = true;
    this.due.above = true;
    if (idle) requestAnimationFrame(() => this.draw());
  }

  draw() {
    const { below } = this.due;
    this.due = { below: false, above: false };
    if (below) this.drawPicture();
    this.drawMarks();
    this.drawn?.();
  }

  // A canvas as sharp as the screen; its context is in CSS pixels.
  prepare(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext('2d');
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    return context;
  }

  drawPicture() {
    const context = this.prepare(this.below);
    if (!this.image) return;
    const { x, y, scale, picture } = this.view;
    const [width, height] = [picture.width * scale, picture.height * scale];
    context.imageSmoothingEnabled = scale < 4;
    context.imageSmoothingQuality = 'medium';
    if (this.show === 'overlay' || !this.mask) {
      context.drawImage(this.image, x, y, width, height);
      return;
    }
    if (this.show === 'cutout') checkers(context, x, y, width, height);
    context.drawImage(this.resultCanvas(), x, y, width, height);
  }

  // What will be saved, as far as the screen needs it; made once per answer.
  resultCanvas() {
    if (this.result?.show === this.show) return this.result.canvas;
    const { width, height } = this.mask;
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext('2d');
    const stencil = this.mask.canvas;
    context.drawImage(stencil, 0, 0);
    context.globalCompositeOperation = 'source-in';
    if (this.show === 'mask') {
      context.fillStyle = '#fff';
      context.fillRect(0, 0, width, height);
    } else context.drawImage(this.image, 0, 0, width, height);
    context.globalCompositeOperation = 'destination-over';
    if (this.show === 'blur') context.drawImage(blurred(this.image, width, height), 0, 0, width, height);
    else if (this.show !== 'cutout') {
      context.fillStyle = BEHIND[this.show];
      context.fillRect(0, 0, width, height);
    }
    this.result = { show: this.show, canvas };
    return canvas;
  }

  drawMarks() {
    const context = this.prepare(this.above);
    if (!this.image || !this.scene) return;
    const { objects, active, answer } = this.scene;
    if (this.show === 'overlay') this.drawMask(context, active);
    if (this.hint) this.drawOutline(context, this.hint.path, this.hint.width, this.hint.colour, true);
    if (this.show === 'overlay') objects.forEach((object, i) => i !== active && this.drawPrompts(context, object, answer?.objects[i], false));
    if (this.show === 'overlay') this.drawPrompts(context, objects[active], answer?.objects[active], true);
    this.drawUnderWay(context);
  }

  drawMask(context, active) {
    if (!this.mask) return;
    const { x, y, scale, picture } = this.view;
    context.imageSmoothingEnabled = scale < 4;
    context.globalAlpha = this.opacity;
    context.drawImage(this.mask.canvas, x, y, picture.width * scale, picture.height * scale);
    context.globalAlpha = 1;
    this.mask.paths.forEach((path, label) => label && this.drawOutline(context, path, this.mask.width, this.mask.colours[label], label - 1 !== active));
  }

  // A thin light line within a wider one of the colour: it shows on any fur.
  drawOutline(context, path, width, colour, faint) {
    const { x, y, scale, picture } = this.view;
    const pixel = (picture.width / width) * scale;
    context.save();
    context.translate(x, y);
    context.scale(pixel, pixel);
    context.lineCap = 'round';
    context.strokeStyle = colour;
    context.lineWidth = (faint ? 1.5 : 3) / pixel;
    context.stroke(path);
    if (!faint) {
      context.strokeStyle = 'rgba(255, 255, 255, .9)';
      context.lineWidth = 1 / pixel;
      context.stroke(path);
    }
    context.restore();
  }

  drawPrompts(context, object, told, isActive) {
    context.globalAlpha = isActive ? 1 : 0.55;
    object.strokes.forEach((stroke) => this.drawStroke(context, stroke, colourOf(object)));
    if (object.box) this.drawBox(context, object.box, told && told.holds_pet != null ? (told.holds_pet ? PET : BACKGROUND) : UNREAD);
    const skipped = told ? object.clicks.length - told.reads.length : 0;
    object.clicks.forEach(([column, row, say], i) => {
      const label = told?.reads[i - skipped]?.label ?? { pet: 1, background: 0 }[say];
      this.drawClick(context, column, row, label, isActive && this.scene.near === i);
    });
    context.globalAlpha = 1;
  }

  drawStroke(context, { radius, points }, colour) {
    const { x, y, scale } = this.view;
    context.save();
    context.globalAlpha *= 0.35;
    context.strokeStyle = colour;
    context.lineCap = context.lineJoin = 'round';
    context.lineWidth = 2 * radius * scale;
    context.beginPath();
    for (let i = 0; i < points.length; i += 2) context.lineTo(x + (points[i] + 0.5) * scale, y + (points[i + 1] + 0.5) * scale);
    // A line of one point is a dot.
    context.lineTo(x + (points.at(-2) + 0.5) * scale + 0.01, y + (points.at(-1) + 0.5) * scale);
    context.stroke();
    context.restore();
  }

  drawBox(context, [x0, y0, x1, y1], colour, dashed = false) {
    const { x, y, scale } = this.view;
    const [left, top] = [x + Math.min(x0, x1) * scale, y + Math.min(y0, y1) * scale];
    const [width, height] = [(Math.abs(x1 - x0) + 1) * scale, (Math.abs(y1 - y0) + 1) * scale];
    context.setLineDash(dashed ? [6, 4] : []);
    for (const [style, line] of [['rgba(255, 255, 255, .85)', 4], [colour, 2]]) {
      context.strokeStyle = style;
      context.lineWidth = line;
      context.strokeRect(left, top, width, height);
    }
    context.setLineDash([]);
    this.drawDot(context, ...this.view.place(x0, y0), PET, 5);
    this.drawDot(context, ...this.view.place(x1, y1), BACKGROUND, 5);
  }

  drawDot(context, x, y, colour, radius) {
    context.beginPath();
    context.arc(x, y, radius, 0, 7);
    context.fillStyle = colour;
    context.fill();
    context.lineWidth = 2;
    context.strokeStyle = '#fff';
    context.stroke();
  }

  // Plus and minus too, for who cannot tell green from red.
  drawClick(context, column, row, label, isNear) {
    const [x, y] = this.view.place(column, row);
    context.save();
    context.shadowColor = 'rgba(0, 0, 0, .45)';
    context.shadowBlur = 4;
    this.drawDot(context, x, y, '#fff', DOT);
    context.restore();
    this.drawDot(context, x, y, label == null ? UNREAD : label ? PET : BACKGROUND, DOT);
    context.strokeStyle = '#fff';
    context.lineWidth = 2;
    context.beginPath();
    if (isNear) {
      for (const side of [-1, 1]) context.moveTo(x - 3, y - 3 * side), context.lineTo(x + 3, y + 3 * side);
    } else if (label != null) {
      context.moveTo(x - 4, y), context.lineTo(x + 4, y);
      if (label) context.moveTo(x, y - 4), context.lineTo(x, y + 4);
    }
    context.stroke();
    if (!isNear) return;
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(x, y, DOT + 4, 0, 7);
    context.stroke();
  }

  // A box that is being drawn, a first corner, a stroke, the keyboard's cross.
  drawUnderWay(context) {
    const { corner, rubber, stroke, cross, active, objects } = this.scene;
    if (rubber) this.drawBox(context, rubber, UNREAD, true);
    if (corner) this.drawDot(context, ...this.view.place(...corner), PET, 6);
    if (stroke) this.drawStroke(context, stroke, colourOf(objects[active]));
    if (!cross) return;
    const [x, y] = this.view.place(...cross);
    for (const [style, line] of [['rgba(255, 255, 255, .9)', 4], ['#111', 1.5]]) {
      context.strokeStyle = style;
      context.lineWidth = line;
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + 4 * dx, y + 4 * dy);
        context.lineTo(x + 14 * dx, y + 14 * dy);
      }
      context.stroke();
    }
  }
}

// Halved until a pixel is as wide as the blur, and doubled again: not all browsers have filters.
function blurred(image, width, height) {
  const halvings = Math.max(1, Math.round(Math.log2(Math.max(width, height) / 60)));
  const steps = Array.from({ length: halvings + 1 }, (_, i) => 2 ** -i);
  let canvas = image;
  for (const share of [...steps, ...steps.slice(0, -1).reverse()]) {
    const next = new OffscreenCanvas(Math.max(1, Math.round(width * share)), Math.max(1, Math.round(height * share)));
    next.getContext('2d').drawImage(canvas, 0, 0, next.width, next.height);
    canvas = next;
  }
  return canvas;
}

function checkers(context, x, y, width, height) {
  const tile = new OffscreenCanvas(16, 16);
  const pen = tile.getContext('2d');
  pen.fillStyle = '#fff';
  pen.fillRect(0, 0, 16, 16);
  pen.fillStyle = '#d6d3d1';
  pen.fillRect(0, 0, 8, 8);
  pen.fillRect(8, 8, 8, 8);
  context.fillStyle = context.createPattern(tile, 'repeat');
  context.fillRect(x, y, width, height);
}
