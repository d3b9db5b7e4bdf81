// The kinds of prompts of an object, and the tools that make them. Everything else on the page reads
// these tables, so a new kind of prompt is an entry here and a field in `page_state.py`.

import { BACKGROUND, PET, UNREAD, drawBox, drawClick, drawStroke } from './drawing.js';

// By the field of an object:
//   empty   its value without a prompt
//   video   whether the video tab has it
//   draw    (context, view, value, { found, colour, near }) draws it; `found` is the object's prediction
//           if there is one, `near` the index of the click under the mouse
export const PROMPT_KINDS = {
  strokes: {
    empty: [],
    draw: (context, view, strokes, { colour }) => strokes.forEach((stroke) => drawStroke(context, view, stroke, colour)),
  },
  box: {
    empty: null,
    video: true,
    draw: (context, view, box, { found }) => box && drawBox(context, view, box, found?.holds_pet == null ? UNREAD : found.holds_pet ? PET : BACKGROUND),
  },
  clicks: {
    empty: [],
    video: true,
    draw: (context, view, clicks, { found, near }) => {
      clicks.forEach(([x, y, label], i) => drawClick(context, view, [x, y], readClick(clicks, found, i)?.label ?? { pet: 1, background: 0 }[label], near === i));
    },
  },
  find: { empty: false, video: true, draw: () => {} },
};

// The label and pet probability of a click. With "Start over with each click" only the last has them.
export function readClick(clicks, found, i) {
  return found?.clicks[i - (clicks.length - found.clicks.length)];
}

// By the tool's name:
//   gesture  what a press on the stage starts: 'click', 'box' (two clicks or a drag), 'stroke' or 'pan'
//   field    of an object, to which a stroke is added
//   icon     SVG in 20 x 20
export const TOOLS = {
  points: {
    label: 'Points', title: 'Click on the animal', key: 'p', gesture: 'click', video: true,
    icon: '<path d="m6 3.5 9.2 7-4.3.7 2.4 4.6-2 1-2.3-4.6L6 15.3z"/>',
  },
  box: {
    label: 'Box', title: 'Draw a box with two clicks or a drag', key: 'b', gesture: 'box', video: true,
    icon: '<path d="M4 5v10M16 5v10M5 4h10M5 16h10"/><circle cx="4" cy="4" r="1.5"/><circle cx="16" cy="16" r="1.5"/><circle cx="16" cy="4" r=".6"/><circle cx="4" cy="16" r=".6"/>',
  },
  paint: {
    label: 'Scribble', title: 'Paint over the animal, or circle it', key: 's', gesture: 'stroke', field: 'strokes',
    icon: '<path d="M16.5 3.5 9 11M9 11c-2.6-.6-4 .8-4.2 2.6-.1 1.2-.8 2-2 2.4 2.6 1.2 6.8.7 7.6-2 .4-1.3-.3-2.5-1.4-3z"/>',
  },
  pan: {
    label: 'Move', title: 'Drag the image, or hold Space', key: 'h', gesture: 'pan', video: true,
    icon: '<path d="M10 2.5v15M2.5 10h15M10 2.5 8 4.5M10 2.5l2 2M10 17.5l-2-2M10 17.5l2-2M2.5 10l2-2M2.5 10l2 2M17.5 10l-2-2M17.5 10l-2 2"/>',
  },
};

// The prompts of an object that has none.
export const NO_PROMPTS = Object.fromEntries(Object.entries(PROMPT_KINDS).map(([name, { empty }]) => [name, empty]));

// Only the prompts of an object; `video` leaves out those that the video tab does not have.
export function promptsOf(object, video = false) {
  return Object.fromEntries(Object.entries(PROMPT_KINDS).filter(([, kind]) => kind.video || !video).map(([name, { empty }]) => [name, object[name] ?? empty]));
}

export function isEmpty(object) {
  return Object.keys(PROMPT_KINDS).every((name) => (Array.isArray(object[name]) ? !object[name].length : !object[name]));
}

export function drawPrompts(context, view, object, details) {
  for (const [name, kind] of Object.entries(PROMPT_KINDS)) kind.draw(context, view, object[name] ?? kind.empty, details);
}
