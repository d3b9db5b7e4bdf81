// Pictures come in: examples, files chosen, dropped or pasted.

import { examples } from './examples.js';

export class Photos {
  constructor(app) {
    this.app = app;
    this.examples = examples(app.part('examples'), app.base, (name) => this.openExample(name));
    this.listen();
  }

  listen() {
    const { root } = this.app;
    const file = this.app.part('file');
    file.onchange = () => {
      if (file.files[0]) this.open(file.files[0]);
      file.value = '';
    };
    // Entering a part of the page leaves the one around it: counted, it is seen when all is left.
    let depth = 0;
    const over = (change) => (event) => {
      if (![...(event.dataTransfer?.types ?? [])].includes('Files')) return;
      event.preventDefault();
      depth = Math.max(0, depth + change);
      this.app.part('drop').hidden = depth === 0;
    };
    root.addEventListener('dragenter', over(1));
    root.addEventListener('dragover', over(0));
    root.addEventListener('dragleave', over(-1));
    root.addEventListener('drop', (event) => {
      over(-depth)(event);
      if (event.dataTransfer.files[0]) this.open(event.dataTransfer.files[0]);
    });
    document.addEventListener('paste', (event) => {
      const pasted = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith('image/'));
      if (pasted && this.app.isShown) this.open(pasted);
    });
  }

  async openExample(name = this.examples.first) {
    try {
      const response = await fetch(`${this.app.base}files/examples/${name}`);
      await this.open(new File([await response.blob()], name));
    } catch {
      this.app.tell('The example cannot be loaded; is the server still there?', 'error');
    }
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
