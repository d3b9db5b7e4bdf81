// What the visitor said: objects with their prompts, as an immutable document with a history.
// The browser owns it; every request carries all of it.

export const COLOURS = ['#3b82f6', '#f59e0b', '#a855f7', '#ec4899', '#06b6d4', '#84cc16'];
export const MAX_OBJECTS = 12;
export const MAX_CLICKS = 32;
const MAX_PAST = 300;

export function newObject(number) {
  return { number, name: `Pet ${number}`, clicks: [], box: null, strokes: [], find: false, choices: [null, null] };
}

export function isEmpty(object) {
  return !(object.clicks.length || object.box || object.strokes.length || object.find);
}

export function colourOf(object) {
  return COLOURS[(object.number - 1) % COLOURS.length];
}

export class Store {
  constructor(changed) {
    this.changed = changed;
    this.reset();
  }

  // A new picture: nothing said, nothing to undo.
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

  // Whether nothing was said at all.
  get isEmpty() {
    return this.shown.every(isEmpty);
  }

  // Everything that the visitor can take back goes through here.
  commit(document) {
    this.past.push(this.document);
    if (this.past.length > MAX_PAST) this.past.shift();
    this.future = [];
    this.document = document;
    this.changed();
  }

  // Change the active object.
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

  addClick(x, y, say, alone) {
    const kept = alone ? [] : this.active.clicks;
    if (kept.length >= MAX_CLICKS) throw new Error(`At most ${MAX_CLICKS} clicks to an object; undo some.`);
    this.edit({ clicks: [...kept, [x, y, say]], choices: kept.length ? this.active.choices : [this.active.choices[0], null] });
  }

  removeClick(index) {
    const clicks = this.active.clicks.filter((_, i) => i !== index);
    this.edit({ clicks, choices: index ? this.active.choices : [this.active.choices[0], null] });
  }

  // Corners as they were set: the first is the green dot, the second the red one.
  setBox(box) {
    this.edit({ box, choices: [null, null] });
  }

  addStroke(stroke) {
    this.edit({ strokes: [...this.active.strokes, stroke], choices: [null, null] });
  }

  // From nothing: what was said before would not be "no prompt".
  find() {
    this.edit({ clicks: [], box: null, strokes: [], find: true, choices: [null, null] });
  }

  // The mask is one of the start's three, or of the first click's.
  choose(index) {
    const choices = this.active.choices.slice();
    choices[Math.min(this.active.clicks.length, 1)] = index;
    this.edit({ choices });
  }

  clear() {
    if (this.document.objects.length === 1 && this.isEmpty) return;
    this.commit({ objects: [newObject(1)], active: 0 });
  }

  addObject() {
    const { objects } = this.document;
    if (objects.length >= MAX_OBJECTS) throw new Error(`At most ${MAX_OBJECTS} objects; remove one first.`);
    const number = Math.max(...objects.map((object) => object.number)) + 1;
    this.commit({ objects: [...objects, newObject(number)], active: objects.length });
  }

  removeObject(index) {
    const objects = this.document.objects.filter((_, i) => i !== index);
    if (!objects.length) objects.push(newObject(1));
    const active = Math.min(this.document.active - (index < this.document.active ? 1 : 0), objects.length - 1);
    this.commit({ objects, active });
  }

  // Looking at another object changes nothing that could be undone.
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
  state(picture, settings) {
    const objects = this.document.objects.map(({ clicks, box, strokes, find, choices }) => ({ clicks, box, strokes, find, choices }));
    return { picture, objects, active: this.document.active, settings };
  }
}
