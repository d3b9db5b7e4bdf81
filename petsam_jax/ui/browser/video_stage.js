// The stage of a clip: arrows go from frame to frame, unless the keyboard's cross is there to be moved.

import { Stage } from './stage.js';

const STEPS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };

// How many frames a key leads on, `undefined` if it does not.
export const stepOf = ({ key, shiftKey }) => (key in STEPS ? STEPS[key] * (shiftKey ? 10 : 1) : undefined);

export class VideoStage extends Stage {
  key(event) {
    const step = stepOf(event);
    if (step && !this.under.cross && !(event.ctrlKey || event.metaKey || event.altKey)) {
      this.app.step(step);
      return true;
    }
    if (event.key === 'Escape' && this.under.cross && !this.under.corner) {
      this.under.cross = null;
      this.app.refresh();
      return true;
    }
    return super.key(event);
  }

  // What was begun on another frame does not belong to this one.
  leaveFrame() {
    this.under = { cross: this.under.cross };
    this.canvas.style.cursor = '';
  }
}
