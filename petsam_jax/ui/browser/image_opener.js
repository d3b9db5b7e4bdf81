// Pictures come in: examples, files chosen, dropped or pasted.

import { exampleFile, examples } from './examples.js';
import { takeFiles } from './file_input.js';

// To start with, so that the page is never empty. Where they come from: `examples/CREDITS.md`.
const EXAMPLES = [
  ['kitten.webp', 'A kitten with a ball of wool', 'Photo: Loliloli, public domain'],
  ['dog.webp', 'A German shepherd', 'Photo: Hans Kemperman, public domain'],
  ['chelsea.webp', 'Chelsea the cat', 'Photo: Stéfan van der Walt, CC0'],
];

export class Photos {
  constructor(app) {
    this.app = app;
    this.examples = examples(app.part('examples'), app.base, EXAMPLES, (name) => this.openExample(name));
    takeFiles(app, 'image/', (file) => this.open(file));
  }

  async openExample(name = this.examples.first) {
    const file = await exampleFile(this.app, name);
    if (file) await this.open(file);
  }

  // The newest picture wins over others that are still on their way.
  async open(file) {
    const { app } = this;
    const opening = (this.opening = {});
    // What is still to be asked is about the old picture.
    app.client.forget();
    app.sign('Looking at the photo');
    app.tell('');
    try {
      // Shown at once, while the server is at work on it.
      const local = createImageBitmap(file, { imageOrientation: 'from-image' }).catch(() => null);
      const sent = app.client.open(file);
      sent.catch(() => {});
      const early = await local;
      if (this.opening !== opening) return;
      if (early) app.showPicture(early, early);
      const opened = await sent;
      const fits = early && opened.browser_shows_it && early.width === opened.width && early.height === opened.height;
      const image = fits ? early : await this.upright(opened.picture);
      if (this.opening !== opening) return;
      if (!fits) app.showPicture(image, opened);
      this.examples.mark(file.name);
      app.startPicture({ id: opened.picture, name: file.name || 'photo' });
    } catch (error) {
      if (this.opening !== opening) return;
      app.losePicture();
      app.tell(error.message, 'error');
    } finally {
      if (this.opening === opening) {
        this.opening = null;
        app.sign(app.client.running && 'Computing');
      }
    }
  }

  // For what the browser cannot show, or would not turn as EXIF says.
  async upright(picture) {
    const response = await fetch(`${this.app.base}upright?picture=${picture}`);
    return createImageBitmap(await response.blob());
  }
}
