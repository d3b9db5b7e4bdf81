// Frames of a clip on the stage. The server reads them, so what is shown is what the model sees, and
// masks come with them. However fast one scrubs, one frame is under way, and then the newest asked for.

export class Reel {
  // `app.put(frame, image, answer)` shows one.
  constructor(app) {
    Object.assign(this, { app, clip: null, wanted: null, running: null });
    this.forget();
  }

  open(clip) {
    this.clip = clip;
    this.wanted = null;
    this.forget();
  }

  // Answers that are known, by frame.
  forget() {
    this.answers = new Map();
  }

  // Resolves once this frame, or a newer one, is shown.
  show(frame) {
    this.wanted = frame;
    this.running ??= this.run().finally(() => (this.running = null));
    return this.running;
  }

  async run() {
    while (this.wanted != null) {
      const { clip, wanted: frame } = this;
      this.wanted = null;
      await this.app.attempt(async () => {
        const [image, answer] = await Promise.all([this.image(frame), this.answer(frame)]);
        if (clip === this.clip) this.app.put(frame, image, answer);
      });
    }
  }

  async image(frame) {
    return createImageBitmap(await (await this.get('frame', frame)).blob());
  }

  async answer(frame) {
    if (this.app.store.isEmpty) return null;
    if (!this.answers.has(frame)) await this.learn(frame);
    return this.answers.get(frame);
  }

  // Ask for a frame's masks, and for what is tracked.
  async learn(frame) {
    const { clip } = this;
    const answer = await (await this.get('masks', frame)).json();
    if (clip === this.clip) this.app.heard(answer);
  }

  async get(what, frame) {
    const path = `${what}?clip=${this.clip.id}&frame=${frame}`;
    return this.app.client.patiently(() => this.app.client.get(path), () => this.wanted != null);
  }
}
