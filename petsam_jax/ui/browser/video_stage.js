// The stage of a clip: arrow keys step through the frames, unless they move the keyboard's cross.

import { Stage } from './stage.js';

const STEPS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };

// By how many frames a key steps, or `undefined`.
export const stepOf = ({ key, shiftKey }) => (key in STEPS ? STEPS[key] * (shiftKey ? 10 : 1) : undefined);

export class VideoStage extends Stage {
  key(event) {
    const step = stepOf(event);
    if (step && !this.draft.cross && !(event.ctrlKey || event.metaKey || event.altKey)) {
      this.tab.player.step(step);
      return true;
    }
    if (event.key === 'Escape' && this.draft.cross && !this.draft.corner) {
      this.draft.cross = null;
      this.tab.refresh();
      return true;
    }
    return super.key(event);
  }

  // A draft that was started on another frame does not belong to this one.
  frameChanged() {
    this.draft = { cross: this.draft.cross };
    this.canvas.style.cursor = '';
  }
}
