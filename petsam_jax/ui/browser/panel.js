// The toolbar's tools and the side panel: lists of clicks, objects and masks, and the settings.

import { TOOLS, isEmpty, readClick } from './prompt_kinds.js';
import { colourOf } from './store.js';

// Shares of the image's area.
const AREAS = [0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05];
const percent = (share) => `${Math.round(100 * share)} %`;
const area = (index) => (AREAS[index] ? `${100 * AREAS[index]} % of area` : 'off');

// setting, label, least, most, step, the values of the steps if they are not the steps, text of a step
const SLIDERS = [
  ['opacity', 'Overlay opacity', 0, 1, 0.05, null, percent],
  ['mask_threshold', 'Mask threshold', 0.05, 0.95, 0.05, null, (v) => v.toFixed(2)],
  ['fill_holes', 'Fill holes up to', 0, AREAS.length - 1, 1, AREAS, area],
  ['remove_islands', 'Remove specks up to', 0, AREAS.length - 1, 1, AREAS, area],
  ['soft', 'Soft edge of cut-outs', 0, 12, 1, null, (v) => `${v} px`],
  ['patch', 'Area read around a click', 1, 31, 2, null, (v) => `${v} × ${v} px`],
  ['pet_threshold', 'Count as pet from', 0.05, 0.95, 0.05, null, percent],
];

const SWITCHES = [
  ['trim', 'Crop to the pet'],
  ['hover', 'Preview on hover'],
];

export const defaults = () => ({ opacity: 0.45, mask_threshold: 0.5, fill_holes: 0.001, remove_islands: 0.001, soft: 0, trim: true, patch: 5, pet_threshold: 0.5, last_click_only: false, hover: true });

// An element with attributes and children; `on...` are listeners.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children);
  return element;
}

function svg(content) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  element.setAttribute('viewBox', '0 0 20 20');
  element.innerHTML = content;
  return element;
}

const closeIcon = () => svg('<use href="#ps-close"/>');

export class Panel {
  // `on` has removeClick(i), select(i), removeObject(i), rename(i, name), choose(i), set(name, value).
  // `texts` has where (of which image or frame), and empty (for an object without prompts).
  constructor(root, on, texts) {
    Object.assign(this, { root, on, texts });
    this.part = (name) => root.querySelector(`[data-${name}]`);
    // Radio buttons with the same name are one group in the whole document.
    this.group = root.dataset.root;
  }

  addTools(isVideo) {
    const tools = Object.entries(TOOLS).filter(([, tool]) => tool.video || !isVideo);
    const labels = tools.map(([name, { label, title, key, icon }], i) => {
      const input = make('input', { type: 'radio', name: `${this.group}-tool`, value: name, checked: i === 0 });
      return make('label', { title: `${title} (${key.toUpperCase()})` }, input, svg(icon), make('span', {}, label));
    });
    this.part('choice=tool').replaceChildren(...labels);
    this.part('tool-keys').textContent = tools.map(([, { key }]) => key.toUpperCase()).join(' ');
  }

  addSettings(settings) {
    // Each tab shows the settings that it has.
    const has = ([name]) => name in settings;
    const rows = SLIDERS.filter(has).map(([name, label, min, max, step, list, text]) => {
      const start = list ? list.indexOf(settings[name]) : settings[name];
      const output = make('output', {}, text(start));
      const input = make('input', {
        type: 'range', min, max, step, value: start, 'data-setting': name,
        oninput: () => {
          output.textContent = text(Number(input.value));
          this.on.set(name, list ? list[input.value] : Number(input.value));
        },
      });
      return make('label', {}, make('span', {}, label), output, input);
    });
    const switches = SWITCHES.filter(has).map(([name, label]) => {
      const input = make('input', { type: 'checkbox', checked: settings[name], 'data-setting': name, onchange: () => this.on.set(name, input.checked) });
      return make('label', { class: 'ps-switch' }, input, make('span', {}, label));
    });
    this.part('settings').replaceChildren(...rows, ...switches);
    const lastClickOnly = this.part('setting=last_click_only');
    if (lastClickOnly) lastClickOnly.onchange = () => this.on.set('last_click_only', lastClickOnly.checked);
  }

  update(doc, prediction) {
    const found = prediction?.objects[doc.active];
    this.fill('clicks', this.clicks(doc.objects[doc.active].clicks, found));
    this.fill('objects', doc.objects.map((object, i) => this.object(object, i, doc, prediction?.objects[i])));
    if (!this.part('candidates')) return;
    this.fill('candidates', (found?.candidates ?? []).map((candidate, i) => this.candidate(candidate, i, found.chosen)));
    this.part('candidates-section').hidden = !found?.candidates.length;
  }

  // Replaces a list's children, and keeps the focus in place.
  fill(name, children) {
    const list = this.part(name);
    const focused = [...list.querySelectorAll('button, input')].indexOf(document.activeElement);
    list.replaceChildren(...children);
    if (focused < 0) return;
    const focusable = list.querySelectorAll('button, input');
    (focusable[Math.min(focused, focusable.length - 1)] ?? this.part('canvas=marks')).focus();
  }

  clicks(clicks, found) {
    return clicks.map(([x, y, label], i) => {
      const read = readClick(clicks, found, i);
      const kind = read ? (read.label ? 'pet' : 'background') : 'unread';
      const name = `${kind} at ${x}, ${y}`;
      const title = `Click ${i + 1}: ${name} (${label === 'auto' ? 'automatic' : 'your choice'})`;
      return make('li', { class: 'ps-chip', title },
        make('b', { class: `ps-${kind}` }),
        make('span', {}, read ? `${percent(read.pet_prob)} pet` : '…'),
        make('button', { type: 'button', 'aria-label': `Remove click ${i + 1}, ${name}`, onclick: () => this.on.removeClick(i) }, closeIcon()));
    });
  }

  object(object, i, doc, found) {
    const name = make('input', { type: 'text', value: object.name, 'aria-label': `Name of object ${i + 1}`, maxlength: 40, onchange: () => this.on.rename(i, name.value) });
    const pick = make('input', { type: 'radio', name: `${this.group}-object`, checked: i === doc.active, 'aria-label': `Select ${object.name}`, onchange: () => this.on.select(i) });
    return make('li', { class: i === doc.active ? 'ps-active' : '' },
      make('label', { class: 'ps-swatch', style: `--ps-colour: ${colourOf(object)}` }, pick),
      name,
      make('span', { class: 'ps-note' }, this.objectNote(object, found)),
      make('button', { class: 'ps-icon', type: 'button', title: 'Remove', 'aria-label': `Remove ${object.name}`, onclick: () => this.on.removeObject(i) }, closeIcon()));
  }

  objectNote(object, found) {
    if (!found) return isEmpty(object) ? this.texts.empty : '…';
    if (found.region === 'background') return 'background';
    const box = found.coverage != null ? `, ${percent(found.coverage)} of box` : '';
    return `${percent(found.share)} of ${this.texts.where}${box}`;
  }

  candidate({ iou, thumbnail }, i, chosen) {
    const input = make('input', { type: 'radio', name: `${this.group}-candidate`, checked: i === chosen, 'aria-label': `Mask ${i + 1}, ${percent(iou)} sure`, onchange: () => this.on.choose(i) });
    const mask = make('i', { style: `--ps-mask: url(${thumbnail}); --ps-aspect: ${this.aspect ?? 1}` });
    return make('label', { title: `Predicted IoU ${iou.toFixed(2)} (press ${i + 1})` }, input, mask, make('span', {}, `${percent(iou)} sure`));
  }
}
