// The image tab. Prompts go to the store, its state to the server, and the prediction that comes back to
// the painter and the panel.

import { copyAs, saveAs } from './export.js';
import { ImageOpener } from './image_opener.js';
import { defaults } from './panel.js';
import { Store } from './store.js';
import { Tab } from './tab.js';

const FIRST_STEP = 'Click on the animal, or drag a box around it.';
const SAVE_LABELS = { overlay: 'Save overlay', cutout: 'Save cut-out', white: 'Save with white background', blur: 'Save with blurred background', mask: 'Save mask' };

export function start(element, base) {
  const tab = new ImageTab(element.querySelector('[data-root]'), base);
  // For the browser's developer tools and for tests.
  element.petsam = tab;
  return tab;
}

class ImageTab extends Tab {
  constructor(root, base) {
    super(root, base, { settings: defaults(), Store, api: 'image/', texts: { where: 'photo', empty: 'no clicks yet' } });
    this.opener = new ImageOpener(this);
    const annotations = this.part('annotations');
    annotations.onchange = () => {
      const kind = annotations.value;
      annotations.value = '';
      this.attempt(() => saveAs(this, kind));
    };
    this.refresh();
    this.opener.openExample();
  }

  // Images

  // Shown at once, while the server still encodes it.
  showImage(image, size) {
    this.image = null;
    this.resetTo(size);
    this.painter.setImage(image);
    this.refresh();
  }

  imageOpened(image) {
    this.image = image;
    this.showMessage(FIRST_STEP);
    // Prompts may have been added meanwhile.
    this.changed();
  }

  // The server refused a new image: if it was shown already, nothing is left to show.
  imageRefused() {
    if (!this.image) this.painter.setImage(null);
    else this.changed();
    this.refresh();
  }

  // Prompts and predictions

  changed() {
    this.painter.setHint(null);
    if (this.store.isEmpty) {
      this.client.cancel();
      this.prediction = null;
      this.painter.clearMask();
      if (this.image) this.showMessage(FIRST_STEP);
    } else if (this.image) {
      this.sent = performance.now();
      this.client.segment(this.state());
    }
    this.refresh();
  }

  state() {
    return this.store.state(this.image.id, this.serverSettings());
  }

  predicted(prediction, state) {
    if (state.image !== this.image?.id || this.store.isEmpty) return;
    this.took = performance.now() - this.sent;
    // May lack the newest prompts, which are shown as unread until their prediction comes.
    this.prediction = prediction;
    this.painter.setMask(prediction, this.store.shown);
    this.showObjectMessage(prediction.objects[state.active]);
    this.refresh();
  }

  failed(error, state) {
    if (state.image === this.image?.id) this.showMessage(error.message, 'error', true);
  }

  refresh() {
    super.refresh();
    this.part('annotations').disabled = !this.prediction;
  }

  enabled() {
    return { ...super.enabled(), save: this.prediction, copy: this.prediction };
  }

  actions() {
    return {
      ...super.actions(),
      save: () => saveAs(this, this.painter.show),
      copy: () => copyAs(this, this.painter.show),
    };
  }

  choice(name, value) {
    super.choice(name, value);
    if (name === 'show') this.part('save-label').textContent = SAVE_LABELS[value];
  }
}
