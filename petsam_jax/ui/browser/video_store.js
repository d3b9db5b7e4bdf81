// What the visitor said about a clip: as in `store.js`, but each object has prompts by frame, and the
// active object's prompts are those on the frame that is shown.

import { Store, isEmpty } from './store.js';

const NOTHING = { clicks: [], box: null, strokes: [], find: false, choices: [null, null] };
const MAX_FRAMES = 64;

export class VideoStore extends Store {
  reset() {
    super.reset();
    this.frame = 0;
  }

  get shown() {
    return this.document.objects.map((object) => ({ ...object, ...NOTHING, ...object.frames?.[this.frame] }));
  }

  get isEmpty() {
    return this.document.objects.every((object) => !this.promptsOf(object).length);
  }

  // Frames where something was said about an object.
  promptsOf(object) {
    return Object.keys(object.frames ?? {}).map(Number);
  }

  // On the shown frame, of the active object.
  edit(change) {
    const { document: doc, frame } = this;
    const { clicks, box, find } = { ...this.active, ...change };
    const frames = { ...doc.objects[doc.active].frames };
    if (isEmpty({ clicks, box, find, strokes: [] })) delete frames[frame];
    else frames[frame] = { clicks, box, find };
    if (Object.keys(frames).length > MAX_FRAMES) throw new Error(`At most ${MAX_FRAMES} frames of an object have prompts; take some back.`);
    const objects = doc.objects.slice();
    objects[doc.active] = { ...objects[doc.active], frames };
    this.commit({ ...doc, objects });
  }

  // A document knows the frame where it was made, for undo and redo to lead there.
  commit(document) {
    super.commit({ ...document, frame: this.frame });
  }

  undo() {
    if (this.past.length) this.frame = this.document.frame ?? this.frame;
    super.undo();
  }

  redo() {
    if (this.future.length) this.frame = this.future.at(-1).frame ?? this.frame;
    super.redo();
  }

  clearFrame() {
    if (!isEmpty(this.active)) this.edit(NOTHING);
  }

  state(clip, settings) {
    const objects = this.document.objects.map(({ number, frames }) => ({ number, frames: frames ?? {} }));
    return { clip, frame: this.frame, objects, active: this.document.active, settings };
  }
}
