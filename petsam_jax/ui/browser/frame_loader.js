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
        const [image] = await Promise.all([this.image(frame), this.answer(frame)]);
        // Once more: while the image was on its way the answer may have been forgotten.
        const answer = await this.answer(frame);
        if (clip === this.clip) this.app.put(frame, image, answer);
      });
    }
  }

  async image(frame) {
    return createImageBitmap(await (await this.get('frame', frame)).blob());
  }

  async answer(frame) {
    const { clip } = this;
    while (clip === this.clip && !this.app.store.isEmpty) {
      if (this.answers.has(frame)) return this.answers.get(frame);
      await this.learn(frame);
    }
    return null;
  }

  // Ask for a frame's masks, and for what is tracked. What was forgotten meanwhile is out of date,
  // and so is an answer that was on its way.
  async learn(frame) {
    const { clip, answers } = this;
    const answer = await (await this.get('masks', frame)).json();
    if (clip === this.clip && answers === this.answers) this.app.heard(answer);
  }

  async get(what, frame) {
    const path = `${what}?clip=${this.clip.id}&frame=${frame}`;
    return this.app.client.patiently(() => this.app.client.get(path), () => this.wanted != null);
  }
}
