// The picture tab: what the visitor does goes to the store, what the store says goes to the server,
// what the server answers goes to the painter and the panel.

import { defaults } from './panel.js';
import { Photos } from './image_opener.js';
import { copyResult, saveResult } from './export.js';
import { Store } from './store.js';
import { Workbench } from './tab.js';

const WHAT_TO_DO = 'Click on the animal, or drag a box round it.';
const RESULTS = { overlay: 'overlay', cutout: 'cut-out', white: 'on white', blur: 'blurred', mask: 'mask' };

export function start(element, base) {
  const app = new App(element.querySelector('[data-root]'), base);
  // For who looks in with the browser's tools, tests among them.
  element.petsam = app;
  return app;
}

class App extends Workbench {
  constructor(root, base) {
    super(root, base, { values: defaults(), Store });
    this.photos = new Photos(this);
    const labels = this.part('labels');
    labels.onchange = () => {
      const kind = labels.value;
      labels.value = '';
      this.attempt(() => saveResult(this, kind));
    };
    this.refresh();
    this.photos.openExample();
  }

  // Pictures

  showPicture(image, size) {
    this.picture = null;
    this.sizeUp(size);
    this.painter.setImage(image);
    this.refresh();
  }

  startPicture(picture) {
    this.picture = picture;
    this.tell(WHAT_TO_DO);
    // What was said while the server was still looking is answered now.
    this.changed();
  }

  // The server did not take it: if it was shown already, there is nothing to show any more.
  losePicture() {
    if (!this.picture) this.painter.setImage(null);
    else this.changed();
    this.refresh();
  }

  // What was said, and what comes of it

  changed() {
    this.painter.setHint(null);
    if (this.store.isEmpty) {
      this.client.forget();
      this.answer = null;
      this.painter.clearMask();
      if (this.picture) this.tell(WHAT_TO_DO);
    } else if (this.picture) {
      this.asked = performance.now();
      this.client.ask(this.state());
    }
    this.refresh();
  }

  state() {
    return this.store.state(this.picture.id, this.settings(this.values));
  }

  answered(answer, state) {
    if (state.picture !== this.picture?.id || this.store.isEmpty) return;
    this.took = performance.now() - this.asked;
    // An answer to what was said a moment ago is shown too, with what has come since unread.
    this.answer = answer;
    this.painter.setMask(answer, this.store.shown);
    this.tellAbout(answer.objects[state.active]);
    this.refresh();
  }

  failed(error, state) {
    if (state.picture === this.picture?.id) this.tell(error.message, 'error', true);
  }

  refresh() {
    super.refresh();
    this.part('labels').disabled = !this.answer;
  }

  can() {
    return { ...super.can(), save: this.answer, copy: this.answer };
  }

  actions() {
    return {
      ...super.actions(),
      save: () => saveResult(this, this.painter.show),
      copy: () => copyResult(this, this.painter.show),
    };
  }

  choice(name, value) {
    super.choice(name, value);
    if (name === 'show') this.part('save-label').textContent = `Save ${RESULTS[value]}`;
  }
}
