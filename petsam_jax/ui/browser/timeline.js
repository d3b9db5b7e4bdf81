// The frame slider, and above it which frames are tracked and which have prompts.

import { colourOf } from './store.js';

// The first and last frame are half a slider thumb from the sides.
const INSET = 8;
// As in `video_timeline.py`.
const OUTDATED = 1;

export class Timeline {
  // `onScrub(frame)` is called when the visitor moves the slider.
  constructor(part, onScrub) {
    [this.canvas, this.slider, this.position] = [part('timeline'), part('scrub'), part('position')];
    this.slider.oninput = () => onScrub(Number(this.slider.value));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    this.reset(1);
  }

  reset(count) {
    Object.assign(this, { count, states: new Uint8Array(count), objects: [], fps: 1 });
    this.slider.max = count - 1;
    this.slider.disabled = count < 2;
    this.showFrame(0);
  }

  // From runs of states: 0 not tracked, 1 outdated, 2 tracked.
  setStates(runs) {
    let start = 0;
    for (let i = 0; i < runs.length; i += 2) this.states.fill(runs[i], start, (start += runs[i + 1]));
  }

  showFrame(frame) {
    this.slider.value = frame;
    const seconds = (frame / this.fps).toFixed(1);
    this.position.textContent = `${frame + 1} / ${this.count}`;
    this.slider.setAttribute('aria-valuetext', `frame ${frame + 1} of ${this.count}, ${seconds} seconds`);
  }

  update(objects) {
    this.objects = objects;
    this.draw();
  }

  draw() {
    const { canvas, count, states } = this;
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
      while (end < count && states[end] === states[start]) end += 1;
      context.globalAlpha = states[start] === OUTDATED ? 0.3 : 1;
      if (states[start]) context.fillRect(x(start) - half, height - 4, x(end - 1) - x(start) + 2 * half, 3);
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
