// Opens images: examples, and files that are chosen, dropped or pasted.

import { addExamples, exampleFile } from './examples.js';
import { acceptFiles, openError } from './file_input.js';

// So that the page never starts empty. Their sources: `examples/CREDITS.md`.
const EXAMPLES = [
  ['kitten.webp', 'A kitten with a ball of wool', 'Photo: Loliloli, public domain'],
  ['dog.webp', 'A German shepherd', 'Photo: Hans Kemperman, public domain'],
  ['chelsea.webp', 'Chelsea the cat', 'Photo: Stéfan van der Walt, CC0'],
];

export class ImageOpener {
  constructor(tab) {
    this.tab = tab;
    this.examples = addExamples(tab.part('examples'), tab.base, EXAMPLES, (name) => this.openExample(name));
    acceptFiles(tab, 'image/', (file) => this.open(file));
  }

  async openExample(name = this.examples.first) {
    const file = await exampleFile(this.tab, name);
    if (file) await this.open(file);
  }

  // The newest image wins over others that are still opening.
  async open(file) {
    const { tab } = this;
    const opening = (this.opening = {});
    // Requests in the queue are about the old image.
    tab.client.cancel();
    tab.showBusy('Reading the photo');
    tab.showMessage('');
    try {
      // The browser's own decoding is shown until the server is ready.
      const local = createImageBitmap(file, { imageOrientation: 'from-image' }).catch(() => null);
      const sent = tab.client.open(file);
      sent.catch(() => {});
      const early = await local;
      if (this.opening !== opening) return;
      if (early) tab.showImage(early, early);
      const opened = await sent;
      const isSame = early && opened.browser_shows_it && early.width === opened.width && early.height === opened.height;
      const image = isSame ? early : await this.upright(opened.image);
      if (this.opening !== opening) return;
      if (!isSame) tab.showImage(image, opened);
      this.examples.mark(file.name);
      tab.imageOpened({ id: opened.image, name: file.name || 'photo' });
    } catch (error) {
      if (this.opening !== opening) return;
      tab.imageRefused();
      tab.showMessage(openError(file, error), 'error');
    } finally {
      if (this.opening === opening) {
        this.opening = null;
        tab.showBusy(tab.client.running && 'Computing');
      }
    }
  }

  // Where the browser cannot decode the file, or would not turn it upright.
  async upright(image) {
    const response = await fetch(`${this.tab.base}image/upright?image=${image}`);
    return createImageBitmap(await response.blob());
  }
}
