// The side of the page: lists that follow the document and the answer, and the settings.

import { colourOf, isEmpty } from './store.js';

// Shares of the picture's area.
const AREAS = [0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05];
const percent = (share) => `${Math.round(100 * share)} %`;
const area = (index) => (AREAS[index] ? `${100 * AREAS[index]} % of the picture` : 'none');

// name, label, least, most, step, what the steps stand for if not for themselves, how it is told
const SLIDERS = [
  ['opacity', 'Overlay opacity', 0, 1, 0.05, null, percent],
  ['mask_threshold', 'Mask threshold', 0.05, 0.95, 0.05, null, (v) => v.toFixed(2)],
  ['fill_holes', 'Fill holes up to', 0, AREAS.length - 1, 1, AREAS, area],
  ['remove_islands', 'Remove islands up to', 0, AREAS.length - 1, 1, AREAS, area],
  ['soft', 'Soft edge of cut-outs', 0, 12, 1, null, (v) => `${v} px`],
  ['patch', 'A click looks at', 1, 31, 2, null, (v) => `${v} × ${v} px`],
  ['pet_threshold', 'Pet from', 0.05, 0.95, 0.05, null, (v) => v.toFixed(2)],
];

const SWITCHES = [
  ['trim', 'Trim cut-outs'],
  ['hover', 'Show what a click would give'],
];

export const defaults = () => ({ opacity: 0.45, mask_threshold: 0.5, fill_holes: 0.001, remove_islands: 0.001, soft: 0, trim: true, patch: 5, pet_threshold: 0.5, alone: false, hover: true });

// An element with attributes and children; `on...` are listeners.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children);
  return element;
}

const icon = (name) => {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', `#ps-${name}`);
  svg.append(use);
  return svg;
};

export class Panel {
  // `does` has removeClick(i), select(i), removeObject(i), rename(i, name), choose(i), set(name, value).
  constructor(root, does) {
    this.root = root;
    this.does = does;
    this.part = (name) => root.querySelector(`[data-${name}]`);
    // Radio buttons of one name are one group, wherever in the document they are.
    this.group = root.dataset.root;
    this.nothing = 'nothing yet';
  }

  settings(values) {
    // A tab has the settings that it has values for.
    const has = ([name]) => name in values;
    const rows = SLIDERS.filter(has).map(([name, label, min, max, step, list, tells]) => {
      const start = list ? list.indexOf(values[name]) : values[name];
      const told = make('output', {}, tells(start));
      const input = make('input', {
        type: 'range', min, max, step, value: start, 'data-setting': name,
        oninput: () => {
          told.textContent = tells(Number(input.value));
          this.does.set(name, list ? list[input.value] : Number(input.value));
        },
      });
      return make('label', {}, make('span', {}, label), told, input);
    });
    const switches = SWITCHES.filter(has).map(([name, label]) => {
      const input = make('input', { type: 'checkbox', checked: values[name], 'data-setting': name, onchange: () => this.does.set(name, input.checked) });
      return make('label', { class: 'ps-switch' }, input, make('span', {}, label));
    });
    this.part('settings').replaceChildren(...rows, ...switches);
    const alone = this.root.querySelector('[data-setting=alone]');
    if (alone) alone.onchange = () => this.does.set('alone', alone.checked);
  }

  update(doc, answer) {
    const told = answer?.objects[doc.active];
    this.fill('clicks', this.clicks(doc.objects[doc.active], told));
    this.fill('objects', doc.objects.map((object, i) => this.object(object, i, doc, answer?.objects[i])));
    if (!this.part('candidates')) return;
    this.fill('candidates', (told?.candidates ?? []).map((candidate, i) => this.candidate(candidate, i, told.chosen)));
    this.part('candidates-section').hidden = !told?.candidates.length;
  }

  // New children, with the focus where it was.
  fill(name, children) {
    const list = this.part(name);
    const focused = [...list.querySelectorAll('button, input')].indexOf(document.activeElement);
    list.replaceChildren(...children);
    if (focused < 0) return;
    const focusable = list.querySelectorAll('button, input');
    (focusable[Math.min(focused, focusable.length - 1)] ?? this.root.querySelector('[data-canvas=marks]')).focus();
  }

  clicks(object, told) {
    const skipped = told ? object.clicks.length - told.reads.length : 0;
    return object.clicks.map(([x, y, say], i) => {
      const read = told?.reads[i - skipped];
      const kind = read ? (read.label ? 'pet' : 'background') : 'unread';
      const name = `${kind} at ${x}, ${y}`;
      const title = `Click ${i + 1}: ${name}${say === 'auto' ? ', read from the picture' : ', as you said'}`;
      return make('li', { class: 'ps-chip', title },
        make('b', { class: `ps-${kind}` }),
        make('span', {}, read ? `${percent(read.pet)} pet` : '…'),
        make('button', { type: 'button', 'aria-label': `Remove click ${i + 1}, ${name}`, onclick: () => this.does.removeClick(i) }, icon('close')));
    });
  }

  object(object, i, doc, told) {
    const name = make('input', { type: 'text', value: object.name, 'aria-label': `Name of object ${i + 1}`, maxlength: 40, onchange: () => this.does.rename(i, name.value) });
    const shares = told && [percent(told.share), told.coverage != null && `${percent(told.coverage)} of box`].filter(Boolean).join(', ');
    const facts = !told ? (isEmpty(object) ? this.nothing : '…') : told.region === 'background' ? 'background' : shares;
    const pick = make('input', { type: 'radio', name: `${this.group}-object`, checked: i === doc.active, 'aria-label': `Work on ${object.name}`, onchange: () => this.does.select(i) });
    return make('li', { class: i === doc.active ? 'ps-active' : '' },
      make('label', { class: 'ps-swatch', style: `--ps-colour: ${colourOf(object)}` }, pick),
      name,
      make('span', { class: 'ps-note' }, facts),
      make('button', { class: 'ps-icon', type: 'button', title: 'Remove', 'aria-label': `Remove ${object.name}`, onclick: () => this.does.removeObject(i) }, icon('close')));
  }

  candidate({ iou, picture }, i, chosen) {
    const input = make('input', { type: 'radio', name: `${this.group}-candidate`, checked: i === chosen, 'aria-label': `Mask ${i + 1}, predicted IoU ${iou.toFixed(2)}`, onchange: () => this.does.choose(i) });
    const mask = make('i', { style: `--ps-mask: url(${picture}); --ps-aspect: ${this.aspect ?? 1}` });
    return make('label', { title: `Predicted IoU ${iou.toFixed(2)} (${i + 1})` }, input, mask, make('span', {}, iou.toFixed(2)));
  }
}
