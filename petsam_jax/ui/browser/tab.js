// What both tabs share: a stage with its tools, a side panel, and a status line. The subclasses add what
// is shown, what is sent to the server, and what their own buttons do.

import { Client } from './client.js';
import { Painter } from './painter.js';
import { Panel } from './panel.js';
import { Stage } from './stage.js';
import { View } from './view.js';

const BUSY_DELAY = 80;

export class Tab {
  // `api` is the path of the tab's requests, `texts` as in `Panel`.
  constructor(root, base, { settings, Store, Stage: OwnStage = Stage, api, texts, isVideo = false }) {
    Object.assign(this, { root, base, settings, image: null, prediction: null });
    this.part = (name) => root.querySelector(`[data-${name}]`);
    this.store = new Store(() => this.changed());
    this.view = new View(this.part('stage'));
    this.painter = new Painter(this.part('stage'), this.view);
    this.client = new Client(base + api, {
      prediction: (prediction, state) => this.predicted(prediction, state),
      error: (error, state) => this.failed(error, state),
      busy: (isBusy) => this.showBusy(isBusy && 'Computing'),
      waiting: (message) => this.showMessage(message, 'waiting'),
      reopened: () => this.reopened?.(),
    });
    this.panel = new Panel(root, {
      removeClick: (i) => this.attempt(() => this.store.removeClick(i)),
      select: (i) => this.store.select(i),
      removeObject: (i) => this.store.removeObject(i),
      rename: (i, name) => this.store.rename(i, name),
      choose: (i) => this.store.choose(i),
      set: (name, value) => this.set(name, value),
    }, texts);
    this.panel.addTools(isVideo);
    this.panel.addSettings(this.settings);
    this.stage = new OwnStage(this, this.part('canvas=marks'));
    this.listen();
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
    document.addEventListener('keydown', (event) => this.isShown && !event.defaultPrevented && this.globalKey(event));
  }

  // Whether this is the selected tab.
  get isShown() {
    return this.root.offsetParent !== null;
  }

  // The stage

  // Prepares for a new image or clip.
  resetTo({ width, height }) {
    this.prediction = null;
    this.store.reset();
    this.view.size = { width, height };
    this.panel.aspect = width / height;
    this.part('stage').style.setProperty('--ps-aspect', width / height);
    this.view.fit();
    this.stage.draft = {};
    this.showZoom();
  }

  refresh() {
    const doc = { objects: this.store.shown, active: this.store.document.active };
    this.painter.scene = { ...doc, prediction: this.prediction, ...this.stage.draft };
    this.painter.redraw();
    this.panel.update(doc, this.prediction);
    for (const [name, isEnabled] of Object.entries(this.enabled())) this.button(name).disabled = !isEnabled;
    this.part('empty').hidden = Boolean(this.painter.image);
  }

  button(name) {
    return this.part(`do=${name}`);
  }

  // Which buttons are enabled.
  enabled() {
    return {
      undo: this.store.past.length, redo: this.store.future.length, find: this.painter.image,
      clear: this.store.document.objects.length > 1 || !this.store.isEmpty, add: this.painter.image,
    };
  }

  // Calls `change`, which moves or zooms the view.
  moveView(change) {
    change();
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
      undo: () => (this.stage.draft.corner ? this.stage.discardDraft() : this.store.undo()),
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

  do(action) {
    if (['find', 'clear', 'add'].includes(action)) this.stage.discardDraft();
    return this.actions()[action]();
  }

  choice(name, value) {
    if (name === 'tool') this.stage.setTool(value);
    else if (name === 'label') this.stage.label = value;
    else if (name === 'show') {
      this.painter.show = value;
      this.painter.redraw();
    }
  }

  set(name, value) {
    this.settings[name] = value;
    if (name === 'opacity') {
      this.painter.opacity = value;
      this.painter.redraw('above');
    } else if (!['hover', 'trim', 'soft'].includes(name)) this.changed();
  }

  // The settings that the server needs, with areas in pixels.
  serverSettings() {
    const { patch, pet_threshold, mask_threshold, last_click_only, fill_holes, remove_islands } = this.settings;
    const { width, height } = this.view.size;
    const pixels = (share) => Math.round(share * width * height);
    return { patch, pet_threshold, mask_threshold, last_click_only, fill_holes: pixels(fill_holes), remove_islands: pixels(remove_islands) };
  }

  // Selects one of a group of radio buttons, if this tab has it.
  pick(choice, value) {
    const input = this.root.querySelector(`[data-choice=${choice}] input[value=${value}]`);
    if (!input) return;
    input.checked = true;
    this.choice(choice, value);
  }

  // Keys that work wherever the focus is, except in a text field.
  globalKey(event) {
    if (event.target.closest?.('input[type=text], textarea, select')) return;
    const control = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    if (control && key === 'z') this.do(event.shiftKey ? 'redo' : 'undo');
    else if (control && key === 'y') this.do('redo');
    else if (event.key === 'Escape') this.stage.discardDraft();
    else return;
    event.preventDefault();
  }

  // The status line

  // Errors become a message.
  async attempt(action) {
    try {
      await action();
    } catch (error) {
      this.showMessage(error.message, 'error');
    }
  }

  showMessage(message, status = '', canRetry = false) {
    this.part('message').textContent = message;
    this.part('status').dataset.status = status;
    this.button('retry').hidden = !canRetry;
  }

  showObjectMessage(found) {
    if (found) this.showMessage(found.message, found.region === 'background' ? 'background' : 'pet');
  }

  // Nothing is shown if it is over within the delay.
  showBusy(message) {
    clearTimeout(this.busyTimer);
    const busy = this.part('busy');
    if (!message) busy.hidden = true;
    else {
      this.part('busy-message').textContent = message;
      this.busyTimer = setTimeout(() => (busy.hidden = false), BUSY_DELAY);
    }
  }
}
