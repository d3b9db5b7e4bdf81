// Turns gestures on the stage into prompts of the active object. Places are in CSS pixels of the stage,
// pixels are the image's.

import { DOT } from './drawing.js';
import { Gestures } from './gestures.js';
import { NO_PROMPTS, TOOLS, isEmpty } from './prompt_kinds.js';
import { colourOf } from './store.js';

// When predictions take longer than this, no preview on hover.
const HINT_WITHIN = 150;
const HINT_DELAY = 40;

export class Stage {
  constructor(tab, canvas) {
    Object.assign(this, { tab, canvas, label: 'auto', tool: TOOLS.points });
    // What is not a prompt yet: a first corner, a box or stroke being drawn, the keyboard's cross, and
    // the click near the mouse.
    this.draft = {};
    const attempt = (name) => (...values) => tab.attempt(() => this[name](...values));
    this.gestures = new Gestures(canvas, tab.view, {
      click: attempt('click'), drag: attempt('drag'), stroke: attempt('stroke'),
      hover: (...place) => this.hover(...place),
      leave: () => this.leave(),
      cancel: () => this.discardDraft(),
      zoom: (...values) => tab.moveView(() => tab.view.zoom(...values)),
      move: (...values) => tab.moveView(() => tab.view.move(...values)),
      key: (event) => this.key(event),
    });
  }

  get isReady() {
    return Boolean(this.tab.painter.image);
  }

  setTool(name) {
    this.tool = TOOLS[name];
    this.gestures.kind = this.tool.gesture;
    this.canvas.parentElement.dataset.tool = name;
    this.discardDraft();
    this.leave();
  }

  // Prompts

  click(x, y, isOpposite) {
    if (!this.isReady) return;
    this.draft.cross = null;
    const near = this.nearClick(x, y);
    const pixel = this.tab.view.pixel(x, y);
    if (near != null) this.tab.store.removeClick(near);
    else if (pixel) this.clickPixel(...pixel, isOpposite);
  }

  clickPixel(x, y, isOpposite) {
    if (this.tool.gesture === 'box' && !isOpposite) return this.setCorner(x, y);
    const opposite = { auto: 'opposite', pet: 'background', background: 'pet' };
    const label = isOpposite ? opposite[this.label] : this.label;
    return this.tab.store.addClick(x, y, label, this.tab.settings.last_click_only);
  }

  setCorner(x, y) {
    const { corner } = this.draft;
    if (!corner) {
      this.draft.corner = [x, y];
      this.tab.showMessage('First corner set. Click on the opposite corner.');
      return this.tab.refresh();
    }
    if (corner[0] === x || corner[1] === y) throw new Error('This box has no area. The second corner must be in another row and column.');
    this.discardDraft();
    return this.tab.store.setBox([...corner, x, y]);
  }

  // With the points tool, the active object's click under the mouse.
  nearClick(x, y) {
    const reach = DOT + (matchMedia('(pointer: coarse)').matches ? 10 : 2);
    return this.tool.gesture === 'click' ? this.nearest(x, y, reach) : null;
  }

  nearest(x, y, within) {
    let [best, distance] = [null, within];
    this.tab.store.active.clicks.forEach(([column, row], i) => {
      const [px, py] = this.tab.view.place(column, row);
      const away = Math.hypot(px - x, py - y);
      if (away <= distance) [best, distance] = [i, away];
    });
    return best;
  }

  drag(x0, y0, x1, y1, isDone) {
    if (!this.isReady) return;
    const { view } = this.tab;
    const box = [...view.pixel(x0, y0, true), ...view.pixel(x1, y1, true)];
    this.draft = { rubber: isDone ? null : box };
    if (!isDone) return this.tab.refresh();
    if (box[0] === box[2] || box[1] === box[3]) {
      this.tab.refresh();
      throw new Error('This box has no area. Drag diagonally.');
    }
    this.tab.store.setBox(box);
  }

  stroke(places, isDone) {
    if (!this.isReady) return;
    const { scale, x, y } = this.tab.view;
    const round = (value) => Math.round(value * 10) / 10;
    const points = places.flatMap(([px, py]) => [round((px - x) / scale - 0.5), round((py - y) / scale - 0.5)]);
    // The same width on the screen at any zoom, about a finger's.
    const stroke = { radius: round(Math.max(0.5, 9 / scale)), points: points.slice(0, 4096) };
    this.draft.stroke = isDone ? null : stroke;
    if (isDone) this.tab.store.addStroke(this.tool.field, stroke);
    else this.tab.refresh();
  }

  discardDraft() {
    this.draft = { cross: this.draft.cross };
    this.tab.refresh();
  }

  // Hover

  hover(x, y) {
    const near = this.nearClick(x, y);
    this.canvas.style.cursor = near != null ? 'pointer' : '';
    if (near !== (this.draft.near ?? null)) {
      this.draft.near = near;
      this.tab.refresh();
    }
    this.hint(near == null && this.tab.view.pixel(x, y));
  }

  leave() {
    clearTimeout(this.hintTimer);
    this.tab.client.stopHint();
    this.tab.painter.setHint(null);
    if (this.draft.near == null) return;
    this.draft.near = null;
    this.tab.refresh();
  }

  // Previews a click, while the object has no prompts and predictions are fast.
  hint(pixel) {
    const { tab } = this;
    clearTimeout(this.hintTimer);
    const isDue = () => tab.image && tab.settings.hover && this.tool.gesture === 'click' && isEmpty(tab.store.active) && !(tab.took > HINT_WITHIN);
    if (!pixel || !isDue()) return tab.painter.setHint(null);
    this.hintTimer = setTimeout(async () => {
      const object = { ...NO_PROMPTS, clicks: [[...pixel, this.label]], choices: [null, null] };
      const sent = performance.now();
      const prediction = await tab.client.hint({ ...tab.state(), objects: [object], active: 0 });
      if (!prediction || tab.client.running || !isDue()) return;
      tab.painter.setHint(prediction, colourOf(tab.store.active));
      if (performance.now() - sent > HINT_WITHIN) tab.took = performance.now() - sent;
    }, HINT_DELAY);
  }

  // Keys, while the stage has the focus

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const { tab } = this;
    const actions = { f: 'find', n: 'add', '+': 'zoom-in', '=': 'zoom-in', '-': 'zoom-out', 0: 'zoom-fit' };
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const tool = Object.keys(TOOLS).find((name) => TOOLS[name].key === key);
    const isChoice = /^[123]$/.test(key) && tab.prediction?.objects[tab.store.document.active]?.candidates?.length;
    if (tool) tab.pick('tool', tool);
    else if (key in actions) tab.attempt(() => tab.do(actions[key]));
    else if (arrows[key]) this.moveCross(...arrows[key], event.shiftKey ? 10 : 1);
    else if (key === 'Enter') tab.attempt(() => this.enter(event.shiftKey));
    else if (key === 'Delete' || key === 'Backspace') this.removeNearest();
    else if (isChoice) tab.store.choose(Number(key) - 1);
    else return false;
    return true;
  }

  // It first appears in the middle.
  moveCross(dx, dy, times) {
    const { view } = this.tab;
    const { width, height } = view.size;
    const within = (value, size) => Math.min(Math.max(value, 0), size - 1);
    // About four pixels of the screen at a time, at any zoom.
    const step = times * Math.max(1, Math.round(4 / view.scale));
    const { cross } = this.draft;
    this.draft.cross = cross ? [within(cross[0] + dx * step, width), within(cross[1] + dy * step, height)] : [Math.floor(width / 2), Math.floor(height / 2)];
    this.tab.refresh();
  }

  enter(isOpposite) {
    if (!this.isReady) return;
    if (this.draft.cross) this.clickPixel(...this.draft.cross, isOpposite);
    else this.moveCross(0, 0, 1);
  }

  // The click nearest to the cross, or the last one if there is no cross.
  removeNearest() {
    const { store, view } = this.tab;
    const index = this.draft.cross ? this.nearest(...view.place(...this.draft.cross), Infinity) : store.active.clicks.length - 1;
    if (index != null && index >= 0) store.removeClick(index);
  }
}
