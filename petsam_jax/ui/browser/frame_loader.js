// Loads a clip's frames and their masks. The server decodes the frames, so the page shows exactly what
// the model sees. However fast one scrubs, one frame loads at a time, and then the newest requested.

export class FrameLoader {
  // Calls `tab.showFrame(frame, image, prediction)` for each.
  constructor(tab) {
    Object.assign(this, { tab, clip: null, next: null, running: null });
    this.forget();
  }

  open(clip) {
    this.clip = clip;
    this.next = null;
    this.forget();
  }

  // Drops all known predictions, which are stored by frame.
  forget() {
    this.predictions = new Map();
  }

  // Resolves once this frame, or a newer one, is shown.
  show(frame) {
    this.next = frame;
    this.running ??= this.run().finally(() => (this.running = null));
    return this.running;
  }

  async run() {
    while (this.next != null) {
      const { clip, next: frame } = this;
      this.next = null;
      await this.tab.attempt(async () => {
        const [image] = await Promise.all([this.image(frame), this.prediction(frame)]);
        // Again, since it may have been forgotten while the image was loading.
        const prediction = await this.prediction(frame);
        if (clip === this.clip) this.tab.showFrame(frame, image, prediction);
      });
    }
  }

  async image(frame) {
    return createImageBitmap(await (await this.get('frame', frame)).blob());
  }

  async prediction(frame) {
    const { clip } = this;
    while (clip === this.clip && !this.tab.store.isEmpty) {
      if (this.predictions.has(frame)) return this.predictions.get(frame);
      await this.fetchPrediction(frame);
    }
    return null;
  }

  // Fetches a frame's masks and the timeline; ignores them if `forget` was called meanwhile.
  async fetchPrediction(frame) {
    const { clip, predictions } = this;
    const prediction = await (await this.get('masks', frame)).json();
    if (clip === this.clip && predictions === this.predictions) this.tab.storePrediction(prediction);
  }

  async get(path, frame) {
    const url = `${path}?clip=${this.clip.id}&frame=${frame}`;
    return this.tab.client.withRetries(() => this.tab.client.get(url), () => this.next != null);
  }
}
