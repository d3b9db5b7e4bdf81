// What happens on the stage: clicks, corners, drags, strokes and keys become prompts of the active
// object. Places are in CSS pixels of the stage, pixels are the picture's.

import { Gestures } from './gestures.js';
import { DOT } from './painter.js';
import { colourOf, isEmpty } from './store.js';

// Answers that take longer than this make a hint under the mouse more of a hindrance.
const HINT_WITHIN = 150;
const HINT_AFTER = 40;

export class Stage {
  constructor(app, canvas) {
    Object.assign(this, { app, canvas, say: 'auto' });
    // What is not yet a prompt: a first corner, a box or stroke being drawn, the keyboard's cross,
    // and the click that the mouse is near to.
    this.under = {};
    const act = (name) => (...how) => app.attempt(() => this[name](...how));
    this.gestures = new Gestures(canvas, app.view, {
      click: act('click'), drag: act('drag'), stroke: act('stroke'),
      hover: (...place) => this.hover(...place),
      leave: () => this.leave(),
      cancel: () => this.unfinish(),
      zoom: (...how) => app.moveView(() => app.view.zoom(...how)),
      move: (...how) => app.moveView(() => app.view.move(...how)),
      key: (event) => this.key(event),
    });
  }

  get isReady() {
    return Boolean(this.app.painter.image);
  }

  set tool(tool) {
    this.gestures.tool = tool;
    this.canvas.parentElement.dataset.tool = tool;
    this.unfinish();
    this.leave();
  }

  // Prompts

  click(x, y, isOther) {
    if (!this.isReady) return;
    this.under.cross = null;
    const near = this.nearClick(x, y);
    const pixel = this.app.view.pixel(x, y);
    if (near != null) this.app.store.removeClick(near);
    else if (pixel) this.clickPixel(...pixel, isOther);
  }

  clickPixel(x, y, isOther) {
    if (this.gestures.tool === 'box' && !isOther) return this.setCorner(x, y);
    const other = { auto: 'other', pet: 'background', background: 'pet' };
    return this.app.store.addClick(x, y, isOther ? other[this.say] : this.say, this.app.values.alone);
  }

  setCorner(x, y) {
    const { corner } = this.under;
    if (!corner) {
      this.under.corner = [x, y];
      this.app.tell('First corner set. Click on the opposite one.');
      return this.app.refresh();
    }
    if (corner[0] === x || corner[1] === y) throw new Error('This box has no area: choose a second corner in another row and column.');
    this.unfinish();
    return this.app.store.setBox([...corner, x, y]);
  }

  // In the points tool, the active object's click that is under the mouse.
  nearClick(x, y) {
    return this.gestures.tool === 'points' ? this.nearest(x, y, DOT + (matchMedia('(pointer: coarse)').matches ? 10 : 2)) : null;
  }

  nearest(x, y, within) {
    let [best, distance] = [null, within];
    this.app.store.active.clicks.forEach(([column, row], i) => {
      const [px, py] = this.app.view.place(column, row);
      const away = Math.hypot(px - x, py - y);
      if (away <= distance) [best, distance] = [i, away];
    });
    return best;
  }

  drag(x0, y0, x1, y1, isDone) {
    if (!this.isReady) return;
    const { view } = this.app;
    const box = [...view.pixel(x0, y0, true), ...view.pixel(x1, y1, true)];
    this.under = { rubber: isDone ? null : box };
    if (!isDone) return this.app.refresh();
    if (box[0] === box[2] || box[1] === box[3]) {
      this.app.refresh();
      throw new Error('This box has no area: drag in both directions.');
    }
    this.app.store.setBox(box);
  }

  stroke(places, isDone) {
    if (!this.isReady) return;
    const { scale, x, y } = this.app.view;
    const round = (value) => Math.round(value * 10) / 10;
    const points = places.flatMap(([px, py]) => [round((px - x) / scale - 0.5), round((py - y) / scale - 0.5)]);
    // As wide as a finger on the screen, whatever the zoom.
    const stroke = { radius: round(Math.max(0.5, 9 / scale)), points: points.slice(0, 4096) };
    this.under.stroke = isDone ? null : stroke;
    if (isDone) this.app.store.addStroke(stroke);
    else this.app.refresh();
  }

  unfinish() {
    this.under = { cross: this.under.cross };
    this.app.refresh();
  }

  // The mouse above it

  hover(x, y) {
    const near = this.nearClick(x, y);
    this.canvas.style.cursor = near != null ? 'pointer' : '';
    if (near !== (this.under.near ?? null)) {
      this.under.near = near;
      this.app.refresh();
    }
    this.hint(near == null && this.app.view.pixel(x, y));
  }

  leave() {
    clearTimeout(this.hintTimer);
    this.app.client.stopHint();
    this.app.painter.setHint(null);
    if (this.under.near == null) return;
    this.under.near = null;
    this.app.refresh();
  }

  // What a click here would give, while nothing has been said of the object and answers come fast.
  hint(pixel) {
    const { app } = this;
    clearTimeout(this.hintTimer);
    const isWanted = () => app.picture && app.values.hover && this.gestures.tool === 'points' && isEmpty(app.store.active) && !(app.took > HINT_WITHIN);
    if (!pixel || !isWanted()) return app.painter.setHint(null);
    this.hintTimer = setTimeout(async () => {
      const said = { clicks: [[...pixel, this.say]], box: null, strokes: [], find: false, choices: [null, null] };
      const asked = performance.now();
      const answer = await app.client.hint({ ...app.state(), objects: [said], active: 0 });
      if (!answer || app.client.running || !isWanted()) return;
      app.painter.setHint(answer, colourOf(app.store.active));
      if (performance.now() - asked > HINT_WITHIN) app.took = performance.now() - asked;
    }, HINT_AFTER);
  }

  // Keys, while the stage has the focus

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const { app } = this;
    const tools = { p: 'points', b: 'box', s: 'paint', h: 'pan' };
    const acts = { f: 'find', n: 'add', '+': 'zoom-in', '=': 'zoom-in', '-': 'zoom-out', 0: 'zoom-fit' };
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const isOne = /^[123]$/.test(key) && app.answer?.objects[app.store.document.active]?.candidates?.length;
    if (tools[key]) app.pick('tool', tools[key]);
    else if (key in acts) app.attempt(() => app.do(acts[key]));
    else if (arrows[key]) this.moveCross(...arrows[key], event.shiftKey ? 10 : 1);
    else if (key === 'Enter') app.attempt(() => this.enter(event.shiftKey));
    else if (key === 'Delete' || key === 'Backspace') this.removeNearest();
    else if (isOne) app.store.choose(Number(key) - 1);
    else return false;
    return true;
  }

  // The first time it comes up in the middle.
  moveCross(dx, dy, times) {
    const { view } = this.app;
    const { width, height } = view.picture;
    const within = (value, size) => Math.min(Math.max(value, 0), size - 1);
    // About four pixels of the screen at a time, whatever the zoom.
    const step = times * Math.max(1, Math.round(4 / view.scale));
    const { cross } = this.under;
    this.under.cross = cross ? [within(cross[0] + dx * step, width), within(cross[1] + dy * step, height)] : [Math.floor(width / 2), Math.floor(height / 2)];
    this.app.refresh();
  }

  enter(isOther) {
    if (!this.isReady) return;
    if (this.under.cross) this.clickPixel(...this.under.cross, isOther);
    else this.moveCross(0, 0, 1);
  }

  // The click next to the cross, or without a cross the last one.
  removeNearest() {
    const { store, view } = this.app;
    const index = this.under.cross ? this.nearest(...view.place(...this.under.cross), Infinity) : store.active.clicks.length - 1;
    if (index != null && index >= 0) store.removeClick(index);
  }
}
