// The slider of frames, and above it which are tracked and where something was said.

import { colourOf } from './store.js';

// Half of the slider's thumb: so far from the sides the first and the last frame are.
const INSET = 8;
const BEFORE = 1;

export class Timeline {
  // `does` has scrub(frame).
  constructor(part, does) {
    [this.canvas, this.slider, this.told] = [part('line'), part('scrub'), part('at')];
    this.slider.oninput = () => does.scrub(Number(this.slider.value));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    this.reset(1);
  }

  reset(count) {
    Object.assign(this, { count, line: new Uint8Array(count), objects: [], fps: 1 });
    this.slider.max = count - 1;
    this.slider.disabled = count < 2;
    this.at(0);
  }

  // From runs of states: 0 not tracked, 1 tracked before the prompts changed, 2 tracked.
  setLine(runs) {
    let at = 0;
    for (let i = 0; i < runs.length; i += 2) this.line.fill(runs[i], at, (at += runs[i + 1]));
  }

  at(frame) {
    this.slider.value = frame;
    const seconds = (frame / this.fps).toFixed(1);
    this.told.textContent = `${frame + 1} / ${this.count}`;
    this.slider.setAttribute('aria-valuetext', `frame ${frame + 1} of ${this.count}, ${seconds} seconds`);
  }

  update(objects) {
    this.objects = objects;
    this.draw();
  }

  draw() {
    const { canvas, count, line } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const context = canvas.getContext('2d');
    context.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    const room = width - 2 * INSET;
    const x = (frame) => INSET + (room * frame) / Math.max(1, count - 1);
    const half = room / Math.max(1, count - 1) / 2;
    context.fillStyle = style.getPropertyValue('--ps-accent');
    for (let start = 0; start < count; ) {
      let end = start + 1;
      while (end < count && line[end] === line[start]) end += 1;
      context.globalAlpha = line[start] === BEFORE ? 0.3 : 1;
      if (line[start]) context.fillRect(x(start) - half, height - 4, x(end - 1) - x(start) + 2 * half, 3);
      start = end;
    }
    context.globalAlpha = 1;
    for (const object of this.objects) {
      context.fillStyle = colourOf(object);
      for (const frame of Object.keys(object.frames ?? {})) {
        context.beginPath();
        context.arc(x(Number(frame)), 4, 3.5, 0, 7);
        context.fill();
      }
    }
  }
}
