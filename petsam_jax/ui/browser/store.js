// The objects and their prompts, as an immutable document with a history for undo. The browser owns it;
// every request carries all of it.

import { NO_PROMPTS, isEmpty, promptsOf } from './prompt_kinds.js';

export const COLOURS = ['#3b82f6', '#f59e0b', '#a855f7', '#ec4899', '#06b6d4', '#84cc16'];
export const MAX_OBJECTS = 12;
export const MAX_CLICKS = 32;
const MAX_HISTORY = 300;

export function newObject(number) {
  return { number, name: `Pet ${number}`, ...NO_PROMPTS, choices: [null, null] };
}

export function colourOf(object) {
  return COLOURS[(object.number - 1) % COLOURS.length];
}

export class Store {
  constructor(changed) {
    this.changed = changed;
    this.reset();
  }

  // For a new image: no prompts, and nothing to undo.
  reset() {
    this.past = [];
    this.future = [];
    this.document = { objects: [newObject(1)], active: 0 };
  }

  // Objects with the prompts that are on the stage.
  get shown() {
    return this.document.objects;
  }

  get active() {
    return this.shown[this.document.active];
  }

  // Whether there are no prompts at all.
  get isEmpty() {
    return this.shown.every(isEmpty);
  }

  // Every change that can be undone goes through here.
  commit(document) {
    this.past.push(this.document);
    if (this.past.length > MAX_HISTORY) this.past.shift();
    this.future = [];
    this.document = document;
    this.changed();
  }

  // Changes the active object.
  edit(change) {
    const objects = this.document.objects.slice();
    objects[this.document.active] = { ...this.active, ...change };
    this.commit({ ...this.document, objects });
  }

  undo() {
    this.travel(this.past, this.future);
  }

  redo() {
    this.travel(this.future, this.past);
  }

  travel(from, to) {
    if (!from.length) return;
    to.push(this.document);
    this.document = from.pop();
    this.changed();
  }

  // Prompts

  addClick(x, y, label, isOnly) {
    const kept = isOnly ? [] : this.active.clicks;
    if (kept.length >= MAX_CLICKS) throw new Error(`The limit is ${MAX_CLICKS} clicks per object. Undo some.`);
    this.edit({ clicks: [...kept, [x, y, label]], choices: kept.length ? this.active.choices : [this.active.choices[0], null] });
  }

  removeClick(index) {
    const clicks = this.active.clicks.filter((_, i) => i !== index);
    this.edit({ clicks, choices: index ? this.active.choices : [this.active.choices[0], null] });
  }

  // A prompt other than a click makes other masks to choose from.
  setPrompt(field, value) {
    this.edit({ [field]: value, choices: [null, null] });
  }

  // The corners in the order in which they were set.
  setBox(box) {
    this.setPrompt('box', box);
  }

  addStroke(field, stroke) {
    this.setPrompt(field, [...this.active[field], stroke]);
  }

  // Without a prompt, so it replaces all others.
  find() {
    this.edit({ ...NO_PROMPTS, find: true, choices: [null, null] });
  }

  // One of three masks: of those before any click, or of those after the first.
  choose(index) {
    const choices = this.active.choices.slice();
    choices[Math.min(this.active.clicks.length, 1)] = index;
    this.edit({ choices });
  }

  clear() {
    if (this.document.objects.length === 1 && this.isEmpty) return;
    this.commit({ objects: [newObject(1)], active: 0 });
  }

  // Objects

  addObject() {
    const { objects } = this.document;
    if (objects.length >= MAX_OBJECTS) throw new Error(`The limit is ${MAX_OBJECTS} objects. Remove one first.`);
    const number = Math.max(...objects.map((object) => object.number)) + 1;
    this.commit({ objects: [...objects, newObject(number)], active: objects.length });
  }

  removeObject(index) {
    const objects = this.document.objects.filter((_, i) => i !== index);
    if (!objects.length) objects.push(newObject(1));
    const active = Math.min(this.document.active - (index < this.document.active ? 1 : 0), objects.length - 1);
    this.commit({ objects, active });
  }

  // Cannot be undone, since it changes no prompt.
  select(index) {
    this.document = { ...this.document, active: index };
    this.changed();
  }

  rename(index, name) {
    const objects = this.document.objects.slice();
    objects[index] = { ...objects[index], name };
    this.document = { ...this.document, objects };
  }

  // For the server, which needs neither names nor colours.
  state(image, settings) {
    const objects = this.document.objects.map((object) => ({ ...promptsOf(object), choices: object.choices }));
    return { image, objects, active: this.document.active, settings };
  }
}
