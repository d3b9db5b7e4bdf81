// Draws the stage: the image (or the result) on one canvas, masks and prompts on the one above.

import { BACKGROUND, PET, UNREAD, drawBox, drawCorner, drawCross, drawStroke } from './drawing.js';
import { outlines, paint, unpack } from './masks.js';
import { drawPrompts } from './prompt_kinds.js';
import { colourOf } from './store.js';

// The backgrounds of cut-outs; as in `backgrounds.py`.
const FILL = { white: '#fff', green: '#00b140', black: '#000', mask: '#000' };

export class Painter {
  constructor(stage, view) {
    this.view = view;
    [this.below, this.above] = ['image', 'marks'].map((name) => stage.querySelector(`[data-canvas=${name}]`));
    Object.assign(this, { image: null, mask: null, hint: null, show: 'overlay', opacity: 0.45, due: { below: false, above: false } });
    this.scene = null;
  }

  setImage(image) {
    Object.assign(this, { image, mask: null, hint: null, result: null });
    this.redraw();
  }

  // The masks of a prediction, and its objects.
  setMask(prediction, objects) {
    const unpacked = unpack(prediction);
    const colours = [null, ...objects.map((object, i) => (prediction.objects[i]?.region === 'background' ? BACKGROUND : colourOf(object)))];
    this.mask = { ...unpacked, colours, canvas: paint(unpacked, colours), paths: outlines(unpacked, objects.length) };
    this.result = null;
    this.redraw();
  }

  clearMask() {
    Object.assign(this, { mask: null, result: null });
    this.redraw();
  }

  // A preview of a click: a prediction with one object, or null.
  setHint(prediction, colour) {
    this.hint = prediction ? { path: outlines(unpack(prediction), 1)[1], width: prediction.width, colour } : null;
    this.redraw('above');
  }

  // Drawn once for the next frame, however often it is called.
  redraw(which = 'both') {
    const idle = !this.due.below && !this.due.above;
    if (which !== 'above') this.due.below = true;
    this.due.above = true;
    if (idle) requestAnimationFrame(() => this.draw());
  }

  draw() {
    const { below } = this.due;
    this.due = { below: false, above: false };
    if (below) this.drawImage();
    this.drawMarks();
    this.drawn?.();
  }

  // A canvas at the screen's resolution; its context is in CSS pixels.
  prepare(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext('2d');
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    return context;
  }

  drawImage() {
    const context = this.prepare(this.below);
    if (!this.image) return;
    const { x, y, scale, size } = this.view;
    const [width, height] = [size.width * scale, size.height * scale];
    context.imageSmoothingEnabled = scale < 4;
    context.imageSmoothingQuality = 'medium';
    if (this.show === 'overlay' || !this.mask) {
      context.drawImage(this.image, x, y, width, height);
      return;
    }
    if (this.show === 'cutout') drawCheckers(context, x, y, width, height);
    context.drawImage(this.resultCanvas(), x, y, width, height);
  }

  // A preview of the file to save, made once per prediction.
  resultCanvas() {
    if (this.result?.show === this.show) return this.result.canvas;
    const { width, height } = this.mask;
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext('2d');
    context.drawImage(this.mask.canvas, 0, 0);
    context.globalCompositeOperation = 'source-in';
    if (this.show === 'mask') {
      context.fillStyle = '#fff';
      context.fillRect(0, 0, width, height);
    } else context.drawImage(this.image, 0, 0, width, height);
    context.globalCompositeOperation = 'destination-over';
    if (this.show === 'blur') context.drawImage(blurred(this.image, width, height), 0, 0, width, height);
    else if (this.show !== 'cutout') {
      context.fillStyle = FILL[this.show];
      context.fillRect(0, 0, width, height);
    }
    this.result = { show: this.show, canvas };
    return canvas;
  }

  drawMarks() {
    const context = this.prepare(this.above);
    if (!this.image || !this.scene) return;
    const { objects, active } = this.scene;
    if (this.show === 'overlay') this.drawMask(context, active);
    if (this.hint) this.drawOutline(context, this.hint.path, this.hint.width, this.hint.colour, true);
    if (this.show === 'overlay') {
      objects.forEach((_, i) => i !== active && this.drawObject(context, i));
      this.drawObject(context, active);
    }
    this.drawDraft(context);
  }

  drawMask(context, active) {
    if (!this.mask) return;
    const { x, y, scale, size } = this.view;
    context.imageSmoothingEnabled = scale < 4;
    context.globalAlpha = this.opacity;
    context.drawImage(this.mask.canvas, x, y, size.width * scale, size.height * scale);
    context.globalAlpha = 1;
    this.mask.paths.forEach((path, label) => label && this.drawOutline(context, path, this.mask.width, this.mask.colours[label], label - 1 !== active));
  }

  // A path in pixels of a mask of that width. A thin light line inside a wider one shows on any fur.
  drawOutline(context, path, width, colour, faint) {
    const { x, y, scale, size } = this.view;
    const pixel = (size.width / width) * scale;
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

  drawObject(context, i) {
    const { objects, active, prediction, near } = this.scene;
    context.globalAlpha = i === active ? 1 : 0.55;
    drawPrompts(context, this.view, objects[i], { found: prediction?.objects[i], colour: colourOf(objects[i]), near: i === active ? near : null });
    context.globalAlpha = 1;
  }

  // What is not a prompt yet: a box or stroke being drawn, a first corner, the keyboard's cross.
  drawDraft(context) {
    const { corner, rubber, stroke, cross, active, objects } = this.scene;
    if (rubber) drawBox(context, this.view, rubber, UNREAD, true);
    if (corner) drawCorner(context, this.view, corner, PET, 6);
    if (stroke) drawStroke(context, this.view, stroke, colourOf(objects[active]));
    if (cross) drawCross(context, this.view, cross);
  }
}

// By halving the image and doubling it again, since not all browsers have canvas filters.
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

function drawCheckers(context, x, y, width, height) {
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
