// The page: what the visitor does goes to the store, what the store says goes to the server, what the
// server answers goes to the painter and the panel.

import { Client } from './client.js';
import { examples } from './examples.js';
import { Gestures } from './gestures.js';
import { DOT, Painter } from './painter.js';
import { Panel, defaults } from './panel.js';
import { copyResult, saveResult } from './results.js';
import { Store, colourOf, isEmpty } from './store.js';
import { View } from './view.js';

// Answers that take longer than this make a hint under the mouse more of a hindrance.
const HINT_WITHIN = 150;
const SIGN_AFTER = 80;

export function start(element, base) {
  const app = new App(element.querySelector('[data-root]'), base);
  // For who looks in with the browser's tools, tests among them.
  element.petsam = app;
  return app;
}

class App {
  constructor(root, base) {
    this.root = root;
    this.base = base;
    this.part = (name) => root.querySelector(`[data-${name}]`);
    this.values = defaults();
    this.picture = null;
    this.answer = null;
    this.say = 'auto';
    this.under = {};
    this.store = new Store(() => this.changed());
    this.view = new View(this.part('stage'));
    this.painter = new Painter(this.part('stage'), this.view);
    this.client = new Client(base, {
      answer: (answer, state) => this.answered(answer, state),
      error: (error, state) => this.failed(error, state),
      busy: (isBusy) => this.sign(isBusy && 'Computing'),
      waiting: (words) => this.tell(words, 'waiting'),
    });
    this.panel = new Panel(root, {
      removeClick: (i) => this.attempt(() => this.store.removeClick(i)),
      select: (i) => this.store.select(i),
      removeObject: (i) => this.store.removeObject(i),
      rename: (i, name) => this.store.rename(i, name),
      choose: (i) => this.store.choose(i),
      set: (name, value) => this.set(name, value),
    });
    this.gestures = new Gestures(this.part('canvas=marks'), this.view, {
      click: (x, y, isOther) => this.attempt(() => this.click(x, y, isOther)),
      drag: (...box) => this.attempt(() => this.drag(...box)),
      stroke: (points, isDone) => this.attempt(() => this.stroke(points, isDone)),
      hover: (x, y) => this.hover(x, y),
      leave: () => this.leave(),
      cancel: () => this.unfinish(),
      zoom: (...how) => this.moveView(() => this.view.zoom(...how)),
      move: (...how) => this.moveView(() => this.view.move(...how)),
      key: (event) => this.key(event),
    });
    this.listen();
    this.panel.settings(this.values);
    this.examples = examples(this.part('examples'), base, (name) => this.openExample(name));
    this.refresh();
    this.openExample(this.examples.first);
  }

  listen() {
    this.root.addEventListener('click', (event) => {
      const button = event.target.closest('[data-do]');
      if (button) this.attempt(() => this.do(button.dataset.do));
    });
    this.root.addEventListener('change', (event) => {
      const choice = event.target.closest('[data-choice]')?.dataset.choice;
      if (choice) this.choice(choice, event.target.value);
    });
    const file = this.part('file');
    file.onchange = () => {
      if (file.files[0]) this.open(file.files[0]);
      file.value = '';
    };
    const labels = this.part('labels');
    labels.onchange = () => {
      const kind = labels.value;
      labels.value = '';
      this.attempt(() => saveResult(this, kind));
    };
    new ResizeObserver(() => {
      this.view.resized();
      this.showZoom();
      this.painter.redraw();
    }).observe(this.part('stage'));
    this.listenForFiles();
    document.addEventListener('keydown', (event) => this.anywhere(event));
  }

  listenForFiles() {
    const drop = this.part('drop');
    let depth = 0;
    const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');
    const over = (change) => (event) => {
      if (!hasFile(event)) return;
      event.preventDefault();
      depth = Math.max(0, depth + change);
      drop.hidden = depth === 0;
    };
    this.root.addEventListener('dragenter', over(1));
    this.root.addEventListener('dragover', over(0));
    this.root.addEventListener('dragleave', over(-1));
    this.root.addEventListener('drop', (event) => {
      over(-99)(event);
      if (event.dataTransfer.files[0]) this.open(event.dataTransfer.files[0]);
    });
    document.addEventListener('paste', (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith('image/'));
      if (file && this.isShown) this.open(file);
    });
  }

  get isShown() {
    return this.root.offsetParent !== null;
  }

  // Pictures

  async openExample(name) {
    if (!name) return;
    const response = await fetch(`${this.base}files/examples/${name}`);
    await this.open(new File([await response.blob()], name));
  }

  async open(file) {
    const opening = (this.opening = {});
    this.client.forget();
    this.sign('Looking at the photo');
    this.tell('');
    try {
      // Shown at once, while the server is at work on it.
      const local = createImageBitmap(file).catch(() => null);
      const sent = this.client.open(file);
      sent.catch(() => {});
      const early = await local;
      if (this.opening !== opening) return;
      if (early) this.showPicture(early, early);
      const opened = await sent;
      const fits = early && opened.browser_shows_it && early.width === opened.width && early.height === opened.height;
      const image = fits ? early : await this.upright(opened);
      if (this.opening !== opening) return;
      if (!fits) this.showPicture(image, opened);
      this.picture = { id: opened.picture, name: file.name || 'photo' };
      this.examples.mark(file.name);
      // What was said while the server was still looking is answered now.
      this.changed();
    } catch (error) {
      if (this.opening !== opening) return;
      // What was shown early is of no use now.
      if (!this.picture) this.painter.setImage(null);
      this.tell(error.message, 'error');
    } finally {
      if (this.opening === opening) {
        this.opening = null;
        this.sign(this.client.running && 'Computing');
        this.refresh();
      }
    }
  }

  async upright({ picture }) {
    const response = await fetch(`${this.base}upright?picture=${picture}`);
    return createImageBitmap(await response.blob());
  }

  showPicture(image, { width, height }) {
    this.picture = null;
    this.answer = null;
    this.under = {};
    this.store.reset();
    this.view.picture = { width, height };
    this.panel.aspect = width / height;
    this.part('stage').style.setProperty('--ps-aspect', width / height);
    this.view.fit();
    this.painter.setImage(image);
    this.showZoom();
    this.refresh();
  }

  // What was said, and what comes of it

  changed() {
    this.painter.setHint(null);
    if (this.store.document.objects.every(isEmpty)) {
      this.client.forget();
      this.answer = null;
      this.painter.clearMask();
      if (this.picture) this.tell('Click on the animal, or drag a box round it.');
    } else if (this.picture) {
      this.asked = performance.now();
      this.client.ask(this.state());
    }
    this.refresh();
  }

  state() {
    const { opacity, hover, trim, soft, ...settings } = this.values;
    return this.store.state(this.picture.id, settings);
  }

  answered(answer, state) {
    if (state.picture !== this.picture?.id || !this.store.document.objects.some((object) => !isEmpty(object))) return;
    this.took = performance.now() - this.asked;
    // An answer to what was said a moment ago is shown too, with what has come since unread.
    this.answer = answer;
    const told = answer.objects[state.active];
    this.painter.setMask(answer, this.store.document.objects);
    if (told) this.tell(told.words, told.region === 'background' ? 'background' : 'pet');
    this.refresh();
  }

  failed(error, state) {
    if (state.picture === this.picture?.id) this.tell(error.message, 'error', true);
  }

  refresh() {
    const { document: doc } = this.store;
    this.painter.scene = { objects: doc.objects, active: doc.active, answer: this.answer, ...this.under };
    this.painter.redraw();
    this.panel.update(doc, this.answer);
    const can = {
      undo: this.store.past.length, redo: this.store.future.length, find: this.painter.image,
      clear: doc.objects.length > 1 || !isEmpty(doc.objects[0]),
      save: this.answer, copy: this.answer, add: this.painter.image,
    };
    for (const [name, yes] of Object.entries(can)) this.root.querySelector(`[data-do=${name}]`).disabled = !yes;
    this.part('labels').disabled = !this.answer;
    this.part('empty').hidden = Boolean(this.painter.image);
  }

  // On the stage; places are in CSS pixels

  click(x, y, isOther) {
    if (!this.painter.image) return;
    this.under.cross = null;
    const near = this.gestures.tool === 'points' ? this.near(x, y) : null;
    const pixel = this.view.pixel(x, y);
    if (near != null) this.store.removeClick(near);
    else if (pixel) this.clickPixel(...pixel, isOther);
  }

  clickPixel(x, y, isOther) {
    if (this.gestures.tool === 'box' && !isOther) return this.setCorner(x, y);
    const other = { auto: 'other', pet: 'background', background: 'pet' };
    this.store.addClick(x, y, isOther ? other[this.say] : this.say, this.values.alone);
  }

  setCorner(x, y) {
    const { corner } = this.under;
    if (!corner) {
      this.under.corner = [x, y];
      this.tell('First corner set. Click on the opposite one.');
      return this.refresh();
    }
    if (corner[0] === x || corner[1] === y) throw new Error('This box has no area: choose a second corner in another row and column.');
    this.unfinish();
    this.store.setBox([...corner, x, y]);
  }

  // Of the active object's clicks the nearest one under the mouse.
  near(x, y, within = DOT + 2) {
    let [best, distance] = [null, within];
    this.store.active.clicks.forEach(([column, row], i) => {
      const [px, py] = this.view.place(column, row);
      const away = Math.hypot(px - x, py - y);
      if (away <= distance) [best, distance] = [i, away];
    });
    return best;
  }

  drag(x0, y0, x1, y1, isDone) {
    if (!this.painter.image) return;
    const box = [...this.view.pixel(x0, y0, true), ...this.view.pixel(x1, y1, true)];
    this.under = { rubber: isDone ? null : box };
    if (!isDone) return this.refresh();
    if (box[0] === box[2] || box[1] === box[3]) {
      this.refresh();
      throw new Error('This box has no area: drag in both directions.');
    }
    this.store.setBox(box);
  }

  stroke(places, isDone) {
    if (!this.painter.image) return;
    const { scale, x, y } = this.view;
    const round = (value) => Math.round(value * 10) / 10;
    const points = places.flatMap(([px, py]) => [round((px - x) / scale - 0.5), round((py - y) / scale - 0.5)]);
    const stroke = { radius: round(Math.max(0.5, 9 / scale)), points: points.slice(0, 4096) };
    this.under.stroke = isDone ? null : stroke;
    if (isDone) this.store.addStroke(stroke);
    else this.refresh();
  }

  unfinish() {
    this.under = { cross: this.under.cross };
    this.refresh();
  }

  hover(x, y) {
    const near = this.gestures.tool === 'points' ? this.near(x, y) : null;
    this.part('canvas=marks').style.cursor = near != null ? 'pointer' : '';
    if (near !== (this.under.near ?? null)) {
      this.under.near = near;
      this.refresh();
    }
    this.hint(near == null && this.view.pixel(x, y));
  }

  leave() {
    clearTimeout(this.hintTimer);
    this.client.stopHint();
    this.painter.setHint(null);
    if (this.under.near != null) {
      this.under.near = null;
      this.refresh();
    }
  }

  // What a click here would give, while nothing has been said of the object and answers come fast.
  hint(pixel) {
    clearTimeout(this.hintTimer);
    const wanted = pixel && this.picture && this.values.hover && this.gestures.tool === 'points' && isEmpty(this.store.active) && !(this.took > HINT_WITHIN);
    if (!wanted) return this.painter.setHint(null);
    this.hintTimer = setTimeout(async () => {
      const state = this.state();
      const active = { clicks: [[...pixel, this.say]], box: null, strokes: [], find: false, choices: [null, null] };
      const asked = performance.now();
      const answer = await this.client.hint({ ...state, objects: [active], active: 0 });
      if (answer && !this.client.running && isEmpty(this.store.active)) this.painter.setHint({ ...answer, active: 0 }, colourOf(this.store.active));
      if (answer && performance.now() - asked > HINT_WITHIN) this.took = performance.now() - asked;
    }, 40);
  }

  moveView(how) {
    how();
    this.showZoom();
    this.painter.redraw();
  }

  showZoom() {
    this.part('zoom').textContent = `${Math.round(100 * this.view.scale)} %`;
  }

  // Buttons, choices and keys

  do(what) {
    const actions = {
      open: () => this.part('file').click(),
      undo: () => (this.under.corner ? this.unfinish() : this.store.undo()),
      redo: () => this.store.redo(),
      clear: () => this.store.clear(),
      find: () => this.store.find(),
      add: () => this.store.addObject(),
      retry: () => this.changed(),
      'zoom-in': () => this.moveView(() => this.view.zoom(1.4)),
      'zoom-out': () => this.moveView(() => this.view.zoom(1 / 1.4)),
      'zoom-fit': () => this.moveView(() => this.view.fit()),
      save: () => saveResult(this, this.painter.show),
      copy: () => copyResult(this, this.painter.show),
    };
    this.unfinishUnless(what);
    return actions[what]();
  }

  unfinishUnless(what) {
    if (['find', 'clear', 'add'].includes(what)) this.under = {};
  }

  choice(name, value) {
    if (name === 'tool') {
      this.gestures.tool = value;
      this.part('stage').dataset.tool = value;
      this.unfinish();
      this.leave();
    } else if (name === 'say') this.say = value;
    else if (name === 'show') {
      this.painter.show = value;
      const names = { overlay: 'overlay', cutout: 'cut-out', white: 'on white', blur: 'blurred', mask: 'mask' };
      this.part('save-label').textContent = `Save ${names[value]}`;
      this.painter.redraw();
    }
  }

  set(name, value) {
    this.values[name] = value;
    if (name === 'opacity') {
      this.painter.opacity = value;
      this.painter.redraw('above');
    } else if (!['hover', 'trim', 'soft'].includes(name)) this.changed();
  }

  pick(choice, value) {
    const input = this.root.querySelector(`[data-choice=${choice}] input[value=${value}]`);
    input.checked = true;
    this.choice(choice, value);
  }

  // Keys that work wherever the focus is, but in a field.
  anywhere(event) {
    if (!this.isShown || event.defaultPrevented || event.target.closest?.('input[type=text], textarea, select')) return;
    const control = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    if (control && key === 'z') this.do(event.shiftKey ? 'redo' : 'undo');
    else if (control && key === 'y') this.do('redo');
    else if (event.key === 'Escape') this.unfinish();
    else return;
    event.preventDefault();
  }

  // Keys on the stage.
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const tools = { p: 'points', b: 'box', s: 'paint', h: 'pan' };
    const acts = { f: 'find', n: 'add', '+': 'zoom-in', '=': 'zoom-in', '-': 'zoom-out', 0: 'zoom-fit' };
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (tools[key]) this.pick('tool', tools[key]);
    else if (key in acts) this.attempt(() => this.do(acts[key]));
    else if (arrows[key]) this.moveCross(...arrows[key], event.shiftKey ? 10 : 1);
    else if (key === 'Enter') this.attempt(() => this.enter(event.shiftKey));
    else if (key === 'Delete' || key === 'Backspace') this.removeNearest();
    else if (/^[123]$/.test(key) && this.answer?.objects[this.store.document.active]?.candidates.length) this.store.choose(Number(key) - 1);
    else return false;
    return true;
  }

  moveCross(dx, dy, times) {
    const { width, height } = this.view.picture;
    const [x, y] = this.under.cross ?? [Math.floor(width / 2), Math.floor(height / 2)];
    // About four pixels of the screen at a time, whatever the zoom.
    const step = times * Math.max(1, Math.round(4 / this.view.scale));
    this.under.cross = this.under.cross ? [Math.min(Math.max(x + dx * step, 0), width - 1), Math.min(Math.max(y + dy * step, 0), height - 1)] : [x, y];
    this.refresh();
  }

  enter(isOther) {
    if (!this.painter.image) return undefined;
    if (!this.under.cross) return this.moveCross(0, 0, 1);
    this.clickPixel(...this.under.cross, isOther);
  }

  removeNearest() {
    const [x, y] = this.under.cross ? this.view.place(...this.under.cross) : [0, 0];
    const near = this.near(x, y, this.under.cross ? Infinity : 0) ?? this.store.active.clicks.length - 1;
    if (near >= 0) this.store.removeClick(near);
  }

  // Words

  // Whatever goes wrong is said on the page.
  async attempt(act) {
    try {
      await act();
    } catch (error) {
      this.tell(error.message, 'error');
    }
  }

  tell(words, kind = '', canRetry = false) {
    this.part('words').textContent = words;
    this.part('status').dataset.status = kind;
    this.root.querySelector('[data-do=retry]').hidden = !canRetry;
  }

  // A sign of activity, unless it is over before it would be seen.
  sign(words) {
    clearTimeout(this.signTimer);
    const sign = this.part('sign');
    if (!words) sign.hidden = true;
    else {
      this.part('sign-words').textContent = words;
      this.signTimer = setTimeout(() => (sign.hidden = false), SIGN_AFTER);
    }
  }
}
