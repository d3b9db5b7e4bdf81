// The prompts of a clip: as in `store.js`, but each object has prompts by frame, and the active object's
// prompts are those on the frame that is shown.

import { NO_PROMPTS, isEmpty, promptsOf } from './prompt_kinds.js';
import { Store } from './store.js';

const MAX_FRAMES = 64;

export class VideoStore extends Store {
  reset() {
    super.reset();
    this.frame = 0;
  }

  get shown() {
    return this.document.objects.map((object) => ({ ...object, ...NO_PROMPTS, choices: [null, null], ...object.frames?.[this.frame] }));
  }

  get isEmpty() {
    return this.document.objects.every((object) => !this.promptedFrames(object).length);
  }

  promptedFrames(object) {
    return Object.keys(object.frames ?? {}).map(Number);
  }

  // Changes the active object on the shown frame.
  edit(change) {
    const { document: doc, frame } = this;
    const prompts = promptsOf({ ...this.active, ...change }, true);
    const frames = { ...doc.objects[doc.active].frames };
    if (isEmpty(prompts)) delete frames[frame];
    else frames[frame] = prompts;
    if (Object.keys(frames).length > MAX_FRAMES) throw new Error(`The limit is ${MAX_FRAMES} frames with prompts per object. Clear some.`);
    const objects = doc.objects.slice();
    objects[doc.active] = { ...objects[doc.active], frames };
    this.commit({ ...doc, objects });
  }

  // A document knows the frame on which it was made, so that undo and redo return there.
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
    if (!isEmpty(this.active)) this.edit(NO_PROMPTS);
  }

  state(clip, settings) {
    const objects = this.document.objects.map(({ number, frames }) => ({ number, frames: frames ?? {} }));
    return { clip, frame: this.frame, objects, active: this.document.active, settings };
  }
}
