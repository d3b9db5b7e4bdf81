// What both tabs are made of: a stage with its tools, a side of lists and settings, a line of words.
// A tab says what is shown, what is asked of the server, and what its own buttons do.

import { Client } from './client.js';
import { Painter } from './painter.js';
import { Panel } from './panel.js';
import { Stage } from './stage.js';
import { View } from './view.js';

const SIGN_AFTER = 80;

export class Workbench {
  // `parts`: Store and, if it is another, Stage; `values` of the settings; `asks`, where questions go.
  constructor(root, base, { values, Store, Stage: OwnStage = Stage, asks = '' }) {
    Object.assign(this, { root, base, values, picture: null, answer: null });
    this.part = (name) => root.querySelector(`[data-${name}]`);
    this.store = new Store(() => this.changed());
    this.view = new View(this.part('stage'));
    this.painter = new Painter(this.part('stage'), this.view);
    this.client = new Client(base + asks, {
      answer: (answer, state) => this.answered(answer, state),
      error: (error, state) => this.failed(error, state),
      busy: (isBusy) => this.sign(isBusy && 'Computing'),
      waiting: (words) => this.tell(words, 'waiting'),
      sentAgain: () => this.sentAgain?.(),
    });
    this.panel = new Panel(root, {
      removeClick: (i) => this.attempt(() => this.store.removeClick(i)),
      select: (i) => this.store.select(i),
      removeObject: (i) => this.store.removeObject(i),
      rename: (i, name) => this.store.rename(i, name),
      choose: (i) => this.store.choose(i),
      set: (name, value) => this.set(name, value),
    });
    this.stage = new OwnStage(this, this.part('canvas=marks'));
    this.listen();
    this.panel.settings(this.values);
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
    new ResizeObserver(() => {
      this.view.resized();
      this.showZoom();
      this.painter.redraw();
    }).observe(this.part('stage'));
    document.addEventListener('keydown', (event) => this.isShown && !event.defaultPrevented && this.anywhere(event));
  }

  // Whether this is the tab that is looked at.
  get isShown() {
    return this.root.offsetParent !== null;
  }

  // What is on the stage

  // A picture or a clip takes the place of the one before.
  sizeUp({ width, height }) {
    this.answer = null;
    this.store.reset();
    this.view.picture = { width, height };
    this.panel.aspect = width / height;
    this.part('stage').style.setProperty('--ps-aspect', width / height);
    this.view.fit();
    this.stage.under = {};
    this.showZoom();
  }

  refresh() {
    const doc = { objects: this.store.shown, active: this.store.document.active };
    this.painter.scene = { ...doc, answer: this.answer, ...this.stage.under };
    this.painter.redraw();
    this.panel.update(doc, this.answer);
    for (const [name, yes] of Object.entries(this.can())) this.root.querySelector(`[data-do=${name}]`).disabled = !yes;
    this.part('empty').hidden = Boolean(this.painter.image);
  }

  // Which buttons make sense.
  can() {
    return {
      undo: this.store.past.length, redo: this.store.future.length, find: this.painter.image,
      clear: this.store.document.objects.length > 1 || !this.store.isEmpty, add: this.painter.image,
    };
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

  actions() {
    return {
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
    };
  }

  do(what) {
    if (['find', 'clear', 'add'].includes(what)) this.stage.unfinish();
    return this.actions()[what]();
  }

  choice(name, value) {
    if (name === 'tool') this.stage.tool = value;
    else if (name === 'say') this.stage.say = value;
    else if (name === 'show') {
      this.painter.show = value;
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

  // For the server, areas are in pixels.
  settings({ patch, pet_threshold, mask_threshold, alone }) {
    const { width, height } = this.view.picture;
    const pixels = (share) => Math.round(share * width * height);
    const areas = { fill_holes: pixels(this.values.fill_holes), remove_islands: pixels(this.values.remove_islands) };
    return { patch, pet_threshold, mask_threshold, alone, ...areas };
  }

  // Not all tabs have all tools.
  pick(choice, value) {
    const input = this.root.querySelector(`[data-choice=${choice}] input[value=${value}]`);
    if (!input) return;
    input.checked = true;
    this.choice(choice, value);
  }

  // Keys that work wherever the focus is, but in a field.
  anywhere(event) {
    if (event.target.closest?.('input[type=text], textarea, select')) return;
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

  // What was said of the active object, as its answer tells it.
  tellAbout(told) {
    if (told) this.tell(told.words, told.region === 'background' ? 'background' : 'pet');
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
