// The page: what the visitor does goes to the store, what the store says goes to the server, what the
// server answers goes to the painter and the panel.

import { Client } from './client.js';
import { Painter } from './painter.js';
import { Panel, defaults } from './panel.js';
import { Photos } from './photos.js';
import { copyResult, saveResult } from './results.js';
import { Stage } from './stage.js';
import { Store, isEmpty } from './store.js';
import { View } from './view.js';

const SIGN_AFTER = 80;
const WHAT_TO_DO = 'Click on the animal, or drag a box round it.';
const RESULTS = { overlay: 'overlay', cutout: 'cut-out', white: 'on white', blur: 'blurred', mask: 'mask' };

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
    this.stage = new Stage(this, this.part('canvas=marks'));
    this.photos = new Photos(this);
    this.listen();
    this.panel.settings(this.values);
    this.refresh();
    this.photos.openExample();
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
    document.addEventListener('keydown', (event) => this.anywhere(event));
  }

  get isShown() {
    return this.root.offsetParent !== null;
  }

  // Pictures

  showPicture(image, { width, height }) {
    this.picture = null;
    this.answer = null;
    this.store.reset();
    this.view.picture = { width, height };
    this.panel.aspect = width / height;
    this.part('stage').style.setProperty('--ps-aspect', width / height);
    this.view.fit();
    this.painter.setImage(image);
    this.stage.under = {};
    this.showZoom();
    this.refresh();
  }

  startPicture(picture) {
    this.picture = picture;
    this.tell(WHAT_TO_DO);
    // What was said while the server was still looking is answered now.
    this.changed();
  }

  // The server did not take it: if it was shown already, there is nothing to show any more.
  losePicture() {
    if (!this.picture) this.painter.setImage(null);
    else this.changed();
    this.refresh();
  }

  // What was said, and what comes of it

  changed() {
    this.painter.setHint(null);
    if (this.store.document.objects.every(isEmpty)) {
      this.client.forget();
      this.answer = null;
      this.painter.clearMask();
      if (this.picture) this.tell(WHAT_TO_DO);
    } else if (this.picture) {
      this.asked = performance.now();
      this.client.ask(this.state());
    }
    this.refresh();
  }

  state() {
    const { opacity, hover, trim, soft, ...settings } = this.values;
    const { width, height } = this.view.picture;
    for (const area of ['fill_holes', 'remove_islands']) settings[area] = Math.round(settings[area] * width * height);
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
    this.painter.scene = { objects: doc.objects, active: doc.active, answer: this.answer, ...this.stage.under };
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

  // The view

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
      undo: () => (this.stage.under.corner ? this.stage.unfinish() : this.store.undo()),
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
    if (['find', 'clear', 'add'].includes(what)) this.stage.unfinish();
    return actions[what]();
  }

  choice(name, value) {
    if (name === 'tool') this.stage.tool = value;
    else if (name === 'say') this.stage.say = value;
    else if (name === 'show') {
      this.painter.show = value;
      this.part('save-label').textContent = `Save ${RESULTS[value]}`;
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
    else if (event.key === 'Escape') this.stage.unfinish();
    else return;
    event.preventDefault();
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
